/** Results in the languages of laboratory systems, as far as a contract in JSON schema can state them. */
import { Type } from '@fastify/type-provider-typebox';

export const reportSchemas = [
  Type.Object(
    {
      resourceType: Type.Literal('Bundle'),
      type: Type.Literal('collection'),
      timestamp: Type.String({ format: 'date-time' }),
      entry: Type.Array(
        Type.Object({
          fullUrl: Type.String({ format: 'uri' }),
          resource: Type.Object({ resourceType: Type.String() }, { additionalProperties: true }),
        }),
      ),
    },
    {
      $id: 'FhirBundle',
      title: 'FhirBundle',
      description: 'FHIR R4 Bundle; https://hl7.org/fhir/R4 says what its resources hold.',
    },
  ),
];
