/** `/webhook-endpoints` and `/webhook-deliveries`: who receives events, and what became of them. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { pingEvent, WEBHOOK_EVENT_TYPES } from '../../reporting/webhook-event.js';
import { getAnalysisDocument } from '../../storage/analyses.js';
import {
  type DeliveryRecord,
  type DeliverySummary,
  getDelivery,
  listDeliveries,
  REPLAY_LIMIT,
  replayDelivery,
  replayMissed,
} from '../../storage/delivery-log.js';
import { addPing } from '../../storage/events.js';
import { loadSealer } from '../../storage/sealing.js';
import { newWebhookSecret } from '../../storage/secrets.js';
import {
  createEndpoint,
  deleteEndpoint,
  getEndpoint,
  listEndpoints,
  MAX_ENDPOINTS,
  rotateSecret,
  updateEndpoint,
  type WebhookEndpoint,
} from '../../storage/webhook-endpoints.js';
import type { HttpDeps } from '../deps.js';
import { registerJsonScope } from '../json-scope.js';
import { nextPageLink } from '../links.js';
import { withCursor } from '../paging.js';
import { loggable } from '../plugins/errors.js';
import { ProblemError } from '../problems.js';
import { AnalysisParams, NoQuery } from '../schemas/parameters.js';
import { emptyAnswer, HEADERS, jsonAnswer, problems } from '../schemas/responses.js';
import {
  DeliveriesQuery,
  DeliveryParams,
  ENDPOINT_LIMITS,
  EndpointChangeBody,
  EndpointParams,
  NewEndpointBody,
  ReplayQuery,
  RotationQuery,
} from '../schemas/webhook.js';
import type { App } from '../types.js';
import { parseCallbackUrl, Refusal } from '../upload/order-fields.js';
import { screenAddress } from '../webhook-address.js';

const tags = ['Webhooks'];
/** Who is told about events of a laboratory, and with which secret, is its administrator's to say and to see. */
const admin = { access: 'admin', produces: 'application/json' } as const;

