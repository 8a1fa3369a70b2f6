/** The HTTP layer on a real database and a real queue, with nobody working on the queue: tests write results themselves. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import type { InjectOptions, LightMyRequestResponse } from 'fastify';
import { type Logger, pino } from 'pino';
import { Registry } from 'prom-client';
import sharp from 'sharp';
import { loadConfig } from '../../../src/config.js';
import type { CellType } from '../../../src/hematology/cell-types.js';
import { buildApp } from '../../../src/http/app.js';
import type { HttpConfig, HttpDeps, ReadinessCheck } from '../../../src/http/deps.js';
import type { App } from '../../../src/http/types.js';
import { conclude } from '../../../src/jobs/finish-analysis.js';
import type { Queues } from '../../../src/jobs/queues.js';
import { type Database, openDatabase } from '../../../src/storage/database.js';
import { saveImageFailure, saveImageResult, startImage } from '../../../src/storage/image-results.js';
import { finishAnalysis } from '../../../src/storage/results.js';
import type { ModelInfo } from '../../../src/vision/types.js';
import { openTestDatabase, openTestQueues, type TestDatabase, testObjects } from '../../support/database.js';

export const MODEL: ModelInfo = {
  name: 'sg-cldff',
  version: '1.0.0',
  sha256: 'ab'.repeat(32),
  executionProvider: 'cpu',
};

export interface Harness {
  readonly app: App;
  readonly database: Database;
  readonly queues: Queues;
  readonly config: HttpConfig;
  /** Everything that was logged, as text. */
  readonly log: () => string;
  readonly setReadiness: (checks: readonly ReadinessCheck[]) => void;
  /** Listens, once, and answers the port. */
  readonly listen: () => Promise<number>;
  /** Files of uploads that lie on the disk now. */
  readonly spooled: () => Promise<string[]>;
  readonly analysesStored: () => Promise<number>;
  readonly close: () => Promise<void>;
}

/**
 * @param overrides Of the default configuration.
 * @param server `own`: an embedded server of its own below `dataDir`, for tests that take it away; or a database that is open.
 */
