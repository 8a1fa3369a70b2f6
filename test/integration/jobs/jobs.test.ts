/** The jobs on a real database and the queue backend of this run; vision is a function that the test gives. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest';
import type { CellType } from '../../../src/hematology/cell-types.js';
import { enqueueAnalysis, type Queues } from '../../../src/jobs/queues.js';
import { type SweepDeps, sweep } from '../../../src/jobs/sweep.js';
import type { JobWorker, WorkerDeps } from '../../../src/jobs/worker.js';
import { createMetrics, type Metrics } from '../../../src/observability/metrics.js';
import {
  createAnalysis,
  deleteAnalysis,
  getAnalysisDocument,
  type NewAnalysis,
  waitForCompletion,
} from '../../../src/storage/analyses.js';
import { getCells } from '../../../src/storage/cells.js';
import { openDatabase } from '../../../src/storage/database.js';
import type { AnalysisDocument, Priority } from '../../../src/storage/documents.js';
import { startImage } from '../../../src/storage/image-results.js';
import { reviewCell, signAnalysis } from '../../../src/storage/reviews.js';
import type { ApartVision } from '../../../src/vision/apart.js';
import { AnalysisCrashedError, UndecodableImageError } from '../../../src/vision/index.js';
import {
  openTestDatabase,
  openTestQueues,
  QUEUE_BACKEND,
  type QueuePlace,
  queuePlace,
  SILENT,
  type TestDatabase,
  testObjects,
} from '../../support/database.js';
import { cellFinding, imageAnalysis, TEST_MODEL } from '../../support/findings.js';
import { openNetwork } from '../../support/network.js';
import { KEEP_ALL } from '../../support/retention.js';
import { type Received, type Receiver, startReceiver } from '../../support/webhooks.js';
import { startTestWorker, WORKER_CONFIG } from '../../support/worker.js';

const SECRET = `whsec_${randomBytes(32).toString('base64')}`;
const WAIT_MS = 60_000;

let test: TestDatabase;
let place: QueuePlace;
let queues: Queues;
let metrics: Metrics;
const workers: JobWorker[] = [];
const receivers: Receiver[] = [];

beforeEach(async () => {
  test = await openTestDatabase();
  place = queuePlace(test.database);
  queues = await openTestQueues(test.database, SILENT, place);
  metrics = createMetrics({ version: 'test' });
});
afterEach(async () => {
  for (const worker of workers.splice(0)) await worker.close(5_000);
  for (const one of receivers.splice(0)) await one.close();
  await queues.close();
  await test.close();
});

type Analyze = ApartVision['analyze'];
const oneNeutrophil: Analyze = async () => imageAnalysis([cellFinding('neutrophil')]);
/** Images are told apart by their text. */
const textOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

function work(analyze: Analyze, more: Partial<WorkerDeps> = {}): JobWorker {
  const worker = startTestWorker({
    config: { publicUrl: 'https://lab.test' },
    db: test.database,
    queues,
    vision: { analyze, model: TEST_MODEL },
    metrics,
    webhookSecret: SECRET,
    retryScheduleMs: [50, 100],
    ...more,
  });
  workers.push(worker);
  return worker;
}

function sweepDeps(config: Partial<SweepDeps['config']> = {}): SweepDeps {
  return {
    db: test.database,
    queues,
    metrics,
    log: SILENT,
    publicUrl: undefined,
    config: { maxAnalysisAgeMinutes: 60, ...KEEP_ALL, ...config },
  };
}

async function store(texts: readonly string[], order: NewAnalysis = {}): Promise<string> {
  const images = texts.map((text, n) => ({ filename: `${n}.png`, contentType: 'image/png', bytes: Buffer.from(text) }));
  return (await createAnalysis(test.database, 'default', { ...order, images })).id;
}

/** As the API does it: with the place in the line that storage gave. */
async function postFor(laboratory: string, texts: readonly string[], priority: Priority): Promise<string> {
  const images = texts.map((text, n) => ({ filename: `${n}.png`, contentType: 'image/png', bytes: Buffer.from(text) }));
  const { id, turn } = await createAnalysis(test.database, laboratory, { priority, images });
  await enqueueAnalysis(queues, { id, imageCount: texts.length, priority, turn });
  return id;
}

async function post(texts: readonly string[], order: NewAnalysis = {}, imagesPerJob = 1): Promise<string> {
  const id = await store(texts, order);
  const place = { priority: order.priority ?? 'routine', turn: 0, imagesPerJob };
  await queues.addAnalysis(
    id,
    texts.map((_, index) => index),
    place,
  );
  return id;
}

/** Jobs that wait, in both queues that an order's may be in. */
async function waitingJobs(): Promise<{ images: number; analyses: number }> {
  const counts = await queues.counts();
  const inAll = (name: 'leukodiff-images' | 'leukodiff-analyses'): number =>
    Object.values(counts[name]).reduce((sum, count) => sum + count, 0);
  return { images: inAll('leukodiff-images'), analyses: inAll('leukodiff-analyses') };
}

