import { type Static, Type } from '@fastify/type-provider-typebox';
import { KEY_NAME_MAX_LENGTH, SCOPES } from '../../storage/api-keys.js';
import { literals, nullable, PRINTABLE_PATTERN } from './parameters.js';

const strict = { additionalProperties: false };
const time = (description: string) => nullable(Type.String({ format: 'date-time', description }));

const scopes = Type.Array(literals(SCOPES), {
  minItems: 1,
  maxItems: SCOPES.length,
  uniqueItems: true,
  description:
    '`submit`: post orders; `read`: results; `review`: change and sign them; `admin`: keys, webhook endpoints, audit trail, removal. None includes another.',
});

export const KEY_ID_PATTERN = '^[a-z0-9]{12}$';

export const KeyParams = Type.Object(
  { id: Type.String({ pattern: KEY_ID_PATTERN, description: 'Id of the key.', examples: ['k3v9x0q2m7ab'] }) },
  strict,
);

export const ApiKeySchema = Type.Object(
  {
    id: Type.String({ description: 'Also the part of the key behind `lk_`.' }),
    laboratory: Type.String({ description: 'Whose analyses the key sees.' }),
    name: Type.String(),
    scopes: Type.Array(literals(SCOPES)),
    createdAt: Type.String({ format: 'date-time' }),
    createdBy: nullable(Type.String({ description: 'Who made it; null: the command line.' })),
    expiresAt: time('Null: never.'),
    revokedAt: time('Null: it is not revoked.'),
    lastUsedAt: time('To the minute; null: never.'),
    replacedBy: nullable(Type.String({ description: 'The key that a rotation made in its place.' })),
  },
  { $id: 'ApiKey', title: 'ApiKey' },
);

const NewApiKeySchema = Type.Object(
  {
    name: Type.String({
      minLength: 1,
      maxLength: KEY_NAME_MAX_LENGTH,
      pattern: PRINTABLE_PATTERN,
      description: 'For those who read the list.',
      examples: ['LIS, production'],
    }),
    scopes,
    expiresInDays: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 3650, description: 'Absent: the key does not expire.' }),
    ),
  },
  { $id: 'NewApiKey', title: 'NewApiKey', ...strict },
);
/** As a body refers to it. */
export const NewApiKeyBody = Type.Unsafe<Static<typeof NewApiKeySchema>>(Type.Ref('NewApiKey'));

export const keySchemas = [
  NewApiKeySchema,
  ApiKeySchema,
  Type.Object({ items: Type.Array(Type.Ref('ApiKey')) }, { $id: 'ApiKeyList', title: 'ApiKeyList' }),
  Type.Object(
    {
      key: Type.Ref('ApiKey'),
      token: Type.String({ description: 'The key itself. It is told here and never again.' }),
    },
    { $id: 'CreatedApiKey', title: 'CreatedApiKey' },
  ),
];

/** A client has this long to change over, where nothing else is said. */
export const DEFAULT_OVERLAP_SECONDS = 24 * 60 * 60;
export const MAX_OVERLAP_SECONDS = 30 * 24 * 60 * 60;

export const RotateQuery = Type.Object(
  {
    overlapSeconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: MAX_OVERLAP_SECONDS,
        default: DEFAULT_OVERLAP_SECONDS,
        description: 'How long the old key goes on beside the new one.',
      }),
    ),
  },
  strict,
);
