import { Type } from '@fastify/type-provider-typebox';
import { WEBHOOK_EVENT_TYPES } from '../../reporting/webhook-event.js';
import { literals, nullable } from './parameters.js';

const asPosted = nullable(Type.String({ description: 'As posted.' }));

export const WebhookEventSchema = Type.Object(
  {
    type: literals(WEBHOOK_EVENT_TYPES),
    timestamp: Type.String({ format: 'date-time', description: 'When it happened; the same over all attempts.' }),
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