async function ended(id: string): Promise<AnalysisDocument> {
  const document = await waitForCompletion(test.database, 'default', id, WAIT_MS);
  if (document === null) throw new Error('the analysis is gone, or goes on');
  return document;
}

async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + WAIT_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await sleep(20);
  }
}

/** A receiver that answers with `statuses` in turn, the last one for good. */
async function receiver(statuses: readonly number[], headers: Record<string, string> = {}): Promise<Receiver> {
  const started = await startReceiver(statuses, headers);
  receivers.push(started);
  return started;
}

const deliveryOf = (id: string) => test.database.prisma.delivery.findFirst({ where: { analysisId: id } });

describe(`jobs, queue on ${QUEUE_BACKEND}`, () => {
  it('is the backend that this run is about', () => {
    expect(queues.backend).toBe(QUEUE_BACKEND);
  });

  it('bring an analysis of several images to its result', async () => {
    work(async (bytes) =>
      imageAnalysis(
        textOf(bytes) === 'two' ? [cellFinding('lymphocyte'), cellFinding('lymphocyte')] : [cellFinding('neutrophil')],
      ),
    );
    const document = await ended(await post(['one', 'two', 'three'], { wbcCount: 4 }));
    expect(document).toMatchObject({
      status: 'completed',
      model: TEST_MODEL,
      differential: { totalWbc: 4, wbcCount: 4 },
    });
    expect(document.images.map((image) => image.cellCount)).toEqual([1, 2, 1]);
    const counts = Object.fromEntries(document.differential?.classes.map((row) => [row.class, row.count]) ?? []);
    expect(counts).toMatchObject({ neutrophil: 2, lymphocyte: 2, monocyte: 0 });
    // What has ended is counted once it is committed: whoever waits for the result may be a moment ahead of the counter.
    await expect
      .poll(() => metrics.registry.metrics(), { timeout: WAIT_MS })
      .toContain('leukodiff_analyses_total{outcome="completed"} 1');
    const text = await metrics.registry.metrics();
    expect(text).toContain('leukodiff_images_total{outcome="completed",reason="none"} 3');
    expect(text).toContain('leukodiff_cells_total{class="lymphocyte",site="other"} 2');
  });

  it('count the cells of an image once that came twice, also when people change them', async () => {
    work(async (bytes) =>
      imageAnalysis(
        textOf(bytes) === 'one' ? [cellFinding('blast'), cellFinding('unidentified')] : [cellFinding('monocyte')],
      ),
    );
    const id = await post(['one', 'two', 'one'], { targetCells: 2 });
    const document = await ended(id);
    expect(document.images.map((image) => image.repeatOf)).toEqual([null, null, 0]);
    expect(document.images.map((image) => image.cellCount)).toEqual([2, 1, 2]);
    expect(document.differential).toMatchObject({ totalWbc: 2, notCounted: 0 });
    const reasons = Object.fromEntries(document.review?.reasons.map((one) => [one.code, one]) ?? []);
    expect(reasons['image_repeated']).toMatchObject({ value: 1, images: [2] });
    expect(reasons['blasts_present']).toMatchObject({ value: 1, images: [0] });
    // Nobody has to look at the same cell twice.
    expect(document.verification).toMatchObject({ cellsToReview: 2, cellsLeft: 2 });
    const { items } = (await getCells(test.database, 'default', id, { limit: 10 })) ?? { items: [] };
    expect(items.map((cell) => [cell.id, cell.counted])).toEqual([
      ['0-0', true],
      ['0-1', true],
      ['1-0', true],
      ['2-0', false],
      ['2-1', false],
    ]);
    const context = {
      reviewer: 'mlopez',
      comment: null,
      isCurrent: () => true,
      eventsOf: () => [],
      reportsOf: () => [],
    };
    const act = (cell: string, to: CellType) => reviewCell(test.database, 'default', id, cell, to, context);
    expect(await act('0-0', 'blast')).toMatchObject({ kind: 'done' });
    expect(await act('2-0', 'lymphocyte')).toMatchObject({ kind: 'done' });
    expect(await act('0-1', 'neutrophil')).toMatchObject({
      kind: 'done',
      document: { differential: { totalWbc: 3 }, verification: { cellsLeft: 0 } },
    });
    const signed = await signAnalysis(test.database, 'default', id, context);
    expect(signed).toMatchObject({ kind: 'done', document: { verification: { status: 'final' } } });
  });

  it('analyse images of one order side by side', async () => {
    let running = 0;
    let most = 0;
    work(async () => {
      running += 1;
      most = Math.max(most, running);
      await until(() => most >= 3 || running === 0, 'three at once');
      running -= 1;
      return imageAnalysis([]);
    });
    await ended(await post(['a', 'b', 'c']));
    expect(most).toBeGreaterThanOrEqual(3);
  });

  it('give vision the posted bytes and the posted scale', async () => {
    const seen: [string, number | undefined][] = [];
    work(async (bytes, options) => {
      seen.push([textOf(bytes), options?.micronsPerPixel]);
      return imageAnalysis([]);
    });
    await ended(await post(['given'], { micronsPerPixel: 0.16 }));
    await ended(await post(['absent']));
    expect(seen).toEqual([
      ['given', 0.16],
      ['absent', undefined],
    ]);
  });

  it('complete an analysis when an image cannot be read, and fail it when none can', async () => {
    work(async (bytes) => {
      if (textOf(bytes) === 'bad')
        throw new UndecodableImageError('image-truncated', 'The file ends too early. Export it again.');
      return imageAnalysis([cellFinding('neutrophil')]);
    });
    const mixed = await ended(await post(['good', 'bad']));
    expect(mixed).toMatchObject({ status: 'completed', differential: { totalWbc: 1 } });
    expect(mixed.images[1]).toMatchObject({
      status: 'failed',
      problem: { code: 'image-truncated', detail: 'The file ends too early. Export it again.' },
    });
    expect(mixed.review?.reasons.map((reason) => reason.code)).toContain('image_failed');
    const none = await ended(await post(['bad', 'bad']));
    expect(none).toMatchObject({ status: 'failed', differential: null, problem: { code: 'all-images-failed' } });
    expect((await ended(await post(['bad']))).problem?.code).toBe('image-truncated');
  });

  it('try again what may pass', async () => {
    let runs = 0;
    work(async () => {
      runs += 1;
      if (runs < 3) throw new Error('the inference thread crashed');
      return imageAnalysis([cellFinding('neutrophil')]);
    });
    const document = await ended(await post(['x']));
    expect(document).toMatchObject({ status: 'completed', differential: { totalWbc: 1 } });
    expect(runs).toBe(3);
  });

  it('give up on an image after a bounded number of tries, without an internal message in the answer', async () => {
    let runs = 0;
    work(async (bytes) => {
      if (textOf(bytes) === 'good') return imageAnalysis([]);
      runs += 1;
      throw new TypeError('tensor shape 3x4 secret detail');
    });
    const document = await ended(await post(['good', 'poison']));
    expect(document.images[1]).toMatchObject({ status: 'failed', problem: { code: 'image-analysis-error' } });
    expect(JSON.stringify(document)).not.toContain('secret detail');
    expect(runs).toBe(5);
  });

  it('give up on an image whose runs were cut off again and again', async () => {
    const id = await store(['killer']);
    // As three workers left it that were killed.
    await test.database.pool.query(`UPDATE images SET status = 'processing', attempts = 3 WHERE analysis_id = $1`, [
      id,
    ]);
    let runs = 0;
    work(async () => {
      runs += 1;
      return imageAnalysis([]);
    });
    await enqueueAnalysis(queues, { id, imageCount: 1, priority: 'routine' });
    expect((await ended(id)).problem?.code).toBe('image-interrupted');
    expect(runs).toBe(0);
  });

  it('run an image apart that ended its thread, and give it up after a bounded number of tries', async () => {
    const apart: (boolean | undefined)[] = [];
    work(async (bytes, options) => {
      if (textOf(bytes) === 'good') return imageAnalysis([cellFinding('neutrophil')]);
      apart.push(options?.apart);
      throw new AnalysisCrashedError('the thread ended');
    });
    const document = await ended(await post(['good', 'poison']));
    expect(document.differential?.totalWbc).toBe(1);
    expect(document.images[1]?.problem?.code).toBe('image-interrupted');
    expect(apart).toEqual([false, true, true]);
  });

  it('wait for a database that is away, and keep what they have found', async () => {
    let runs = 0;
    let found = (): void => undefined;
    let letGo = (): void => undefined;
    const running = new Promise<void>((settle) => {
      found = settle;
    });
    const away = new Promise<void>((settle) => {
      letGo = settle;
    });
    const url = new URL(test.url);
    const network = await openNetwork(Number(url.port));
    url.port = String(network.port);
    const db = await openDatabase({
      databaseUrl: url.href,
      dataDir: '/nonexistent',
      log: SILENT,
      objects: testObjects(),
    });
    const analyze: Analyze = async () => {
      runs += 1;
      found();
      await away;
      return imageAnalysis([cellFinding('neutrophil')]);
    };
    const worker = work(analyze, { db });
    const id = await post(['a']);
    await running;
    network.sever();
    letGo();
    await sleep(2_000);
    network.heal();
    const document = await ended(id);
    expect(document).toMatchObject({ status: 'completed', differential: { totalWbc: 1 } });
    expect(runs).toBe(1);
    await worker.close(5_000);
    await db.close();
    await network.close();
  });

  it('give one result when they run twice', async () => {
    let runs = 0;
    const hook = await receiver([200]);
    const id = await store(['a', 'b'], { callbackUrl: hook.url });
    await enqueueAnalysis(queues, { id, imageCount: 2, priority: 'routine' });
    await enqueueAnalysis(queues, { id, imageCount: 2, priority: 'routine' });
    work(async () => {
      runs += 1;
      return imageAnalysis([cellFinding('neutrophil')]);
    });
    const document = await ended(id);
    await until(() => hook.received.length > 0, 'the webhook');
    expect(document.differential?.totalWbc).toBe(2);
    await enqueueAnalysis(queues, { id, imageCount: 2, priority: 'routine' });
    await sleep(1_500);
    expect(await getAnalysisDocument(test.database, 'default', id)).toEqual(document);
    expect((await getCells(test.database, 'default', id, { limit: 10 }))?.total).toBe(2);
    expect(hook.received).toHaveLength(1);
    // Those that came while the first ones ran found their image taken or done.
    expect(runs).toBeLessThanOrEqual(4);
  });

  it('let an urgent order pass those that wait', async () => {
    const order: string[] = [];
    const routine = await post(Array.from({ length: 5 }, (_, n) => `routine ${n}`));
    const stat = await post(['stat'], { priority: 'stat' });
    work(
      async (bytes) => {
        order.push(textOf(bytes));
        return imageAnalysis([]);
      },
      { config: { ...WORKER_CONFIG, workerConcurrency: 1 } },
    );
    await ended(stat);
    await ended(routine);
    expect(order[0]).toBe('stat');
    expect(order).toHaveLength(6);
  });

  it('let laboratories take turns, however many images one of them has sent', async () => {
    const order: string[] = [];
    const from = (laboratory: string, names: readonly string[], priority: Priority = 'routine'): Promise<string> =>
      postFor(
        laboratory,
        names.map((name) => `${laboratory} ${name}`),
        priority,
      );
    await from('large', ['1', '2', '3', '4', '5', '6']);
    await from('large', ['7', '8']);
    await from('small', ['1', '2']);
    // A new order lines up behind those of its own laboratory.
    await from('small', ['3']);
    await from('large', ['urgent 1', 'urgent 2', 'urgent 3'], 'stat');
    await from('third', ['urgent'], 'stat');
    let late: Promise<string> | undefined;
    work(
      async (bytes) => {
        order.push(textOf(bytes));
        // Comes when most is done: it begins where the others are, with no arrears to make up.
        if (order.length === 12) late = from('late', ['1', '2', '3']);
        await late;
        return imageAnalysis([]);
      },
      { config: { ...WORKER_CONFIG, workerConcurrency: 1 } },
    );
    await until(() => order.length === 18, 'all images');
    const urgent = order.slice(0, 4);
    expect([...urgent].sort()).toEqual(['large urgent 1', 'large urgent 2', 'large urgent 3', 'third urgent']);
    expect(urgent.indexOf('third urgent')).toBeLessThan(2);
    const routine = order.slice(4, 12);
    // Three of the small laboratory's among the first six, in the order that it sent them.
    expect(routine.slice(0, 6).filter((name) => name.startsWith('small'))).toEqual(['small 1', 'small 2', 'small 3']);
    expect(order.filter((name) => /^large \d/.test(name))).toEqual(
      Array.from({ length: 8 }, (_, i) => `large ${i + 1}`),
    );
    // The late one shares what is left with the large one.
    const rest = order.slice(12);
    expect(rest.slice(0, 4).filter((name) => name.startsWith('late')).length).toBeGreaterThanOrEqual(2);
    expect(rest.slice(0, 5).some((name) => name.startsWith('large'))).toBe(true);
  });

  it('take several images each, one after the other, and end an order that is one job', async () => {
    const id = await post(['one', 'two', 'three'], {}, 10);
    expect(await waitingJobs()).toEqual({ images: 1, analyses: 0 });
    const seen: string[] = [];
    let atOnce = 0;
    work(async (bytes) => {
      atOnce += 1;
      seen.push(textOf(bytes));
      await sleep(20);
      expect(atOnce--).toBe(1);
      return imageAnalysis([cellFinding('neutrophil')]);
    });
    const document = await ended(id);
    expect(document).toMatchObject({ status: 'completed', differential: { totalWbc: 3 } });
    expect(seen).toEqual(['one', 'two', 'three']);
    await until(async () => (await waitingJobs()).images === 0, 'the end of the job');
  });

  it('share the images of a long order, and one ends it', async () => {
    const id = await post(['1', '2', '3', '4', '5'], {}, 2);
    expect(await waitingJobs()).toEqual({ images: 3, analyses: 1 });
    expect(await sweep(sweepDeps(), { graceMs: 0 })).toMatchObject({ reenqueued: 0 });
    work(oneNeutrophil);
    expect(await ended(id)).toMatchObject({ status: 'completed', differential: { totalWbc: 5 } });
  });

  it.each([10, 2])('try an image again without the others of its job, %i of which share one', async (imagesPerJob) => {
    const runs = new Map<string, number>();
    work(async (bytes) => {
      const run = (runs.get(textOf(bytes)) ?? 0) + 1;
      runs.set(textOf(bytes), run);
      if (textOf(bytes) === 'unlucky' && run < 3) throw new Error('the inference thread crashed');
      if (textOf(bytes) === 'poison') throw new TypeError('no such tensor');
      return imageAnalysis([cellFinding('neutrophil')]);
    });
    const document = await ended(await post(['a', 'unlucky', 'poison', 'b'], {}, imagesPerJob));
    expect(document).toMatchObject({ status: 'completed', differential: { totalWbc: 3 } });
    expect(document.images.map(({ problem }) => problem?.code ?? null)).toEqual([
      null,
      null,
      'image-analysis-error',
      null,
    ]);
    expect(Object.fromEntries(runs)).toEqual({ a: 1, unlucky: 3, poison: 5, b: 1 });
  });

  it('give way to an urgent order between two of their images, and go on behind it', async () => {
    const seen: string[] = [];
    const routine = await post(['a', 'b', 'c', 'd'], {}, 10);
    let stat = '';
    work(
      async (bytes) => {
        seen.push(textOf(bytes));
        if (textOf(bytes) === 'b') stat = await post(['urgent 1', 'urgent 2'], { priority: 'stat' });
        return imageAnalysis([cellFinding('neutrophil')]);
      },
      { config: { ...WORKER_CONFIG, workerConcurrency: 1 } },
    );
    const document = await ended(routine);
    expect(document).toMatchObject({ status: 'completed', differential: { totalWbc: 4 } });
    expect((await ended(stat)).differential?.totalWbc).toBe(2);
    expect(seen).toEqual(['a', 'b', 'urgent 1', 'urgent 2', 'c', 'd']);
    await until(async () => (await waitingJobs()).images === 0, 'the end of the jobs');
  });

  it('get done while an urgent order waits that the queue does not have', async () => {
    await store(['urgent'], { priority: 'stat' });
    const seen: string[] = [];
    work(async (bytes) => {
      seen.push(textOf(bytes));
      return imageAnalysis([cellFinding('neutrophil')]);
    });
    expect((await ended(await post(['a', 'b', 'c'], {}, 10))).differential?.totalWbc).toBe(3);
    expect(seen.filter((text) => text !== 'urgent')).toEqual(['a', 'b', 'c']);
  });

  it('try an image again that failed before an urgent order came', async () => {
    const seen: string[] = [];
    const routine = await post(['unlucky', 'b', 'c'], {}, 10);
    work(
      async (bytes) => {
        seen.push(textOf(bytes));
        if (textOf(bytes) === 'b') await post(['urgent'], { priority: 'stat' });
        if (seen.length === 1) throw new Error('the inference thread crashed');
        return imageAnalysis([cellFinding('neutrophil')]);
      },
      { config: { ...WORKER_CONFIG, workerConcurrency: 1 } },
    );
    expect((await ended(routine)).differential?.totalWbc).toBe(3);
    expect(seen.toSorted()).toEqual(['b', 'c', 'unlucky', 'unlucky', 'urgent']);
  });

  it('run an image apart that ended its thread, and those that share its job do not suffer', async () => {
    const apart: Record<string, (boolean | undefined)[]> = {};
    work(async (bytes, options) => {
      apart[textOf(bytes)] = [...(apart[textOf(bytes)] ?? []), options?.apart];
      if (textOf(bytes) === 'poison') throw new AnalysisCrashedError('the thread ended');
      return imageAnalysis([cellFinding('neutrophil')]);
    });
    const document = await ended(await post(['poison', 'good', 'last'], {}, 10));
    expect(document.differential?.totalWbc).toBe(2);
    expect(document.images[0]?.problem?.code).toBe('image-interrupted');
    expect(apart).toEqual({ poison: [false, true, true], good: [false], last: [false] });
  });

  it('leave an analysis alone that was deleted meanwhile', async () => {
    let id = '';
    let runs = 0;
    work(async (bytes) => {
      runs += 1;
      if (textOf(bytes) === 'deleted') await deleteAnalysis(test.database, 'default', id);
      return imageAnalysis([cellFinding('neutrophil')]);
    });
    id = await post(['deleted']);
    await until(() => runs === 1, 'the run');
    // The worker lives.
    expect((await ended(await post(['next']))).status).toBe('completed');
    expect(await getAnalysisDocument(test.database, 'default', id)).toBeNull();
  });
});

