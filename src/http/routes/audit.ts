/** `/audit`: who did what, when and from where; also as FHIR AuditEvents. */
import type { Static } from '@fastify/type-provider-typebox';
import { auditBundle } from '../../reporting/audit-event.js';
import { listAudit } from '../../storage/audit.js';
import { DEFAULT_LABORATORY } from '../../storage/laboratory.js';
import type { Principal } from '../access/principal.js';
import type { HttpDeps } from '../deps.js';
import { nextPageLink } from '../links.js';
import { withCursor } from '../paging.js';
import { AuditQuerySchema } from '../schemas/audit.js';
import { jsonAnswer, mediaAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';

const FHIR_MEDIA_TYPE = 'application/fhir+json';

export function registerAudit(app: App, { database }: HttpDeps): void {
  app.get(
    '/audit',
    {
      config: { access: 'admin', produces: 'application/json' },
      schema: {
        operationId: 'listAudit',
        tags: ['Audit'],
        summary: 'The audit trail of the laboratory, newest first',
        description:
          'Every access and every change. Reads appear within a second or two. Requests from nobody who was recognised are shown to the laboratory `default`, which runs the service.',
        querystring: AuditQuerySchema,
        response: { 200: jsonAnswer('A page of entries.', 'AuditList') },
        ...problems('invalid-parameters'),
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store');
      const { items, nextCursor } = await page(request.principal, request.query);
      return { items, nextCursor, links: { next: nextPageLink('/audit', request.query, nextCursor) } };
    },
  );

  app.get(
    '/audit/fhir',
    {
      config: { access: 'admin', produces: FHIR_MEDIA_TYPE },
      schema: {
        operationId: 'listAuditEvents',
        tags: ['Audit'],
        summary: 'The audit trail as FHIR R4 AuditEvents',
        description: 'The same page as /audit gives for the same query.',
        querystring: AuditQuerySchema,
        response: { 200: mediaAnswer('A Bundle of AuditEvents.', FHIR_MEDIA_TYPE, 'AuditBundle') },
        ...problems('invalid-parameters'),
      },
    },
    async (request, reply) => {
      const { items, nextCursor } = await page(request.principal, request.query);
      const bundle = auditBundle(items, {
        self: request.url,
        next: nextPageLink('/audit/fhir', request.query, nextCursor),
      });
      return reply.header('cache-control', 'no-store').type(FHIR_MEDIA_TYPE).send(JSON.stringify(bundle));
    },
  );

  async function page({ laboratory }: Principal, query: Static<typeof AuditQuerySchema>) {
    const { from, to, limit = 100, ...filters } = query;
    return withCursor(() =>
      listAudit(database, {
        ...filters,
        laboratory,
        withUnrecognised: laboratory === DEFAULT_LABORATORY,
        from: from === undefined ? undefined : new Date(from),
        to: to === undefined ? undefined : new Date(to),
        limit,
      }),
    );
  }
}
