/** Path and query parameters. Everything is bounded, so that nothing unbounded reaches the database. */
import { type Static, type TSchema, Type } from '@fastify/type-provider-typebox';
import { CELL_TYPES } from '../../hematology/cell-types.js';
import { ANALYSIS_STATUSES } from '../../storage/documents.js';

/** Any text that an LIS identifies something by. HL7 v2.5.1 allows 199 characters for the longest of them (EI.1). */
export const IDENTIFIER_MAX_LENGTH = 199;

/** No control characters: NUL does not even fit into PostgreSQL text, the others break labels and HL7 messages. */
export const PRINTABLE_PATTERN = '^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]*$';

export function literals<const T extends readonly string[]>(values: T, options: object = {}) {
  return Type.Unsafe<T[number]>({ type: 'string', enum: [...values], ...options });
}

export const UUID_PATTERN = '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$';
const CELL_ID_PATTERN = '^(0|[1-9][0-9]{0,3})-(0|[1-9][0-9]{0,8})$';

const analysisId = Type.String({
  pattern: UUID_PATTERN,
  description: 'Id of the analysis, as `POST /analyze` answered it.',
  examples: ['0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e'],
});

const imageIndex = Type.Integer({
  minimum: 0,
  maximum: 9999,
  description: 'Index of the image: its place in the request, from 0.',
  examples: [0],
});

const cellId = Type.String({
  pattern: CELL_ID_PATTERN,
  description: 'Id of the cell: index of its image, hyphen, number of the cell.',
  examples: ['0-1'],
});

/** A cursor is the id of the last entry of its page; clients need not know. */
export const cursor = (pattern: string) =>
  Type.Optional(Type.String({ pattern, description: 'Where to go on: `nextCursor` of the page before.' }));

const strict = { additionalProperties: false };

export const AnalysisParams = Type.Object({ id: analysisId }, strict);
export const ImageParams = Type.Object({ id: analysisId, index: imageIndex }, strict);
export const CellParams = Type.Object({ id: analysisId, cellId }, strict);

export const NoQuery = Type.Object({}, strict);

export const AnalysesQuery = Type.Object(
  {
    accessionNumber: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: IDENTIFIER_MAX_LENGTH,
        pattern: PRINTABLE_PATTERN,
        description: 'Only analyses that came with exactly this accession number.',
        examples: ['H-26-001234'],
      }),
    ),
    status: Type.Optional(literals(ANALYSIS_STATUSES, { description: 'Only analyses in this state.' })),
    signed: Type.Optional(
      Type.Boolean({
        description:
          'Only results. `false`: those that wait for a signature (`preliminary`, or `amended`: changed since); `true`: those that are signed as they stand.',
      }),
    ),
    reviewRequired: Type.Optional(
      Type.Boolean({ description: 'Only results. `true`: those that a person must look at; `false`: the others.' }),
    ),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 20, description: 'Analyses a page.' })),
    cursor: cursor(UUID_PATTERN),
  },
  strict,
);
export type AnalysesQuery = Static<typeof AnalysesQuery>;

export const CellsQuery = Type.Object(
  {
    image: Type.Optional(
      Type.Integer({ minimum: 0, maximum: 9999, description: 'Only cells of the image with this index.' }),
    ),
    class: Type.Optional(literals(CELL_TYPES, { description: 'Only cells of this class.' })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100, description: 'Cells a page.' })),
    cursor: cursor(CELL_ID_PATTERN),
  },
  strict,
);
export type CellsQuery = Static<typeof CellsQuery>;

/** Request headers are never refused for their content: an unreadable preference is ignored, as its RFC says. */
export const PreferHeader = Type.Object({
  prefer: Type.Optional(
    Type.String({
      description:
        '`wait=N` (RFC 7240): answer with the finished analysis if it is finished within N seconds; capped by MAX_WAIT_SECONDS.',
      examples: ['wait=10'],
    }),
  ),
});

export const IdempotencyKeyHeader = Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({
      description:
        'Names this order (draft-ietf-httpapi-idempotency-key-header), 1 to 255 printable characters, quoted or not: sent again with the same fields and images, it is answered as the first time. Remembered for IDEMPOTENCY_HOURS.',
      examples: ['"7f3a5c1e-order-26-001234"'],
    }),
  ),
});

export const IfNoneMatchHeader = Type.Object({
  'if-none-match': Type.Optional(
    Type.String({ description: 'An ETag answered before; 304 when nothing has changed.' }),
  ),
});

export const IfMatchHeader = Type.Object({
  'if-match': Type.Optional(
    Type.String({
      description: 'The ETag of GET /analyses/{id} that the change is based on; 428 without it, 412 when it is old.',
    }),
  ),
});

export function nullable<T extends TSchema>(schema: T) {
  return Type.Union([schema, Type.Null()]);
}