describe(`the sweep, queue on ${QUEUE_BACKEND}`, () => {
  it('enqueues what was committed and never enqueued', async () => {
    const id = await store(['a', 'b']);
    expect(await sweep(sweepDeps(), { graceMs: 60_000 })).toMatchObject({ reenqueued: 0 });
    expect(await sweep(sweepDeps(), { graceMs: 0 })).toMatchObject({ reenqueued: 1 });
    work(oneNeutrophil);
    expect((await ended(id)).differential?.totalWbc).toBe(2);
  });

  it('leaves alone what is on its way', async () => {
    const id = await post(['a', 'b']);
    expect(await sweep(sweepDeps(), { graceMs: 0 })).toMatchObject({ reenqueued: 0 });
    work(oneNeutrophil);
    expect((await ended(id)).status).toBe('completed');
  });

  it('leaves alone, and brings back, an order of one image: its one job does it all', async () => {
    const id = await post(['only']);
    expect(await queues.hasAnalysis(id)).toBe(true);
    expect(await sweep(sweepDeps(), { graceMs: 0 })).toMatchObject({ reenqueued: 0 });
    expect(await waitingJobs()).toEqual({ images: 1, analyses: 0 });
    await queues.removeAnalysis(id);
    expect(await queues.hasAnalysis(id)).toBe(false);
    expect(await sweep(sweepDeps(), { graceMs: 0 })).toMatchObject({ reenqueued: 1 });
    work(oneNeutrophil);
    expect((await ended(id)).differential?.totalWbc).toBe(1);
  });

  it('lets the job of a single image end the analysis that an earlier run left without its end', async () => {
    const id = await post(['only']);
    await test.database.pool.query(
      `UPDATE images SET status = 'completed', cell_count = 0 WHERE analysis_id = $1 AND index = 0`,
      [id],
    );
    let runs = 0;
    work(async (bytes) => {
      runs += 1;
      return oneNeutrophil(bytes);
    });
    expect((await ended(id)).status).toBe('completed');
    expect(runs).toBe(0);
  });

  it('brings back an analysis whose jobs are all gone, without doing finished images again', async () => {
    const seen: string[] = [];
    const id = await post(['first', 'second']);
    await queues.removeAnalysis(id);
    expect(await queues.hasAnalysis(id)).toBe(false);
    await test.database.pool.query(
      `UPDATE images SET status = 'completed', cell_count = 0 WHERE analysis_id = $1 AND index = 0`,
      [id],
    );
    expect(await sweep(sweepDeps(), { graceMs: 0 })).toMatchObject({ reenqueued: 1 });
    work(async (bytes) => {
      seen.push(textOf(bytes));
      return imageAnalysis([]);
    });
    expect((await ended(id)).status).toBe('completed');
    expect(seen).toEqual(['second']);
  });

  it('brings back an analysis of which only the end is missing', async () => {
    const id = await store(['a']);
    await test.database.pool.query(`UPDATE images SET status = 'completed', cell_count = 0 WHERE analysis_id = $1`, [
      id,
    ]);
    expect(await sweep(sweepDeps(), { graceMs: 0 })).toMatchObject({ reenqueued: 1 });
    work(oneNeutrophil);
    expect((await ended(id)).status).toBe('completed');
  });

  it.each([10, 2])(
    'brings back an order of which a worker of an older version took a job of several images (%i)',
    async (imagesPerJob) => {
      // As such a worker reads every job.
      const older = [
        queues.work('leukodiff-images', 1, async ({ data }) => {
          const { analysisId, index } = data as { analysisId: string; index: number };
          expect(await startImage(test.database, analysisId, index)).toBeNull();
        }),
        queues.work('leukodiff-analyses', 1, async ({ data }) => {
          const { analysisId } = data as { analysisId: string };
          expect(await getAnalysisDocument(test.database, 'default', analysisId)).toBeNull();
        }),
      ];
      const id = await post(['a', 'b', 'c', 'd'], {}, imagesPerJob);
      await until(async () => !(await queues.hasAnalysis(id)), 'the older worker');
      for (const one of older) await one.close();
      expect(await getAnalysisDocument(test.database, 'default', id)).toMatchObject({ status: 'queued' });
      expect(await sweep(sweepDeps(), { graceMs: 0 })).toMatchObject({ reenqueued: 1 });
      // In the form that every version knows.
      expect(await waitingJobs()).toEqual({ images: 4, analyses: 1 });
      work(oneNeutrophil);
      expect((await ended(id)).differential?.totalWbc).toBe(4);
    },
  );

  it('brings back what a worker whose clock was an hour ahead had taken, put off, or said of its looks for lost jobs', async () => {
    // There the clock of the server counts.
    if (QUEUE_BACKEND === 'redis') return expect(await queues.correctClock()).toBe(0);
    const { pool } = test.database;
    const [taken, off] = [await post(['taken']), await post(['put off'])];
    const inAnHour = Date.now() + 3_600_000;
    await pool.query(
      `UPDATE bullmq.job SET state = 'active', lock_token = 'gone', locked_until_ms = $2, stalled_marked = true WHERE id = $1`,
      [taken, inAnHour],
    );
    await pool.query(`UPDATE bullmq.job SET state = 'delayed', process_at_ms = $2 WHERE id = $1`, [off, inAnHour]);
    await pool.query(
      `INSERT INTO bullmq.meta (queue, field, value) VALUES ('leukodiff-images', 'stalled-check', $1)
       ON CONFLICT (queue, field) DO UPDATE SET value = excluded.value`,
      [inAnHour],
    );
    await sweep(sweepDeps());
    expect(await queues.correctClock()).toBe(0);
    work(oneNeutrophil);
    for (const id of [off, taken]) expect((await ended(id)).status).toBe('completed');
  });

  it('fails an analysis that is too old, with a reason, and tells its receiver', async () => {
    const hook = await receiver([200]);
    const id = await post(['a'], { callbackUrl: hook.url });
    await test.database.pool.query(`UPDATE analyses SET created_at = now() - interval '61 minutes' WHERE id = $1`, [
      id,
    ]);
    expect(await sweep(sweepDeps())).toMatchObject({ expired: 1 });
    expect(await ended(id)).toMatchObject({ status: 'failed', problem: { code: 'analysis-expired' } });
    let runs = 0;
    work(async () => {
      runs += 1;
      return imageAnalysis([]);
    });
    await until(() => hook.received.length === 1, 'the webhook');
    expect(JSON.parse(hook.received[0]?.body ?? '{}')).toMatchObject({ type: 'analysis.failed' });
    expect(runs).toBe(0);
  });

  it('removes what is older than the retention', async () => {
    const old = await store(['a']);
    const young = await store(['b']);
    await test.database.pool.query(`UPDATE analyses SET created_at = now() - interval '8 days' WHERE id = $1`, [old]);
    expect(await sweep(sweepDeps({ ...KEEP_ALL, maxAnalysisAgeMinutes: 100_000 }))).toMatchObject({ removed: 0 });
    expect(await sweep(sweepDeps({ retentionDays: 7, maxAnalysisAgeMinutes: 100_000 }))).toMatchObject({ removed: 1 });
    expect(await getAnalysisDocument(test.database, 'default', old)).toBeNull();
    expect(await getAnalysisDocument(test.database, 'default', young)).not.toBeNull();
  });

  it('brings back a delivery whose job is gone', async () => {
    const hook = await receiver([200]);
    const id = await store(['a'], { callbackUrl: hook.url });
    await test.database.pool.query(`UPDATE analyses SET status = 'completed' WHERE id = $1`, [id]);
    await test.database.pool.query(
      `INSERT INTO deliveries (id, analysis_id, event_type, url, body, next_attempt_at)
       VALUES (gen_random_uuid(), $1, 'analysis.completed', $2, '{}', now() - interval '2 minutes')`,
      [id, hook.url],
    );
    expect(await sweep(sweepDeps())).toMatchObject({ deliveries: 1 });
    work(oneNeutrophil);
    await until(() => hook.received.length === 1, 'the webhook');
    await until(async () => (await deliveryOf(id))?.status === 'delivered', 'the row');
  });

  it.each(['prompt', 'failing'] as const)('hastens a %s delivery that a wrong clock put off', async (lane) => {
    const hook = await receiver(lane === 'prompt' ? [500, 200] : [500, 500, 200]);
    work(oneNeutrophil, { retryScheduleMs: lane === 'prompt' ? [3_600_000] : [50, 3_600_000] });
    const id = await post(['a'], { callbackUrl: hook.url });
    const attempts = lane === 'prompt' ? 1 : 2;
    const waits = async (): Promise<boolean> => {
      const row = await deliveryOf(id);
      return row?.status === 'pending' && row.attempts === attempts && row.lastStatus === 500;
    };
    await until(() => hook.received.length === attempts && waits(), 'the attempt that fails');
    const delayed = async (): Promise<boolean> =>
      Object.values(await queues.counts()).some((states) => (states['delayed'] ?? 0) > 0);
    await until(delayed, 'the job that waits');
    expect(await sweep(sweepDeps())).toMatchObject({ deliveries: 0 });
    await test.database.pool.query(
      `UPDATE deliveries SET next_attempt_at = now() - interval '2 minutes' WHERE analysis_id = $1`,
      [id],
    );
    expect(await sweep(sweepDeps())).toMatchObject({ deliveries: 1 });
    await until(async () => (await deliveryOf(id))?.status === 'delivered', 'the row');
    expect(hook.received).toHaveLength(attempts + 1);
  });
});