export function registerWebhooks(app: App, deps: HttpDeps): void {
  const { config, database, queues } = deps;
  const sealer = loadSealer(config);

  registerJsonScope(app, registerChanges);

  function registerChanges(scope: App): void {
    scope.post(
      '/webhook-endpoints',
      {
        config: admin,
        schema: {
          operationId: 'createWebhookEndpoint',
          tags,
          summary: 'Register a receiver of events',
          description:
            'Answers with the secret that verifies its signatures, once. The address is looked up now, so that a mistake shows at once, and again at every delivery. Send a ping next.',
          querystring: NoQuery,
          body: NewEndpointBody,
          response: {
            201: jsonAnswer('Registered. Keep the secret.', 'WebhookEndpointWithSecret', HEADERS.location),
          },
          ...problems(
            'malformed-json',
            'invalid-parameters',
            'invalid-fields',
            'too-many-endpoints',
            'request-too-large',
            'unsupported-media-type',
          ),
        },
      },
      async (request, reply) => {
        const { url, description = '', eventTypes = [...WEBHOOK_EVENT_TYPES] } = request.body;
        const secret = newWebhookSecret();
        const endpoint = await createEndpoint(
          database,
          sealer,
          request.principal.laboratory,
          { url: await goodAddress(url), description: description === '' ? null : description, eventTypes },
          secret,
        );
        if (endpoint === null) {
          throw new ProblemError('too-many-endpoints', {
            detail: `A laboratory has at most ${MAX_ENDPOINTS} endpoints. Delete one that is not used any more.`,
          });
        }
        request.auditSubject = endpoint.id;
        const document = withLinks(endpoint);
        reply.code(201).headers({ location: document.links.self, 'cache-control': 'no-store' });
        return { ...document, secret };
      },
    );

    scope.patch(
      '/webhook-endpoints/:id',
      {
        config: admin,
        schema: {
          operationId: 'updateWebhookEndpoint',
          tags,
          summary: 'Change, disable or enable an endpoint',
          params: EndpointParams,
          querystring: NoQuery,
          body: EndpointChangeBody,
          response: { 200: jsonAnswer('The endpoint as it is now.', 'WebhookEndpoint') },
          ...problems(
            'malformed-json',
            'invalid-parameters',
            'webhook-endpoint-not-found',
            'invalid-fields',
            'request-too-large',
            'unsupported-media-type',
          ),
        },
      },
      async (request, reply) => {
        const { url, description, ...change } = request.body;
        const endpoint = await updateEndpoint(database, request.principal.laboratory, request.params.id, {
          ...change,
          ...(url === undefined ? {} : { url: await goodAddress(url) }),
          ...(description === undefined ? {} : { description: description === '' ? null : description }),
        });
        reply.header('cache-control', 'no-store');
        return withLinks(found(endpoint));
      },
    );
  }

  app.get(
    '/webhook-endpoints',
    {
      config: admin,
      schema: {
        operationId: 'listWebhookEndpoints',
        tags,
        summary: 'List the endpoints',
        querystring: NoQuery,
        response: { 200: jsonAnswer('All endpoints of the laboratory.', 'WebhookEndpointList') },
        ...problems('invalid-parameters'),
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store');
      return { items: (await listEndpoints(database, request.principal.laboratory)).map(withLinks) };
    },
  );

  app.get(
    '/webhook-endpoints/:id',
    {
      config: admin,
      schema: {
        operationId: 'getWebhookEndpoint',
        tags,
        summary: 'An endpoint and its state',
        params: EndpointParams,
        querystring: NoQuery,
        response: { 200: jsonAnswer('The endpoint.', 'WebhookEndpoint') },
        ...problems('invalid-parameters', 'webhook-endpoint-not-found'),
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store');
      return withLinks(await endpointOf(request, request.params.id));
    },
  );

  app.delete(
    '/webhook-endpoints/:id',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'deleteWebhookEndpoint',
        tags,
        summary: 'Delete an endpoint',
        description: 'With its secret and its deliveries, also those that were still to be made.',
        params: EndpointParams,
        querystring: NoQuery,
        response: { 204: emptyAnswer('Deleted.') },
        ...problems('invalid-parameters', 'webhook-endpoint-not-found'),
      },
    },
    async (request, reply) => {
      if (!(await deleteEndpoint(database, request.principal.laboratory, request.params.id))) {
        throw new ProblemError('webhook-endpoint-not-found');
      }
      return reply.code(204).send();
    },
  );

  app.post(
    '/webhook-endpoints/:id/secret',
    {
      config: admin,
      schema: {
        operationId: 'rotateWebhookSecret',
        tags,
        summary: 'Replace the secret of an endpoint',
        description:
          'Answers with the new secret, once. For `overlapSeconds` every delivery carries two signatures, of the new and of the old secret, so that a receiver can change over without missing one. Of two changes within that time only the last old secret goes on.',
        params: EndpointParams,
        querystring: RotationQuery,
        response: { 200: jsonAnswer('The endpoint with its new secret.', 'WebhookEndpointWithSecret') },
        ...problems('invalid-parameters', 'webhook-endpoint-not-found'),
      },
    },
    async (request, reply) => {
      const secret = newWebhookSecret();
      const { overlapSeconds = ENDPOINT_LIMITS.defaultOverlapSeconds } = request.query;
      const laboratory = request.principal.laboratory;
      const endpoint = await rotateSecret(database, sealer, laboratory, request.params.id, secret, overlapSeconds);
      reply.header('cache-control', 'no-store');
      return { ...withLinks(found(endpoint)), secret };
    },
  );

  app.post(
    '/webhook-endpoints/:id/ping',
    {
      config: admin,
      schema: {
        operationId: 'pingWebhookEndpoint',
        tags,
        summary: 'Send a test event to an endpoint',
        description:
          'Sends `webhook.ping` once, also to an endpoint that is disabled. What became of it stands under `Location` a moment later.',
        params: EndpointParams,
        querystring: NoQuery,
        response: { 202: jsonAnswer('It is on its way.', 'WebhookDelivery', HEADERS.location) },
        ...problems('invalid-parameters', 'webhook-endpoint-not-found'),
      },
    },
    async (request, reply) => {
      const laboratory = request.principal.laboratory;
      const endpoint = await endpointOf(request, request.params.id);
      const body = JSON.stringify(pingEvent(endpoint.id, new Date().toISOString()));
      const id = await addPing(database, { ...endpoint, laboratory }, body);
      await enqueue(request, [id]);
      return accepted(request, reply, id);
    },
  );

  app.get(
    '/webhook-endpoints/:id/deliveries',
    {
      config: admin,
      schema: {
        operationId: 'listEndpointDeliveries',
        tags,
        summary: 'The delivery log of an endpoint, newest first',
        params: EndpointParams,
        querystring: DeliveriesQuery,
        response: { 200: jsonAnswer('A page of deliveries.', 'WebhookDeliveryList') },
        ...problems('invalid-parameters', 'webhook-endpoint-not-found'),
      },
    },
    async (request, reply) => {
      const { id: endpointId } = await endpointOf(request, request.params.id);
      const filter = { limit: 20, ...request.query, endpointId };
      reply.header('cache-control', 'no-store');
      return page(request, filter, `/webhook-endpoints/${endpointId}/deliveries`, request.query);
    },
  );

  app.get(
    '/analyses/:id/deliveries',
    {
      config: { access: 'read', produces: 'application/json' },
      schema: {
        operationId: 'listAnalysisDeliveries',
        tags,
        summary: 'Who was told about an analysis, newest first',
        description: "To registered endpoints and to the order's own callback address.",
        params: AnalysisParams,
        querystring: DeliveriesQuery,
        response: { 200: jsonAnswer('A page of deliveries.', 'WebhookDeliveryList') },
        ...problems('invalid-parameters', 'analysis-not-found'),
      },
    },
    async (request, reply) => {
      const { id: analysisId } = request.params;
      const { laboratory } = request.principal;
      if ((await getAnalysisDocument(database, laboratory, analysisId)) === null)
        throw new ProblemError('analysis-not-found');
      const filter = { limit: 20, ...request.query, analysisId };
      reply.header('cache-control', 'no-store');
      return page(request, filter, `/analyses/${analysisId}/deliveries`, request.query);
    },
  );

  app.post(
    '/webhook-endpoints/:id/replay',
    {
      config: admin,
      schema: {
        operationId: 'replayWebhookEndpoint',
        tags,
        summary: 'Deliver again what an endpoint has missed',
        description: `Of the events since then, every delivery that was given up begins its schedule again, and every one that waits for its next attempt is made now; with the same id and body, at most ${REPLAY_LIMIT} at once.`,
        params: EndpointParams,
        querystring: ReplayQuery,
        response: { 202: jsonAnswer('They are on their way.', 'WebhookReplay') },
        ...problems('invalid-parameters', 'webhook-endpoint-not-found', 'endpoint-disabled'),
      },
    },
    async (request, reply) => {
      const endpoint = await endpointOf(request, request.params.id);
      if (!endpoint.enabled) throw new ProblemError('endpoint-disabled');
      const ids = await replayMissed(
        database,
        request.principal.laboratory,
        endpoint.id,
        new Date(request.query.since),
      );
      await enqueue(request, ids);
      reply.code(202).header('cache-control', 'no-store');
      return { replayed: ids.length, more: ids.length === REPLAY_LIMIT };
    },
  );

  app.get(
    '/webhook-deliveries/:id',
    {
      config: admin,
      schema: {
        operationId: 'getWebhookDelivery',
        tags,
        summary: 'A delivery and all its attempts',
        params: DeliveryParams,
        querystring: NoQuery,
        response: { 200: jsonAnswer('The delivery.', 'WebhookDelivery') },
        ...problems('invalid-parameters', 'delivery-not-found'),
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store');
      return deliveryOf(request, request.params.id);
    },
  );

  app.post(
    '/webhook-deliveries/:id/replay',
    {
      config: admin,
      schema: {
        operationId: 'replayWebhookDelivery',
        tags,
        summary: 'Deliver an event again',
        description: 'With the same id and body, from the beginning of the schedule, whatever became of it before.',
        params: DeliveryParams,
        querystring: NoQuery,
        response: { 202: jsonAnswer('It is on its way.', 'WebhookDelivery', HEADERS.location) },
        ...problems('invalid-parameters', 'delivery-not-found', 'endpoint-disabled'),
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const outcome = await replayDelivery(database, request.principal.laboratory, id);
      if (outcome === null) throw new ProblemError('delivery-not-found');
      if (outcome === 'disabled') throw new ProblemError('endpoint-disabled');
      await enqueue(request, [id]);
      return accepted(request, reply, id);
    },
  );

  async function endpointOf(request: FastifyRequest, id: string): Promise<WebhookEndpoint> {
    return found(await getEndpoint(database, request.principal.laboratory, id));
  }

  async function deliveryOf(request: FastifyRequest, id: string) {
    const delivery = await getDelivery(database, request.principal.laboratory, id);
    if (delivery === null) throw new ProblemError('delivery-not-found');
    return withDeliveryLinks<DeliveryRecord>(delivery);
  }

  async function accepted(request: FastifyRequest, reply: FastifyReply, id: string) {
    reply.code(202).headers({ location: `/webhook-deliveries/${id}`, 'cache-control': 'no-store' });
    return deliveryOf(request, id);
  }

  async function page(
    request: FastifyRequest,
    filter: Parameters<typeof listDeliveries>[2],
    path: string,
    query: Parameters<typeof nextPageLink>[1],
  ) {
    const { items, nextCursor } = await withCursor(() =>
      listDeliveries(database, request.principal.laboratory, filter),
    );
    const links = { next: nextPageLink(path, query, nextCursor) };
    return { items: items.map((item) => withDeliveryLinks<DeliverySummary>(item)), nextCursor, links };
  }

  /** The rows are committed: a queue that is away delays them until the sweep. */
  async function enqueue(request: FastifyRequest, deliveryIds: readonly string[]): Promise<void> {
    try {
      for (const id of deliveryIds) await queues.addDelivery(id, { again: true });
    } catch (error) {
      const fault = error instanceof Error ? loggable(error) : String(error);
      request.log.warn({ fault }, 'deliveries not enqueued; the sweep will do it');
    }
  }

  /** The address in its normal form. Throws the problem of one that must not or cannot be called. */
  async function goodAddress(text: string): Promise<string> {
    const parsed = parseCallbackUrl(text);
    if (parsed instanceof Refusal) throw badAddress(parsed.detail);
    const screening = await screenAddress(parsed, config);
    // Unlike an order, which goes on without: whoever registers an endpoint can correct it now.
    if (screening.verdict !== 'allowed') throw badAddress(screening.detail);
    return parsed;
  }
}

function badAddress(detail: string): ProblemError {
  return new ProblemError('invalid-fields', { detail: `url: ${detail}`, errors: [{ field: 'url', detail }] });
}

function found(endpoint: WebhookEndpoint | null): WebhookEndpoint {
  if (endpoint === null) throw new ProblemError('webhook-endpoint-not-found');
  return endpoint;
}

function withLinks(endpoint: WebhookEndpoint) {
  const self = `/webhook-endpoints/${endpoint.id}`;
  return { ...endpoint, links: { self, deliveries: `${self}/deliveries` } };
}

function withDeliveryLinks<T extends DeliverySummary>(delivery: T) {
  return { ...delivery, links: { self: `/webhook-deliveries/${delivery.id}` } };
}
