/** Composition of the HTTP layer. Listening, signals and the order of shutting down belong to the command line. */
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { createServer as createHttpsServer } from 'node:https';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import cors from '@fastify/cors';
import helmet from '@fastify/helmet';
import multipart from '@fastify/multipart';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, { type FastifyReply, type FastifyServerOptions, LogController, type RawServerDefault } from 'fastify';
import type { HttpConfig, HttpDeps } from './deps.js';
import { registerAccess } from './plugins/access.js';
import { problemResponseText, registerErrors } from './plugins/errors.js';
import { registerOpenApi } from './plugins/openapi.js';
import { registerRequests, requestId } from './plugins/requests.js';
import { registerAnalyses } from './routes/analyses.js';
import { registerAnalyze } from './routes/analyze.js';
import { registerAudit } from './routes/audit.js';
import { registerCells } from './routes/cells.js';
import { registerHealth } from './routes/health.js';
import { registerHome } from './routes/home.js';
import { registerImages } from './routes/images.js';
import { registerKeys } from './routes/keys.js';
import { registerMetrics } from './routes/metrics.js';
import { registerRemoval } from './routes/removal.js';
import { registerReports } from './routes/reports.js';
import { registerReview } from './routes/review.js';
import { registerWebhooks } from './routes/webhooks.js';
import type { App } from './types.js';
import { Spool } from './upload/spool.js';

/** Longest body of a request that is no upload: a webhook endpoint's, or one that is thrown away. */
const BODY_LIMIT_BYTES = 64 * 1024;

/** How much longer than an upload may take the connection itself is kept, as the last line against slow senders. */
const REQUEST_TIMEOUT_SLACK_SECONDS = 30;

/** Fastify's own for its HTTP servers: longer than the pauses of usual load balancers. */
const KEEP_ALIVE_TIMEOUT_MS = 72_000;

/** A day: no upload takes that long. */
const LEFTOVER_AGE_MS = 24 * 60 * 60 * 1000;

/**
 * The application, ready for `inject` or `listen`. Closing it removes what uploads left in the spool folder; it closes
 * nothing of `deps`.
 */
export async function buildApp(deps: HttpDeps): Promise<App> {
  const app = Fastify({
    loggerInstance: deps.logger,
    // Fastify's own lines would carry the query, and so an accession number.
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: requestId,
    bodyLimit: BODY_LIMIT_BYTES,
    routerOptions: { ignoreTrailingSlash: true },
    requestTimeout: requestTimeoutMs(deps.config),
    trustProxy: deps.config.trustedProxies.length === 0 ? false : [...deps.config.trustedProxies],
    // A hook answers instead, with a problem document.
    return503OnClosing: false,
    ajv: { customOptions: { removeAdditional: false, coerceTypes: true, allErrors: true } },
    // A URL that cannot be decoded never reaches the router, nor its error handler.
    frameworkErrors: (error, request, reply: Pick<FastifyReply, 'raw'>) => {
      const { status, type, body } = problemResponseText(
        error.code === 'FST_ERR_MAX_LENGTH_PATH_PARAM' ? 'not-found' : 'malformed-request',
        request.id,
      );
      reply.raw.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body) }).end(body);
    },
    clientErrorHandler,
    ...serverOf(deps.config),
  }).withTypeProvider<TypeBoxTypeProvider>();

  // Schemas document answers; tests hold the answers against them. Serialising by schema would drop what it omits.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));

  if (deps.tracing !== undefined) await app.register(deps.tracing);
  registerErrors(app, deps.metrics);
  registerRequests(app, deps.metrics);
  await registerBrowserRules(app, deps.config);
  registerAccess(app, deps);
  // Uploads, reviews, webhook endpoints and keys have a body, and say so. Anything else that comes with one is answered
  // as if it had none, and read to its end.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));
  await app.register(multipart);
  await registerOpenApi(app, deps);

  const spoolDir = await createSpoolDir(deps.config.dataDir);
  app.addHook('onClose', () => rm(spoolDir, { recursive: true, force: true }));

  registerHome(app, deps);
  registerAnalyze(app, deps, new Spool(spoolDir));
  registerAnalyses(app, deps);
  registerImages(app, deps);
  registerCells(app, deps);
  registerRemoval(app, deps);
  registerReview(app, deps);
  registerReports(app, deps);
  registerWebhooks(app, deps);
  registerKeys(app, deps);
  registerAudit(app, deps);
  registerHealth(app, deps);
  registerMetrics(app, deps);
  await app.ready();
  return app;
}

/** What browsers are told: to take nothing of ours for anything else, and whose pages may call. */
async function registerBrowserRules(app: App, { corsOrigins, tlsCert }: HttpConfig): Promise<void> {
  await app.register(helmet, {
    // Answers are data. Pages that are meant to be looked at say for themselves what they may load.
    contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
    referrerPolicy: { policy: 'no-referrer' },
    // Behind a proxy that speaks TLS this is the proxy's to say.
    strictTransportSecurity: tlsCert === undefined ? false : { maxAge: 31_536_000, includeSubDomains: false },
    xFrameOptions: { action: 'deny' },
  });
  if (corsOrigins.length === 0) return;
  await app.register(cors, {
    origin: [...corsOrigins],
    methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
    // Keys are sent by the page itself; cookies mean nothing here.
    credentials: false,
    exposedHeaders: [
      'etag',
      'idempotency-replayed',
      'location',
      'preference-applied',
      'ratelimit',
      'ratelimit-policy',
      'retry-after',
      'x-request-id',
    ],
    maxAge: 600,
  });
}

function requestTimeoutMs({ uploadTimeoutSeconds }: HttpConfig): number {
  return (uploadTimeoutSeconds + REQUEST_TIMEOUT_SLACK_SECONDS) * 1000;
}

/** HTTPS where a certificate is configured. The application is the same: a TLS server answers the same events. */
function serverOf(config: HttpConfig): Pick<FastifyServerOptions, 'serverFactory'> {
  const { tlsCert: cert, tlsKey: key } = config;
  if (cert === undefined || key === undefined) return {};
  return {
    serverFactory: (handler) => {
      const server = createHttpsServer({ cert, key, minVersion: 'TLSv1.2' }, handler);
      server.requestTimeout = requestTimeoutMs(config);
      server.keepAliveTimeout = KEEP_ALIVE_TIMEOUT_MS;
      return server as unknown as RawServerDefault;
    },
  };
}

/** A folder of this process's own: several may share the data folder. */
async function createSpoolDir(dataDir: string): Promise<string> {
  const parent = join(dataDir, 'spool');
  await mkdir(parent, { recursive: true, mode: 0o700 });
  await removeLeftovers(parent);
  return mkdtemp(join(parent, `${process.pid}-`));
}

/**
 * Removes what a process left that was killed in the middle of an upload. Its id may be that of a process in another
 * container, so its folder must also have been quiet for longer than an upload takes.
 */
async function removeLeftovers(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const path = join(parent, name);
    const pid = Number.parseInt(name, 10);
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }));
    if (Date.now() - mtimeMs < LEFTOVER_AGE_MS || isRunning(pid)) continue;
    await rm(path, { recursive: true, force: true });
  }
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // EPERM: it runs, under another user.
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Answers what Node could not even parse; there is no request to speak of. */
function clientErrorHandler(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const slug =
    error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
      ? 'upload-timeout'
      : error.code === 'HPE_HEADER_OVERFLOW'
        ? 'header-too-large'
        : 'malformed-request';
  const { status, type, body } = problemResponseText(slug, 'none');
  socket.end(
    `HTTP/1.1 ${status} Error\r\nContent-Type: ${type}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