describe(`webhooks, queue on ${QUEUE_BACKEND}`, () => {
  it('arrive signed, and say where the result is', async () => {
    const hook = await receiver([204]);
    work(oneNeutrophil);
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    const origin = { requestId: 'lis-1', traceparent, tracestate: 'lis=1' };
    const id = await post(['a'], { callbackUrl: hook.url, accessionNumber: 'A-7', origin });
    await until(() => hook.received.length === 1, 'the webhook');
    const [{ headers, body }] = hook.received as [Received];
    const event = new Webhook(SECRET).verify(body, headers as Record<string, string>);
    expect(event).toMatchObject({
      type: 'analysis.completed',
      data: {
        id,
        status: 'completed',
        accessionNumber: 'A-7',
        totalWbc: 1,
        links: { self: `https://lab.test/analyses/${id}` },
      },
    });
    expect(headers).toMatchObject({
      'content-type': 'application/json',
      'x-request-id': 'lis-1',
      traceparent,
      tracestate: 'lis=1',
    });
    expect(() =>
      new Webhook(`whsec_${randomBytes(32).toString('base64')}`).verify(body, headers as Record<string, string>),
    ).toThrow();
    await until(async () => (await deliveryOf(id))?.status === 'delivered', 'the row');
    expect(await deliveryOf(id)).toMatchObject({ attempts: 1, lastStatus: 204, nextAttemptAt: null });
  });

  it('are tried again with the same id and body until they arrive', async () => {
    const hook = await receiver([500, 503, 200]);
    work(oneNeutrophil);
    const id = await post(['a'], { callbackUrl: hook.url });
    await until(() => hook.received.length === 3, 'three attempts');
    expect(new Set(hook.received.map((one) => one.headers['webhook-id'])).size).toBe(1);
    expect(new Set(hook.received.map((one) => one.body)).size).toBe(1);
    for (const { headers, body } of hook.received) new Webhook(SECRET).verify(body, headers as Record<string, string>);
    await until(async () => (await deliveryOf(id))?.status === 'delivered', 'the row');
    expect((await deliveryOf(id))?.attempts).toBe(3);
  });

  it('are given up when the schedule is used up', async () => {
    const hook = await receiver([500]);
    work(oneNeutrophil);
    const id = await post(['a'], { callbackUrl: hook.url });
    await until(async () => (await deliveryOf(id))?.status === 'failed', 'giving up');
    expect(hook.received).toHaveLength(3);
    expect(await deliveryOf(id)).toMatchObject({
      attempts: 3,
      lastStatus: 500,
      lastError: 'the receiver answered 500',
    });
  });

  it('are given up at once when the receiver says Gone', async () => {
    const hook = await receiver([410]);
    work(oneNeutrophil);
    const id = await post(['a'], { callbackUrl: hook.url });
    await until(async () => (await deliveryOf(id))?.status === 'failed', 'giving up');
    expect(hook.received).toHaveLength(1);
  });

  it('do not follow a redirect', async () => {
    const elsewhere = await receiver([200]);
    const hook = await receiver([302], { location: elsewhere.url });
    work(oneNeutrophil);
    const id = await post(['a'], { callbackUrl: hook.url });
    await until(async () => (await deliveryOf(id))?.status === 'failed', 'giving up');
    expect(elsewhere.received).toHaveLength(0);
    expect(await deliveryOf(id)).toMatchObject({ lastStatus: 302 });
  });

  it('that nobody receives do not disturb the result', async () => {
    work(oneNeutrophil);
    const gone = await receiver([200]);
    await gone.close();
    const id = await post(['a'], { callbackUrl: gone.url });
    expect((await ended(id)).status).toBe('completed');
    await until(async () => (await deliveryOf(id))?.status === 'failed', 'giving up');
    expect((await deliveryOf(id))?.lastError).toBe('ECONNREFUSED');
  });
});

