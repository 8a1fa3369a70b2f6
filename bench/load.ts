/** Load from outside: orders posted, results read, over connections that stay open, with bodies made beforehand. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool } from 'undici';
import { MICRONS_PER_PIXEL } from './images.js';
import { machineSeconds, machineSecondsBetween } from './processes.js';
import { median, quantile } from './statistics.js';

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

/** A measurement: what does not count at its start, and how long it counts after that. */
export interface Window {
  readonly warmUpSeconds: number;
  readonly seconds: number;
}

/**
 * Before a program is measured at all: until its engine has compiled what is hot. A service runs for weeks, and V8 needs some thousand
 * images: at 15 s its compilers still took 3 ms of processor time an image and the main thread 23, after a minute and more 0.3 and 18
 * (2 cores, AVX2, 2026-11-28). The peers get the same time; they have nothing to compile.
 */
export const WARM_UP_SECONDS = 60;

/** Where a program is held against itself, as cold in one setting as in the other. */
export const SHORT_WARM_UP_SECONDS = 15;

/** Of each turn of a warm program: until its queue is full. */
export const TURN_WARM_UP_SECONDS = 3;

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
  /** Of the whole machine, for an image: whoever else has part in it counts, as PostgreSQL and the client that posts. */
  readonly processorMs: number;
  /** Of each answer. */
  readonly latenciesMs: readonly number[];
}

/** Requests that answer with the result, `lanes` of them at a time. */
export async function saturateDirect(
  target: Target,
  { forms, images }: Orders,
  lanes: number,
  { warmUpSeconds, seconds }: Window,
): Promise<Throughput> {
  const client = new Client(target, lanes);
  const latencies: number[] = [];
  const from = performance.now() + warmUpSeconds * 1000;
  const to = from + seconds * 1000;
  const processors = machineSecondsBetween(from, to);
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
  const used = processors.end();
  await client.close();
  const done = latencies.length * images;
  return { imagesPerSecond: done / seconds, processorMs: (used * 1000) / done, latenciesMs: latencies };
}

/**
 * Orders that are answered before they are done: the queue is kept full. What is done is what was accepted and does not wait any more,
 * which costs the database less than counting it. Returns when nothing waits.
 */
export async function saturateQueue(
  target: Target,
  { forms, images }: Orders,
  depth: number,
  { warmUpSeconds, seconds }: Window,
  waiting: () => Promise<number>,
): Promise<Throughput> {
  const lanes = 2;
  const client = new Client(target, lanes);
  const latencies: number[] = [];
  let next = 0;
  let accepted = await waiting();
  const fill = async (wantedImages: number): Promise<void> => {
    let left = Math.ceil(wantedImages / images);
    const lane = async (): Promise<void> => {
      while (left-- > 0) {
        const { status, ms, text } = await client.post(forms[next++ % forms.length] ?? Buffer.alloc(0));
        if (status === 202) {
          latencies.push(ms);
          accepted += images;
        } else if (status !== 429) throw new Error(`answered ${status}: ${text.slice(0, 500)}`);
      }
    };
    await Promise.all(Array.from({ length: lanes }, lane));
  };
  /** Returns how many images are done by then. */
  const keepFull = async (milliseconds: number): Promise<number> => {
    const until = performance.now() + milliseconds;
    for (;;) {
      const now = await waiting();
      if (performance.now() >= until) return accepted - now;
      await fill(depth - now);
      await sleep(POLL_MS);
    }
  };
  const before = await keepFull(warmUpSeconds * 1000);
  latencies.length = 0;
  const begun = performance.now();
  const usedBefore = machineSeconds();
  const after = await keepFull(seconds * 1000);
  const elapsed = (performance.now() - begun) / 1000;
  const used = machineSeconds() - usedBefore;
  await client.close();
  for (const until = performance.now() + DRAIN_TIMEOUT_MS; (await waiting()) > 0; await sleep(POLL_MS)) {
    if (performance.now() > until) throw new Error('the queue did not become empty');
  }
  const done = after - before;
  return { imagesPerSecond: done / elapsed, processorMs: (used * 1000) / done, latenciesMs: latencies };
}
/** Each look costs the database a quarter of a millisecond, which counts against whom it looks at. */
const POLL_MS = 250;
const DRAIN_TIMEOUT_MS = 300_000;

export interface Reads {
  readonly connections: number;
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
}

/** The same reads again and again over so many connections. */
export async function readAgain(
  target: Target,
  paths: readonly string[],
  { warmUpSeconds, seconds }: Window,
  connections: number,
): Promise<Reads> {
  const client = new Client(target, connections);
  const latencies: number[] = [];
  const from = performance.now() + warmUpSeconds * 1000;
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
  return {
    connections,
    perSecond: latencies.length / seconds,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
  };
}

/** Of several rounds with as many readers. */
export function medianOf(rounds: readonly Reads[]): Reads {
  const of = (key: keyof Reads): number => median(rounds.map((round) => round[key]));
  return { connections: of('connections'), perSecond: of('perSecond'), p50: of('p50'), p99: of('p99') };
}
