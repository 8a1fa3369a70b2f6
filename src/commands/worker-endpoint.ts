/**
 * What a worker of its own answers to Prometheus and to whoever supervises it. It is asked for on a port of its own, so
 * the metrics are open there unless METRICS_TOKEN is set.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { listenError } from './listen-error.js';
import { readiness } from './readiness.js';
import type { Runtime } from './runtime.js';

/** Listens until the runtime is closed, so that a worker which finishes its images is seen to live; returns the port. Throws `ExpectedError` when the port cannot be had. */
export async function openWorkerEndpoint(runtime: Runtime, host: string, port: number): Promise<number> {
  const { registry } = runtime.metrics;
  const server = createServer((request, response) => {
    const send = (status: number, type: string, body: string): void => {
      response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(body);
    };
    const json = (status: number, body: unknown): void => send(status, 'application/json', JSON.stringify(body));
    const answer = async (): Promise<void> => {
      if (request.method !== 'GET' && request.method !== 'HEAD') return json(405, { status: 'GET only' });
      switch (request.url?.replace(/\?.*$/s, '')) {
        case '/metrics':
          if (!mayScrape(request.headers.authorization, runtime.config.metricsToken)) {
            response.setHeader('www-authenticate', 'Bearer');
            return json(401, { status: 'METRICS_TOKEN as bearer token' });
          }
          return send(200, registry.contentType, await registry.metrics());
        case '/health/live':
          return json(200, { status: 'alive' });
        case '/health/ready': {
          const checks = await readiness(runtime, true);
          const ready = checks.every((check) => check.ok);
          return json(ready ? 200 : 503, { status: ready ? 'ready' : 'not-ready', checks });
        }
        default:
          return json(404, { status: '/metrics, /health/live or /health/ready' });
      }
    };
    answer().catch((error: unknown) => {
      runtime.log.error({ err: error }, 'a request to the worker failed');
      response.destroy();
    });
  });
  await new Promise<void>((settle, fail) => {
    server.once('error', (error) => fail(listenError(error, host, port)));
    server.listen(port, host, settle);
  });
  runtime.onClosed(async () => {
    server.close();
    server.closeAllConnections();
  });
  return (server.address() as AddressInfo).port;
}

function mayScrape(authorization: string | undefined, token: string | undefined): boolean {
  if (token === undefined) return true;
  const hash = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(hash(authorization ?? ''), hash(`Bearer ${token}`));
}