describe(`the worker's end, queue on ${QUEUE_BACKEND}`, () => {
  it('waits for running images and leaves waiting ones to the next worker', async () => {
    const done: string[] = [];
    const slow: Analyze = async (bytes) => {
      await sleep(500);
      done.push(textOf(bytes));
      return imageAnalysis([]);
    };
    const config = { ...WORKER_CONFIG, workerConcurrency: 1 };
    const first = work(slow, { config });
    const id = await post(['a', 'b', 'c']);
    await until(
      async () => (await getAnalysisDocument(test.database, 'default', id))?.status === 'processing',
      'the start',
    );
    await first.close(10_000);
    const atClose = done.length;
    expect(atClose).toBe(1);
    await sleep(1_200);
    expect(done).toHaveLength(atClose);
    work(slow, { config });
    expect((await ended(id)).status).toBe('completed');
    expect(done.toSorted()).toEqual(['a', 'b', 'c']);
  });

  it('cuts off what takes too long; it runs again and counts nothing against the image', async () => {
    let runs = 0;
    const hanging: Analyze = (_bytes, options) =>
      new Promise((_, fail) => {
        runs += 1;
        options?.signal?.addEventListener('abort', () => fail(options.signal?.reason));
      });
    const first = work(hanging);
    const id = await post(['a']);
    await until(() => runs === 1, 'the run');
    const begun = performance.now();
    await first.close(200);
    expect(performance.now() - begun).toBeLessThan(5_000);
    work(oneNeutrophil);
    expect((await ended(id)).differential?.totalWbc).toBe(1);
    const [row] = (
      await test.database.pool.query<{ attempts: number }>('SELECT attempts FROM images WHERE analysis_id = $1', [id])
    ).rows;
    expect(row?.attempts).toBe(1);
  });
});

