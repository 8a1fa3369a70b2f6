/** Endpoints that receive events, the events, and what became of their deliveries. */
import { type Static, Type } from '@fastify/type-provider-typebox';
import { WEBHOOK_EVENT_TYPES, type WebhookEventType } from '../../reporting/webhook-event.js';
import { DELIVERY_STATUSES } from '../../storage/deliveries.js';
import { cursor, literals, nullable, PRINTABLE_PATTERN, UUID_PATTERN } from './parameters.js';

const asPosted = nullable(Type.String({ description: 'As posted.' }));
const dateTime = (description: string) => Type.String({ format: 'date-time', description });
const strict = { additionalProperties: false };

export const ENDPOINT_LIMITS = {
  urlLength: 2048,
  descriptionLength: 200,
  /** A week: longer than any change of a receiver's configuration should take. */
  overlapSeconds: 7 * 24 * 3600,
  defaultOverlapSeconds: 24 * 3600,
} as const;

const WebhookEventSchema = Type.Object(
  {
    type: literals(WEBHOOK_EVENT_TYPES),
    timestamp: dateTime('When it happened; the same over all attempts.'),
    data: Type.Object({
      id: Type.String({ format: 'uuid', description: 'Id of the analysis.' }),
      status: literals(['completed', 'failed']),
      accessionNumber: asPosted,
      specimenId: asPosted,
      orderId: asPosted,
      totalWbc: nullable(Type.Integer({ minimum: 0, description: 'Null when the analysis failed.' })),
      reviewRequired: nullable(Type.Boolean({ description: 'Null when the analysis failed.' })),
      links: Type.Object({
        self: Type.String({ format: 'uri-reference', description: 'Below PUBLIC_URL, where that is configured.' }),
        cells: Type.String({ format: 'uri-reference' }),
      }),
    }),
  },
  {
    $id: 'WebhookEvent',
    title: 'WebhookEvent',
    description: 'Says that something happened, and where the result is; the result itself is fetched.',
  },
);

const PingEventSchema = Type.Object(
  {
    type: literals(['webhook.ping']),
    timestamp: dateTime('When it was asked for.'),
    data: Type.Object({ endpointId: Type.String({ format: 'uuid' }) }),
  },
  { $id: 'PingEvent', title: 'PingEvent', description: 'A test that an integrator asked for; nothing happened.' },
);

const url = Type.String({
  minLength: 1,
  maxLength: ENDPOINT_LIMITS.urlLength,
  description:
    'Where events are posted to: http or https, without credentials. A private address has to lie in WEBHOOK_ALLOW_NETWORKS.',
  examples: ['https://lis.example/hooks/leukodiff'],
});
const description = Type.String({
  maxLength: ENDPOINT_LIMITS.descriptionLength,
  pattern: PRINTABLE_PATTERN,
  description: 'For people; empty removes it.',
});
const eventTypes = Type.Array(literals(WEBHOOK_EVENT_TYPES), {
  minItems: 1,
  maxItems: WEBHOOK_EVENT_TYPES.length,
  uniqueItems: true,
  description: 'The events that it receives.',
});

const every: readonly WebhookEventType[] = WEBHOOK_EVENT_TYPES;

const NewEndpointSchema = Type.Object(
  {
    url,
    description: Type.Optional(description),
    eventTypes: Type.Optional(
      Type.Array(literals(WEBHOOK_EVENT_TYPES), { ...eventTypes, default: [...every], description: 'Default: all.' }),
    ),
  },
  { $id: 'NewWebhookEndpoint', title: 'NewWebhookEndpoint', ...strict },
);
/** As a body refers to it. */
export const NewEndpointBody = Type.Unsafe<Static<typeof NewEndpointSchema>>(Type.Ref('NewWebhookEndpoint'));

const EndpointChangeSchema = Type.Object(
  {
    url: Type.Optional(url),
    description: Type.Optional(description),
    eventTypes: Type.Optional(eventTypes),
    enabled: Type.Optional(
      Type.Boolean({ description: 'Enabling it forgets past failures; what it missed can be replayed.' }),
    ),
  },
  { $id: 'WebhookEndpointChange', title: 'WebhookEndpointChange', ...strict },
);

export const EndpointChangeBody = Type.Unsafe<Static<typeof EndpointChangeSchema>>(Type.Ref('WebhookEndpointChange'));

const endpointFields = {
  id: Type.String({ format: 'uuid' }),
  url: Type.String({ format: 'uri' }),
  description: nullable(Type.String()),
  eventTypes: Type.Array(literals(WEBHOOK_EVENT_TYPES)),
  enabled: Type.Boolean(),
  disabledAt: nullable(dateTime('Null: it is enabled.')),
  disabledReason: nullable(
    literals(['requested', 'gone', 'failing'], {
      description:
        '`gone`: it answered 410. `failing`: it received nothing for WEBHOOK_DISABLE_AFTER_DAYS although it was tried.',
    }),
  ),
  failingSince: nullable(dateTime('Since when no attempt has succeeded; null: the last one did, or none was made.')),
  lastDeliveredAt: nullable(dateTime('When it last received something.')),
  previousSecretUntil: nullable(dateTime('Until when the secret before the present one signs as well.')),
  createdAt: dateTime('When it was registered.'),
  updatedAt: dateTime('When it was last changed.'),
  links: Type.Object({
    self: Type.String({ format: 'uri-reference' }),
    deliveries: Type.String({ format: 'uri-reference' }),
  }),
};

