import { Type } from '@fastify/type-provider-typebox';

export const ProblemSchema = Type.Object(
  {
    type: Type.String({ format: 'uri', description: 'Names the kind of problem; stable, fit to branch on.' }),
    title: Type.String({ description: 'The kind of problem in words; the same for every problem of one type.' }),
    status: Type.Integer({ minimum: 400, maximum: 599 }),
    detail: Type.String({ description: 'What happened here, and what to do about it.' }),
    instance: Type.String({ description: 'Path of the request, without its query.' }),
    requestId: Type.String({ description: 'Also in the X-Request-Id header and in the log of the service.' }),
    errors: Type.Optional(
      Type.Array(
        Type.Object({
          field: Type.String({
            description: 'The form field, parameter or file (`images[3]` is the fourth). Its value is never repeated.',
          }),
          detail: Type.String(),
          code: Type.Optional(Type.String({ description: 'Kind of this cause, where a problem has several kinds.' })),
          filename: Type.Optional(Type.String({ description: 'The name that the file came with.' })),
        }),
        { description: 'Everything that is wrong, so that one round of correction is enough.' },
      ),
    ),
  },
  { $id: 'Problem', title: 'Problem', description: 'An RFC 9457 problem document (`application/problem+json`).' },
);
