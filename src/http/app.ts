/** Composition of the HTTP layer. Listening, signals and the order of shutting down belong to the command line. */
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import multipart from '@fastify/multipart';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import Fastify, { type FastifyReply, LogController } from 'fastify';
import type { HttpDeps } from './deps.js';
import { problemResponseText, registerErrors } from './plugins/errors.js';
import { registerOpenApi } from './plugins/openapi.js';
import { registerRequests, requestId } from './plugins/requests.js';
import { registerAnalyses } from './routes/analyses.js';
import { registerAnalyze } from './routes/analyze.js';
import { registerCells } from './routes/cells.js';
import { registerHealth } from './routes/health.js';
import { registerHome } from './routes/home.js';
import { registerImages } from './routes/images.js';
import { registerMetrics } from './routes/metrics.js';
import { registerReports } from './routes/reports.js';
import { registerReview } from './routes/review.js';
import { registerWebhooks } from './routes/webhooks.js';
import type { App } from './types.js';

/** Longest body of a request that is no upload: a webhook endpoint's, or one that is thrown away. */
const BODY_LIMIT_BYTES = 64 * 1024;

/** How much longer than an upload may take the connection itself is kept, as the last line against slow senders. */
const REQUEST_TIMEOUT_SLACK_SECONDS = 30;

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
    requestTimeout: (deps.config.uploadTimeoutSeconds + REQUEST_TIMEOUT_SLACK_SECONDS) * 1000,
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
  }).withTypeProvider<TypeBoxTypeProvider>();

  // Schemas document answers; tests hold the answers against them. Serialising by schema would drop what it omits.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));

  registerErrors(app);
  registerRequests(app, deps.metrics);
  // Uploads, reviews and webhook endpoints have a body, and say so. Anything else that comes with one is answered as if it had none,
  // and read to its end.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));
  await app.register(multipart);
  await registerOpenApi(app, deps);

  const spoolDir = await createSpoolDir(deps.config.dataDir);
  app.addHook('onClose', () => rm(spoolDir, { recursive: true, force: true }));

  registerHome(app, deps);
  registerAnalyze(app, deps, spoolDir);
  registerAnalyses(app, deps);
  registerImages(app, deps);
  registerCells(app, deps);
  registerWebhooks(app, deps);
  await app.register(async (scope) => registerReview(scope.withTypeProvider<TypeBoxTypeProvider>(), deps));
  registerReports(app, deps);
  registerHealth(app, deps);
  registerMetrics(app, deps);
  await app.ready();
  return app;
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
