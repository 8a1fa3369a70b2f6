import { Type } from '@fastify/type-provider-typebox';
import type { HttpDeps } from '../deps.js';
import { NoQuery } from '../schemas/parameters.js';
import { HEADERS, problems } from '../schemas/responses.js';
import type { App } from '../types.js';

export function registerMetrics(app: App, { metrics }: HttpDeps): void {
  app.get(
    '/metrics',
    {
      config: { access: 'metrics' },
      schema: {
        operationId: 'getMetrics',
        tags: ['Operation'],
        summary: 'Metrics for Prometheus',
        description:
          'From the machine itself nobody is asked. From another one: METRICS_TOKEN as bearer token, or a key of scope `admin`.',
        querystring: NoQuery,
        response: {
          200: {
            description: 'The metrics in the text format.',
            headers: HEADERS.requestId,
            content: { 'text/plain': { schema: Type.String() } },
          },
        },
        ...problems('invalid-parameters'),
      },
    },
    async (_request, reply) => reply.type(metrics.contentType).send(await metrics.metrics()),
  );
}
