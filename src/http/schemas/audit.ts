import { Type } from '@fastify/type-provider-typebox';
import { cursor, literals, nullable, PRINTABLE_PATTERN, UUID_PATTERN } from './parameters.js';

const strict = { additionalProperties: false };

export const AuditQuerySchema = Type.Object(
  {
    subjectId: Type.Optional(
      Type.String({ pattern: '^[a-z0-9-]{12,36}$', description: 'Only what was done with this analysis or key.' }),
    ),
    actorId: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 255,
        pattern: PRINTABLE_PATTERN,
        description: 'Only what this key, or subject of a token, did.',
      }),
    ),
    from: Type.Optional(Type.String({ format: 'date-time', description: 'Not before this time.' })),
    to: Type.Optional(Type.String({ format: 'date-time', description: 'Before this time.' })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100, description: 'Entries a page.' })),
    cursor: cursor(UUID_PATTERN),
  },
  strict,
);

export const auditSchemas = [
  Type.Object(
    {
      id: Type.String({ format: 'uuid' }),
      at: Type.String({ format: 'date-time' }),
      laboratory: nullable(Type.String({ description: 'Null: nobody was recognised.' })),
      actorKind: literals(['key', 'token', 'open', 'command', 'system', 'none'], {
        description: '`open`: with ACCESS=open. `system`: the service itself, by a retention period.',
      }),
      actorId: nullable(Type.String({ description: 'Id of the key, or subject of the token.' })),
      operation: Type.String({ description: 'Operation id of this contract, or the name of a command.' }),
      method: nullable(Type.String()),
      route: nullable(Type.String({ description: 'Pattern of the address.' })),
      subjectId: nullable(Type.String({ description: 'Analysis or key that it was about.' })),
      status: nullable(Type.Integer({ description: 'HTTP status of the answer.' })),
      outcome: literals(['success', 'refused', 'failed']),
      remote: nullable(Type.String({ description: 'Address of the client.' })),
      requestId: nullable(Type.String({ description: 'Also in the log, and in the X-Request-Id of the answer.' })),
    },
    { $id: 'AuditEntry', title: 'AuditEntry' },
  ),
  Type.Object(
    {
      items: Type.Array(Type.Ref('AuditEntry')),
      nextCursor: nullable(Type.String({ description: 'Null on the last page.' })),
      links: Type.Ref('PageLinks'),
    },
    { $id: 'AuditList', title: 'AuditList' },
  ),
  Type.Object(
    {
      resourceType: Type.Literal('Bundle'),
      type: Type.Literal('searchset'),
      link: Type.Array(Type.Object({ relation: Type.String(), url: Type.String() })),
      entry: Type.Optional(
        Type.Array(
          Type.Object({
            fullUrl: Type.String(),
            resource: Type.Object({ resourceType: Type.String() }, { additionalProperties: true }),
          }),
        ),
      ),
    },
    { $id: 'AuditBundle', title: 'AuditBundle', description: 'FHIR R4 Bundle of AuditEvent resources.' },
  ),
];
