/** One trace from the order to the webhook, as a collector receives it; and none where no collector is named. */
import { randomBytes } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startEmbeddedPostgres } from '../../src/storage/embedded-postgres.js';
import {
  cleanUp,
  logEntry,
  preparedDataDir,
  run,
  type Service,
  serve,
  stopAll,
  temporaryFolder,
} from '../support/program.js';
import { drawSmear } from '../support/smear.js';
import { type Receiver, startReceiver } from '../support/webhooks.js';

const TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT_ID = '00f067aa0ba902b7';

interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
}

/** Takes OTLP over HTTP in JSON, as an OpenTelemetry collector does. */
class Collector {
  readonly bodies: string[] = [];
  private readonly server: Server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const known = request.method === 'POST' && request.url === '/v1/traces';
      if (known) this.bodies.push(Buffer.concat(chunks).toString());
      response.writeHead(known ? 200 : 404, { 'content-type': 'application/json' }).end('{}');
    });
  });

  async listen(): Promise<string> {
    await new Promise<void>((settle) => this.server.listen(0, '127.0.0.1', settle));
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  spans(): Span[] {
    interface Export {
      readonly resourceSpans: readonly { readonly scopeSpans: readonly { readonly spans: readonly Span[] }[] }[];
    }
    return this.bodies
      .map((body) => JSON.parse(body) as Export)
      .flatMap(({ resourceSpans }) => resourceSpans.flatMap((one) => one.scopeSpans.flatMap(({ spans }) => spans)));
  }

  close(): void {
    this.server.close();
    this.server.closeAllConnections();
  }
}

let collector: Collector;
let endpoint: string;
let receiver: Receiver;
let smear: Buffer;
beforeAll(async () => {
  const [width, height] = [320, 240];
  const drawn = drawSmear({ seed: 3, width, height, micronsPerPixel: 0.2, cells: { neutrophil: 2 } });
  smear = await sharp(Buffer.from(drawn.data.buffer), { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
  collector = new Collector();
  endpoint = await collector.listen();
  receiver = await startReceiver([200]);
});
afterEach(stopAll);
afterAll(async () => {
  collector.close();
  await receiver.close();
  await cleanUp();
});

const env = (more: Record<string, string>): Record<string, string> => ({
  WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8',
  ...more,
});

/** Posts an order, waits for its webhook, and returns the trace that it arrived with. */
async function order(service: Service): Promise<string> {
  const form = new FormData();
  form.append('callbackUrl', receiver.url);
  form.append('accessionNumber', 'TRACE-77');
  // Two: an order of one image has no job of its own for its end.
  for (const name of ['field.png', 'again.png']) form.append('images', new Blob([new Uint8Array(smear)]), name);
  const headers = { ...service.headers, prefer: 'wait=60', traceparent: `00-${TRACE_ID}-${PARENT_ID}-01` };
  const before = receiver.received.length;
  const answer = await fetch(`${service.address}/analyze`, { method: 'POST', body: form, headers });
  expect(answer.status, service.output()).toBe(200);
  await fetch(`${service.address}/analyses?accessionNumber=TRACE-77`, { headers: service.headers });
  await fetch(`${service.address}/analyses/none?accessionNumber=TRACE-77`, { headers: service.headers });
  await expect.poll(() => receiver.received.length, { timeout: 60_000 }).toBeGreaterThan(before);
  return String(receiver.received.at(-1)?.headers['traceparent']);
}

/** One process that does everything. What is not sent yet is sent at its end. */
async function alone(more: Record<string, string>): Promise<string> {
  const service = await serve(env({ DATA_DIR: await preparedDataDir(), ...more }));
  const traceparent = await order(service);
  expect(await service.stop()).toMatchObject({ code: 0 });
  return traceparent;
}

/** Requests in one process, jobs in another. */
async function apart(more: Record<string, string>): Promise<string> {
  const server = await startEmbeddedPostgres({ dataDir: await preparedDataDir(), log: pino({ level: 'silent' }) });
  try {
    const secret = `whsec_${randomBytes(32).toString('base64')}`;
    const shared = env({ DATABASE_URL: server.url, WEBHOOK_SECRET: secret, ...more });
    const api = await serve({ ...shared, DATA_DIR: temporaryFolder() }, ['serve', '--no-worker']);
    const worker = run(['work'], { ...shared, DATA_DIR: temporaryFolder() });
    await logEntry(worker, 'working');
    const traceparent = await order(api);
    worker.child.kill('SIGTERM');
    expect(await worker.ended).toMatchObject({ code: 0 });
    expect(await api.stop()).toMatchObject({ code: 0 });
    return traceparent;
  } finally {
    await server.stop();
  }
}

describe('traces', () => {
  it.each([
    ['in one process', alone],
    ['from the process of the requests to that of the jobs', apart],
  ])('hold the request, its jobs and the webhook together, %s, and tell no accession number', async (_how, traced) => {
    collector.bodies.length = 0;
    const traceparent = await traced({ OTEL_EXPORTER_OTLP_ENDPOINT: endpoint });
    const spans = collector.spans();
    const ours = spans.filter((span) => span.traceId === TRACE_ID);
    const named = (name: RegExp): Span[] => ours.filter((span) => name.test(span.name));
    const [post] = named(/^POST \/analyze$/);
    expect(post?.parentSpanId).toBe(PARENT_ID);
    for (const job of ['leukodiff-images', 'leukodiff-analyses', 'leukodiff-deliveries']) {
      expect(
        named(new RegExp(`^process ${job}`)).length,
        JSON.stringify(spans.map(({ name }) => name)),
      ).toBeGreaterThan(0);
    }
    const [webhook] = named(/^webhook$/);
    expect(webhook?.parentSpanId).toBe(post?.spanId);
    // What the receiver does belongs below the webhook's span.
    expect(traceparent).toBe(`00-${TRACE_ID}-${webhook?.spanId}-01`);
    expect(spans.some(({ name }) => name.startsWith('prisma:'))).toBe(true);
    expect(spans.some(({ name }) => name === 'GET /analyses')).toBe(true);
    expect(collector.bodies.join()).not.toContain('TRACE-77');
    expect(collector.bodies.join()).toContain('leukodiff');
  });

  it('are not made where no collector is named; the trace still reaches the receiver', async () => {
    const before = collector.bodies.length;
    expect(await alone({})).toMatch(new RegExp(`^00-${TRACE_ID}-[0-9a-f]{16}-01$`));
    expect(collector.bodies.length).toBe(before);
  });
});