describe(`trouble, queue on ${QUEUE_BACKEND}`, () => {
  it.each([1, 10])('a worker that is killed loses its images to another, %i of them in a job', async (imagesPerJob) => {
    const script = fileURLToPath(new URL('../../support/hanging-worker.ts', import.meta.url));
    const args = ['--import', 'tsx', script, place.databaseUrl, place.redisUrl ?? '', place.prefix ?? ''];
    const env = { ...process.env, TEST_S3_URL: inject('s3Url') };
    const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
    const id = await post(['a', 'b'], {}, imagesPerJob);
    await new Promise((settle) => child.stdout.once('data', settle));
    child.kill('SIGKILL');
    work(oneNeutrophil);
    expect((await ended(id)).differential?.totalWbc).toBe(2);
  });

  it('lost database connections are made again, by the jobs, the queue and those who wait', async () => {
    work(oneNeutrophil);
    expect((await ended(await post(['before']))).status).toBe('completed');
    await test.database.pool
      .query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()`)
      .catch(() => undefined);
    await sleep(200);
    for (let n = 0; n < 3; n++) {
      const id = await post([`after ${n}`]);
      const begun = performance.now();
      expect((await ended(id)).status).toBe('completed');
      expect(performance.now() - begun).toBeLessThan(20_000);
    }
  });
});
