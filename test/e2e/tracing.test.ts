/** One trace from the order to the webhook, as a collector receives it; and none where no collector is named. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { cleanUp, preparedDataDir, serve, stopAll } from '../support/program.js';
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
let receiver: Receiver;
let smear: Buffer;
beforeAll(async () => {
  const [width, height] = [320, 240];
  const drawn = drawSmear({ seed: 3, width, height, micronsPerPixel: 0.2, cells: { neutrophil: 2 } });
  smear = await sharp(Buffer.from(drawn.data.buffer), { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
  collector = new Collector();
  receiver = await startReceiver([200]);
});
afterEach(stopAll);
afterAll(async () => {
  collector.close();
  await receiver.close();
  await cleanUp();
});

async function order(endpoint: Record<string, string>): Promise<string> {
  const service = await serve({
    DATA_DIR: await preparedDataDir(),
    WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8',
    ...endpoint,
  });
  const form = new FormData();
  form.append('callbackUrl', receiver.url);
  form.append('accessionNumber', 'TRACE-77');
  form.append('images', new Blob([new Uint8Array(smear)]), 'field.png');
  const headers = { ...service.headers, prefer: 'wait=60', traceparent: `00-${TRACE_ID}-${PARENT_ID}-01` };
  const before = receiver.received.length;
  const answer = await fetch(`${service.address}/analyze`, { method: 'POST', body: form, headers });
  expect(answer.status, service.output()).toBe(200);
  await fetch(`${service.address}/analyses?accessionNumber=TRACE-77`, { headers: service.headers });
  await fetch(`${service.address}/analyses/none?accessionNumber=TRACE-77`, { headers: service.headers });
  await expect.poll(() => receiver.received.length, { timeout: 60_000 }).toBeGreaterThan(before);
  // What is not sent yet is sent at the end.
  expect(await service.stop()).toMatchObject({ code: 0 });
  return String(receiver.received.at(-1)?.headers['traceparent']);
}

describe('traces', () => {
  it('hold the request, its jobs and the webhook together, and tell no accession number', async () => {
    const traceparent = await order({ OTEL_EXPORTER_OTLP_ENDPOINT: await collector.listen() });
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
    expect(await order({})).toMatch(new RegExp(`^00-${TRACE_ID}-[0-9a-f]{16}-01$`));
    expect(collector.bodies.length).toBe(before);
  });
});