const Endpoint = Type.Object(endpointFields, { $id: 'WebhookEndpoint', title: 'WebhookEndpoint' });

const EndpointWithSecret = Type.Object(
  {
    ...endpointFields,
    secret: Type.String({
      pattern: '^whsec_',
      description: 'Verifies the signatures. It is shown here and never again.',
    }),
  },
  { $id: 'WebhookEndpointWithSecret', title: 'WebhookEndpointWithSecret' },
);

const EndpointList = Type.Object(
  { items: Type.Array(Type.Ref('WebhookEndpoint')) },
  { $id: 'WebhookEndpointList', title: 'WebhookEndpointList' },
);

const deliveryFields = {
  id: Type.String({ format: 'uuid' }),
  messageId: Type.String({ description: 'The `webhook-id` header of all its attempts, replays included.' }),
  eventType: literals([...WEBHOOK_EVENT_TYPES, 'webhook.ping']),
  analysisId: nullable(Type.String({ format: 'uuid', description: 'Null for a test ping.' })),
  endpointId: nullable(Type.String({ format: 'uuid', description: "Null for an order's own callback address." })),
  url: Type.String({ format: 'uri', description: 'Where the last attempt went, or the first will go.' }),
  status: literals(DELIVERY_STATUSES, {
    description: '`failed`: given up, after the last attempt or because its endpoint is disabled. It can be replayed.',
  }),
  attempts: Type.Integer({ minimum: 0, description: 'Since the beginning, or since the last replay.' }),
  nextAttemptAt: nullable(dateTime('Null: no attempt is to be made.')),
  lastStatus: nullable(Type.Integer({ description: 'HTTP status of the last answer; null: there was none.' })),
  lastError: nullable(Type.String({ description: 'Why the last attempt failed.' })),
  createdAt: dateTime('When the event happened.'),
  deliveredAt: nullable(dateTime('When it was received.')),
  links: Type.Object({ self: Type.String({ format: 'uri-reference' }) }),
};

const DeliverySummary = Type.Object(deliveryFields, { $id: 'WebhookDeliverySummary', title: 'WebhookDeliverySummary' });

const Delivery = Type.Object(
  {
    ...deliveryFields,
    attemptLog: Type.Array(
      Type.Object({
        at: dateTime('When it ended.'),
        durationMs: Type.Integer({ minimum: 0 }),
        httpStatus: nullable(Type.Integer()),
        error: nullable(Type.String({ description: 'Null: it was received.' })),
      }),
      { description: 'Every attempt, the newest first; at most 100.' },
    ),
  },
  { $id: 'WebhookDelivery', title: 'WebhookDelivery' },
);

const DeliveryList = Type.Object(
  {
    items: Type.Array(Type.Ref('WebhookDeliverySummary')),
    nextCursor: nullable(Type.String({ description: 'Null on the last page.' })),
    links: Type.Ref('PageLinks'),
  },
  { $id: 'WebhookDeliveryList', title: 'WebhookDeliveryList' },
);

const Replayed = Type.Object(
  {
    replayed: Type.Integer({ minimum: 0, description: 'Deliveries that begin again.' }),
    more: Type.Boolean({ description: 'There may be more: replay again.' }),
  },
  { $id: 'WebhookReplay', title: 'WebhookReplay' },
);

export const webhookSchemas = [
  WebhookEventSchema,
  PingEventSchema,
  NewEndpointSchema,
  EndpointChangeSchema,
  Endpoint,
  EndpointWithSecret,
  EndpointList,
  DeliverySummary,
  Delivery,
  DeliveryList,
  Replayed,
];

const uuid = (what: string) =>
  Type.String({ pattern: UUID_PATTERN, description: what, examples: ['0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e'] });

export const EndpointParams = Type.Object({ id: uuid('Id of the endpoint.') }, strict);
export const DeliveryParams = Type.Object({ id: uuid('Id of the delivery.') }, strict);

export const DeliveriesQuery = Type.Object(
  {
    status: Type.Optional(literals(DELIVERY_STATUSES, { description: 'Only deliveries in this state.' })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 20, description: 'Deliveries a page.' })),
    cursor: cursor(UUID_PATTERN),
  },
  strict,
);

export const RotationQuery = Type.Object(
  {
    overlapSeconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: ENDPOINT_LIMITS.overlapSeconds,
        default: ENDPOINT_LIMITS.defaultOverlapSeconds,
        description: 'How long the present secret signs beside the new one; 0 where it has become known.',
      }),
    ),
  },
  strict,
);

export const ReplayQuery = Type.Object(
  {
    since: Type.String({
      format: 'date-time',
      description: 'Events from then on, RFC 3339 with an offset.',
      examples: ['2026-11-20T00:00:00Z'],
    }),
  },
  strict,
);
