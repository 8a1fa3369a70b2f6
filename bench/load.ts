/** Load from outside: orders posted, results read, over connections that stay open, with bodies made beforehand. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool } from 'undici';
import { MICRONS_PER_PIXEL } from './images.js';
import { quantile } from './statistics.js';

const BOUNDARY = 'leukodiff-bench';

export interface Target {
  readonly address: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** A form with the images and the scale. */
export function formOf(images: readonly Buffer[]): Buffer {
  const field = `--${BOUNDARY}\r\nContent-Disposition: form-data; name="micronsPerPixel"\r\n\r\n${MICRONS_PER_PIXEL}\r\n`;
  const parts = images.flatMap((image, i) => [
    Buffer.from(
      `--${BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="field-${i}.img"\r\n` +
        'Content-Type: application/octet-stream\r\n\r\n',
    ),
    image,
    Buffer.from('\r\n'),
  ]);
  return Buffer.concat([Buffer.from(field), ...parts, Buffer.from(`--${BOUNDARY}--\r\n`)]);
}

/** Forms made beforehand, each an order of so many images. */
export interface Orders {
  readonly forms: readonly Buffer[];
  readonly images: number;
}

/** As many orders as there are images: each begins with another one. */
export function ordersOf(fields: readonly Buffer[], images = 1): Orders {
  const from = (first: number): Buffer[] =>
    Array.from({ length: images }, (_, i) => fields[(first + i) % fields.length] ?? Buffer.alloc(0));
  return { images, forms: fields.map((_, first) => formOf(from(first))) };
}

/**
 * Before anything counts: until an engine has compiled what is hot, the sessions have their memory and the pools their connections. A
 * service runs for weeks, and V8 needs some two hundred images: by slices of five seconds the service did 13, 16.6, 15.8, 16.8, and from
 * then on 17 images a second (2 cores, AVX2, 2026-11-28). The peers get the same time; they have nothing to compile.
 */
export const WARM_UP_SECONDS = 15;

export interface Answer {
  readonly status: number;
  readonly ms: number;
  readonly text: string;
}

export class Client {
  private readonly pool: Pool;

  constructor(
    private readonly target: Target,
    connections: number,
  ) {
    this.pool = new Pool(target.address, { connections, headersTimeout: 600_000, bodyTimeout: 600_000 });
  }

  post(form: Buffer, headers: Readonly<Record<string, string>> = {}): Promise<Answer> {
    const type = `multipart/form-data; boundary=${BOUNDARY}`;
    return this.send('POST', '/analyze', { ...headers, 'content-type': type }, form);
  }

  get(path: string): Promise<Answer> {
    return this.send('GET', path, {});
  }

  close(): Promise<void> {
    return this.pool.close();
  }

  private async send(
    method: 'GET' | 'POST',
    path: string,
    headers: Readonly<Record<string, string>>,
    body?: Buffer,
  ): Promise<Answer> {
    const begun = performance.now();
    const response = await this.pool.request({
      method,
      path,
      headers: { ...this.target.headers, ...headers },
      ...(body === undefined ? {} : { body }),
    });
    const text = await response.body.text();
    return { status: response.statusCode, ms: performance.now() - begun, text };
  }
}

export interface Throughput {
  readonly imagesPerSecond: number;
  /** Of answers, in milliseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Answers 429: the queue was full. */
  readonly refused: number;
}

/** Requests that answer with the result: `lanes` of them at a time for so many seconds, after a warm-up. */
export async function saturateDirect(
  target: Target,
  { forms, images }: Orders,
  lanes: number,
  seconds: number,
): Promise<Throughput> {
  const client = new Client(target, lanes);
  const latencies: number[] = [];
  const from = performance.now() + WARM_UP_SECONDS * 1000;
  const to = from + seconds * 1000;
  let next = 0;
  const lane = async (): Promise<void> => {
    while (performance.now() < to) {
      const { status, ms, text } = await client.post(forms[next++ % forms.length] ?? Buffer.alloc(0));
      if (status !== 200) throw new Error(`answered ${status}: ${text.slice(0, 500)}`);
      const now = performance.now();
      if (now >= from && now < to) latencies.push(ms);
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  await client.close();
  const { length } = latencies;
  return {
    imagesPerSecond: (length * images) / seconds,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    refused: 0,
  };
}

export interface Counts {
  readonly done: number;
  readonly waiting: number;
}

/** Orders that are answered before they are done: the queue is kept full, and what is done is counted in the database. */
export async function saturateQueue(
  target: Target,
  { forms, images }: Orders,
  depth: number,
  seconds: number,
  count: () => Promise<Counts>,
): Promise<Throughput> {
  const lanes = 2;
  const client = new Client(target, lanes);
  const latencies: number[] = [];
  let refused = 0;
  let next = 0;
  const fill = async (wantedImages: number): Promise<void> => {
    let left = Math.ceil(wantedImages / images);
    const lane = async (): Promise<void> => {
      while (left-- > 0) {
        const { status, ms, text } = await client.post(forms[next++ % forms.length] ?? Buffer.alloc(0));
        if (status === 429) refused++;
        else if (status === 202) latencies.push(ms);
        else throw new Error(`answered ${status}: ${text.slice(0, 500)}`);
      }
    };
    await Promise.all(Array.from({ length: lanes }, lane));
  };
  const keepFull = async (milliseconds: number): Promise<Counts> => {
    const until = performance.now() + milliseconds;
    for (;;) {
      const now = await count();
      if (performance.now() >= until) return now;
      await fill(depth - now.waiting);
      await sleep(100);
    }
  };
  const before = await keepFull(WARM_UP_SECONDS * 1000);
  latencies.length = 0;
  refused = 0;
  const begun = performance.now();
  const after = await keepFull(seconds * 1000);
  const elapsed = (performance.now() - begun) / 1000;
  await client.close();
  return {
    imagesPerSecond: (after.done - before.done) / elapsed,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    refused,
  };
}

export interface Reads {
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
}

/** The same reads again and again over so many connections. */
export async function readAgain(
  target: Target,
  paths: readonly string[],
  seconds: number,
  connections = 16,
): Promise<Reads> {
  const client = new Client(target, connections);
  const latencies: number[] = [];
  const from = performance.now() + WARM_UP_SECONDS * 1000;
  const to = from + seconds * 1000;
  let next = 0;
  const lane = async (): Promise<void> => {
    while (performance.now() < to) {
      const { status, ms } = await client.get(paths[next++ % paths.length] ?? '/');
      if (status !== 200) throw new Error(`a read was answered ${status}`);
      if (performance.now() >= from) latencies.push(ms);
    }
  };
  await Promise.all(Array.from({ length: connections }, lane));
  await client.close();
  return { perSecond: latencies.length / seconds, p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99) };
}
