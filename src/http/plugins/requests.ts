/** What belongs to every request: its id, one log line, its metrics, negotiation, entity tags, and an orderly end. */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { FastifyInstance } from 'fastify';
import { Counter, Histogram, type Registry } from 'prom-client';
import { acceptsMediaType } from '../accept.js';
import { entityTag, matchesEntityTag } from '../etag.js';
import { ProblemError } from '../problems.js';
import type { TraceContext } from '../trace.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The one media type of this address's answers; nothing is negotiated where it is absent. */
    produces?: string;
    /** Successful answers carry an ETag and may be answered 304. */
    entityTag?: boolean;
  }
  interface FastifyInstance {
    /** Aborts when the application begins to close: whoever waits for something then stops waiting. */
    closing: AbortSignal;
  }
}

/**
 * How long, and how far, the rest of an upload is read after it was refused. A connection that is closed while the
 * client still sends is reset, and the client never sees why it was refused.
 */
const LINGER_MS = 10_000;
const LINGER_BYTES = 64 * 1024 * 1024;

/** A request id from outside is taken over if it can do no harm in a log. */
export function requestId(raw: { readonly headers: IncomingMessage['headers'] }): string {
  const given = raw.headers['x-request-id'];
  return typeof given === 'string' && /^[A-Za-z0-9._-]{1,64}$/.test(given) ? given : randomUUID();
}

export function registerRequests(app: FastifyInstance, registry: Registry): void {
  const duration = new Histogram({
    name: 'leukodiff_http_request_duration_seconds',
    help: 'Time from the last request header to the last byte of the answer.',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    registers: [registry],
  });
  const aborted = new Counter({
    name: 'leukodiff_http_requests_aborted_total',
    help: 'Requests whose client left before the answer.',
    labelNames: ['method', 'route'],
    registers: [registry],
  });

  const shutdown = new AbortController();
  app.decorate('closing', shutdown.signal);
  app.addHook('preClose', async () => shutdown.abort());

  app.addHook('onRequest', async (request, reply) => {
    reply.headers({ 'x-request-id': request.id, 'x-content-type-options': 'nosniff' });
    // Connections that are kept alive go on sending while the last answers are written.
    if (app.closing.aborted) throw new ProblemError('shutting-down', { headers: { 'retry-after': '5' } });
    const { produces } = request.routeOptions.config;
    if (produces !== undefined && !acceptsMediaType(request.headers.accept, produces)) {
      throw new ProblemError('not-acceptable', {
        detail: `This address answers ${produces}. Leave the Accept header out, or accept that.`,
      });
    }
  });

  app.addHook('onSend', async (request, reply, payload) => {
    // A connection that stays open after its answer would hold the shutdown until it times out.
    if (app.closing.aborted) reply.header('connection', 'close');
    const isTagged = request.routeOptions.config.entityTag === true && reply.statusCode === 200;
    if (!isTagged || !(typeof payload === 'string' || Buffer.isBuffer(payload))) return payload;
    const tag = entityTag(payload);
    reply.headers({ etag: tag, 'cache-control': 'private, no-cache' });
    if (!matchesEntityTag(request.headers['if-none-match'], tag)) return payload;
    reply.code(304).removeHeader('content-length').removeHeader('content-type');
    return null;
  });

  app.addHook('onResponse', async (request, reply) => {
    const labels = { method: request.method, route: request.routeOptions.url ?? '(none)' };
    const seconds = reply.elapsedTime / 1000;
    duration.observe({ ...labels, status: String(reply.statusCode) }, seconds);
    // The pattern of the address, never the address: a query may hold an accession number.
    // Probes and scrapes come every few seconds and would drown the rest.
    const level = /^\/(?:health\/|metrics)/.test(labels.route) ? 'debug' : 'info';
    const durationMs = Math.round(reply.elapsedTime);
    // Absent where a hook before the one that sets it has refused the request.
    const traceId = (request.trace as TraceContext | undefined)?.traceId;
    request.log[level]({ ...labels, status: reply.statusCode, durationMs, traceId }, 'request');
    linger(request.raw);
  });

  app.addHook('onRequestAbort', async (request) => {
    const labels = { method: request.method, route: request.routeOptions.url ?? '(none)' };
    aborted.inc(labels);
    request.log.info(labels, 'client left');
  });
}

/** Reads what is left of a body that was answered early, but not for ever. */
function linger(raw: IncomingMessage): void {
  if (raw.complete || raw.destroyed) return;
  let bytes = 0;
  // Takes the connection with it.
  const end = (): void => void raw.destroy();
  const timer = setTimeout(end, LINGER_MS).unref();
  raw.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > LINGER_BYTES) end();
  });
  raw.once('close', () => clearTimeout(timer));
  raw.once('end', () => clearTimeout(timer));
  raw.resume();
}