export async function startHarness(
  overrides: Partial<HttpConfig> = {},
  server: 'shared' | 'own' | TestDatabase = 'shared',
  outgoing?: HttpDeps['outgoing'],
): Promise<Harness> {
  const dataDir = await mkdtemp(join(tmpdir(), 'leukodiff-http-'));
  const lines: string[] = [];
  const sink = new PassThrough().on('data', (chunk: Buffer) => lines.push(chunk.toString()));
  const logger = pino({ level: 'debug' }, sink);
  const { database, close: closeDatabase } =
    server === 'own' ? await openOwn(dataDir, logger) : server === 'shared' ? await openTestDatabase() : server;
  const queues = await openTestQueues(database, logger);
  // Most tests are about something else than who may; those that are not ask for keys.
  const config: HttpConfig = { ...loadConfig({ ACCESS: 'open' }), dataDir, ...overrides };
  let checks: readonly ReadinessCheck[] = [{ name: 'database', ok: true, detail: 'answers' }];
  const app = await buildApp({
    config,
    database,
    queues,
    model: MODEL,
    outgoing,
    logger,
    metrics: new Registry(),
    readiness: async () => checks,
    version: '0.1.0',
  });
  return {
    app,
    database,
    queues,
    config,
    log: () => lines.join(''),
    setReadiness: (next) => {
      checks = next;
    },
    listen: async () => {
      if (!app.server.listening) await app.listen({ host: '127.0.0.1', port: 0 });
      return (app.server.address() as AddressInfo).port;
    },
    spooled: async () =>
      (await readdir(join(dataDir, 'spool'), { recursive: true, withFileTypes: true }))
        .filter((entry) => entry.isFile())
        .map((entry) => entry.name),
    analysesStored: () => database.prisma.analysis.count(),
    close: async () => {
      await app.close();
      await queues.close();
      await closeDatabase();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}

async function openOwn(dataDir: string, log: Logger): Promise<{ database: Database; close: () => Promise<void> }> {
  const database = await openDatabase({ dataDir, log, objects: testObjects() });
  return { database, close: () => database.close() };
}

export type FormEntry = readonly [name: string, value: string | Blob, filename?: string];

/** `POST /analyze` with a well-formed form. */
export async function post(
  app: App,
  entries: readonly FormEntry[],
  headers: Record<string, string> = {},
): Promise<LightMyRequestResponse> {
  return app.inject(await analyzeRequest(entries, headers));
}

export async function analyzeRequest(
  entries: readonly FormEntry[],
  headers: Record<string, string> = {},
): Promise<InjectOptions> {
  const { contentType, body } = await encodeForm(entries);
  return { method: 'POST', url: '/analyze', headers: { 'content-type': contentType, ...headers }, payload: body };
}

export async function encodeForm(entries: readonly FormEntry[]): Promise<{ contentType: string; body: Buffer }> {
  const form = new FormData();
  for (const [name, value, filename] of entries) {
    if (typeof value === 'string') form.append(name, value);
    else form.append(name, value, filename ?? 'file.bin');
  }
  const response = new Response(form);
  const contentType = response.headers.get('content-type') ?? '';
  return { contentType, body: Buffer.from(await response.arrayBuffer()) };
}

/** A raw multipart body, for forms that no library would write. */
export function rawForm(parts: readonly { headers: string; body: string | Buffer }[], boundary = 'b0undary'): Buffer {
  const chunks = parts.flatMap(({ headers, body }) => [
    Buffer.from(`--${boundary}\r\n${headers}\r\n\r\n`),
    Buffer.from(body),
    Buffer.from('\r\n'),
  ]);
  return Buffer.concat([...chunks, Buffer.from(`--${boundary}--\r\n`)]);
}

export function blob(bytes: Uint8Array | string, type = 'application/octet-stream'): Blob {
  return new Blob([typeof bytes === 'string' ? bytes : new Uint8Array(bytes)], { type });
}

/** A picture that decodes: `width` × `height`, one colour. */
export function picture(format: 'jpeg' | 'png' | 'webp' | 'tiff', width = 64, height = 48): Promise<Buffer> {
  return sharp({ create: { width, height, channels: 3, background: '#e8dfe6' } })
    .toFormat(format)
    .toBuffer();
}

/** Stores what a worker would store: two cells in every image, failures where asked, and the end. */
export async function finish(
  { database }: Pick<Harness, 'database'>,
  id: string,
  options: {
    readonly images: number;
    readonly failed?: readonly number[];
    readonly end?: boolean;
    /** Cells of these classes in every image instead, all of them counted. */
    readonly classes?: readonly CellType[];
  },
): Promise<void> {
  const mask = await sharp(Buffer.alloc(20 * 16, 128), { raw: { width: 20, height: 16, channels: 1 } })
    .toColourspace('b-w')
    .png()
    .toBuffer();
  const grey = (size: number, value: number) =>
    sharp(Buffer.alloc(size * size, value), { raw: { width: size, height: size, channels: 1 } })
      .toColourspace('b-w')
      .png()
      .toBuffer();
  const crop = await picture('png', 160, 160);
  const cam = await grey(20, 200);
  const saliency = await grey(8, 77);
  const cell = (x: number, type: CellType, counted: boolean) => ({
    box: { x, y: 10, width: 20, height: 16 },
    areaPx: 320,
    areaUm2: 81.9,
    class: type,
    confidence: 0.97,
    probabilities: { neutrophil: 0.97, lymphocyte: 0.03 },
    subtype: type === 'neutrophil' ? { value: 'segmented', probability: 0.9 } : null,
    morphology: { attributes: { nucleusShape: { value: 'irregular', probability: 0.8 } }, nuclearAreaRatio: 0.4 },
    saliencyConsistency: 0.8,
    rejectScore: 0.02,
    flags: counted ? [] : (['border'] as const),
    counted,
    mask,
    crop,
    cam,
  });
  for (let index = 0; index < options.images; index += 1) {
    await startImage(database, id, index);
    if (options.failed?.includes(index)) {
      await saveImageFailure(database, id, index, {
        code: 'image-truncated',
        title: 'The image cannot be read',
        detail: 'The JPEG ends before its picture does. Send the whole file again.',
      });
      continue;
    }
    await saveImageResult(database, id, index, {
      width: 64,
      height: 48,
      scale: { micronsPerPixel: 0.5, source: 'estimated', workingMicronsPerPixel: 0.5, confidence: 0.9 },
      quality: { sharpness: 120, brightness: 0.8, clipped: 0, background: 0.4, flags: [] },
      saliencyConsistency: 0.8,
      timingsMs: { decode: 1, infer: 20 },
      model: MODEL,
      saliency,
      cells: options.classes?.map((type) => cell(5, type, true)) ?? [
        cell(5, 'neutrophil', true),
        cell(40, 'lymphocyte', false),
      ],
    });
  }
  if (options.end === false) return;
  await finishAnalysis(database, id, {
    interrupted: { code: 'image-interrupted', title: 'Interrupted', detail: 'Interrupted.' },
    eventsOf: (document) => [{ type: `analysis.${document.status}`, body: '{}', occurrence: '', toCallback: true }],
    conclude,
  });
}
