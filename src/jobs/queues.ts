/**
 * The queues: their names, what their jobs carry, and the backend they live in. Jobs carry ids only; what is to be done
 * stands in the committed rows, so a queue may lose every job and nothing is lost (see sweep.ts).
 */
import {
  type BackendClasses,
  createPostgresBackend,
  createRedisBackend,
  type FlowJobNode,
  type IQueueBackend,
  type Job,
  type JobsOptions,
  type PgPool,
  type Processor,
  type Queue,
  runMigrations,
  type Telemetry,
  withBackend,
} from 'bullmq';
import type { Logger } from 'pino';
import { ExpectedError } from '../errors.js';
import type { QueueLoad } from '../storage/analyses.js';
import type { Lane } from '../storage/deliveries.js';
import type { Priority } from '../storage/documents.js';
import { correctQueueClock } from '../storage/queue-clock.js';
import { openQueuePool } from '../storage/queue-pool.js';
import type { PendingReport } from '../storage/reports.js';
import { SharedListener } from '../storage/shared-listener.js';
import { imagesPerJob, inPortions, MAX_IMAGES_PER_JOB } from './portions.js';
import { MAX_IMAGE_RUNS } from './problems.js';

export const QUEUE_NAMES = [
  'leukodiff-images',
  'leukodiff-analyses',
  'leukodiff-deliveries',
  // Deliveries to receivers that fail: waiting for these must not use up the places of the others.
  'leukodiff-failing-deliveries',
  'leukodiff-hl7',
  'leukodiff-fhir',
] as const;
export type QueueName = (typeof QUEUE_NAMES)[number];

interface MayBeLast {
  /** The analysis has no images but this job's to wait for: it ends the analysis too, and none of `leukodiff-analyses` is there. */
  readonly last?: boolean;
}
interface OneImage extends MayBeLast {
  readonly analysisId: string;
  readonly index: number;
}
/**
 * Their analysis is not called `analysisId`: a worker of a version that knows jobs of one image only finds nothing to do there, and the
 * sweep adds the images again, one by one (docs/decisions/0089). The same goes for the job that ends an analysis behind such jobs.
 */
interface SeveralImages extends MayBeLast {
  readonly portionOf: string;
  readonly indexes: readonly number[];
}
export type AnalyzeImagesData = OneImage | SeveralImages;
export type FinishAnalysisData = { readonly analysisId: string } | { readonly portionsOf: string };
export interface DeliverData {
  readonly deliveryId: string;
}
export interface SendReportData {
  readonly reportId: string;
}
interface JobData {
  'leukodiff-images': AnalyzeImagesData;
  'leukodiff-analyses': FinishAnalysisData;
  'leukodiff-deliveries': DeliverData;
  'leukodiff-failing-deliveries': DeliverData;
  'leukodiff-hl7': SendReportData;
  'leukodiff-fhir': SendReportData;
}

export type QueueJob<Q extends QueueName> = Pick<
  Job<JobData[Q]>,
  'id' | 'data' | 'attemptsMade' | 'opts' | 'timestamp' | 'moveToDelayed' | 'moveToWait'
>;

/**
 * Lower is earlier; 0 would be earlier than any. Each class has half of the 2^21 priorities that BullMQ knows, one for each turn
 * of a laboratory; from the last one on, which takes a million turns of unbroken waiting, images run as they came.
 */
const TURNS = 2 ** 20 - 1;
const FIRST_PRIORITY: Readonly<Record<Priority, number>> = { stat: 1, routine: 1 + TURNS };
/**
 * The lock of a running job lapses after this time without renewal, and another worker takes it: the wait after a
 * crash. It is renewed every half of it by the main thread, which inference never blocks.
 */
const LOCK_MS = 15_000;
const STALLED_CHECK_MS = 5_000;
/** Storage counts the runs of an image and gives up itself; the queue's own count, of all images of a job, shall not come before it. */
const MAX_STALLED = MAX_IMAGES_PER_JOB * (MAX_IMAGE_RUNS + 1);
const KEEP_FAILED = { age: 24 * 60 * 60, count: 1_000 };
const EVENT_STREAM_LENGTH = 1_000;
const CLOSE_TIMEOUT_MS = 5_000;

/** Retries of what may pass: a lost connection, a crashed inference thread. 1, 2, 4, 8 s, or less by chance. */
const TRIES = 5;
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = FIRST_WAIT_MS * 2 ** (TRIES - 2);
const RETRIES: JobsOptions = {
  attempts: TRIES,
  backoff: { type: 'exponential', delay: FIRST_WAIT_MS, jitter: 0.5 },
};

/** The images of a job, in their order, and of which analysis they are. */
export function imagesOf(data: AnalyzeImagesData): {
  readonly analysisId: string;
  readonly indexes: readonly number[];
} {
  if ('portionOf' in data) return { analysisId: data.portionOf, indexes: data.indexes };
  return { analysisId: data.analysisId, indexes: [data.index] };
}

export const analysisToFinish = (data: FinishAnalysisData): string =>
  'portionsOf' in data ? data.portionsOf : data.analysisId;

export interface PlaceInLine {
  /** `stat` before `routine`, whoever sent it. */
  readonly priority: Priority;
  /** Within a priority: of the analysis's image 0; every further one comes a turn later (docs/decisions/0072). */
  readonly turn: number;
  /** At most so many images share a job (portions.ts). Default 1. */
  readonly imagesPerJob?: number;
}

export interface DeliveryJobOptions {
  /** Default `prompt`. */
  readonly lane?: Lane;
  /** Also where a job of this delivery is there that runs or waits for later; which of them comes first does it. */
  readonly again?: boolean;
  /** It is due by the database's clock: where its job waits for later, the clock that timed it was wrong, and it runs now. */
  readonly overdue?: boolean;
}

export interface RunningWorker {
  /** Waits for running jobs; with `force` it leaves them to the lapse of their locks. */
  close(force?: boolean): Promise<void>;
}

export interface Queues {
  readonly backend: 'postgres' | 'redis';
  /** Adds the jobs of an analysis: those of its images, and one that ends it after them; where one has all images it does both. */
  addAnalysis(analysisId: string, imageIndexes: readonly number[], place: PlaceInLine): Promise<void>;
  /** Whether a job that will end the analysis is there. */
  hasAnalysis(analysisId: string): Promise<boolean>;
  /** Takes the jobs of an analysis out; those that run go on and find their rows ended. */
  removeAnalysis(analysisId: string): Promise<void>;
  addDelivery(deliveryId: string, options?: DeliveryJobOptions): Promise<void>;
  addReport(report: PendingReport, options?: Pick<DeliveryJobOptions, 'overdue'>): Promise<void>;
  work<Q extends QueueName>(
    name: Q,
    concurrency: number,
    processor: (job: QueueJob<Q>, token: string) => Promise<void>,
  ): RunningWorker;
  /** Takes back what a process with a wrong clock wrote; returns in how many places. On Redis the server's clock counts. */
  correctClock(): Promise<number>;
  counts(): Promise<Record<QueueName, Record<string, number>>>;
  /** Rejects when the backend does not answer. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

export interface QueuesOptions {
  /** Undefined: the queues live in PostgreSQL. */
  readonly redisUrl?: string | undefined;
  readonly databaseUrl: string;
  readonly log: Logger;
  /** Keeps the queues of several services on one Redis apart. */
  readonly prefix?: string;
  /** Spans of the jobs, in the trace of whoever added them. */
  readonly telemetry?: Telemetry | undefined;
}

/** Connects, and brings the queue's own tables up to date. Throws `ExpectedError` when the backend cannot be reached. */
export async function openQueues(options: QueuesOptions): Promise<Queues> {
  const queues =
    options.redisUrl === undefined ? await openPostgres(options) : await openRedis(options, options.redisUrl);
  return queues;
}

async function openPostgres({ databaseUrl, log, telemetry }: QueuesOptions): Promise<Queues> {
  const pool = openQueuePool(databaseUrl, log);
  try {
    const client = await pool.connect();
    try {
      await runMigrations(client);
    } finally {
      client.release();
    }
  } catch (error) {
    await pool.end();
    throw error;
  }
  // BullMQ describes the part of a pool that it uses; pg's overloads do not fit that description word for word.
  const producer = pool as unknown as PgPool;
  const worker = new SharedListener(pool);
  return build(
    'postgres',
    withBackend(createPostgresBackend),
    { producer, worker },
    telemetry === undefined ? {} : { telemetry },
    log,
    {
      correctClock: () =>
        correctQueueClock(pool, {
          lockMs: LOCK_MS,
          checkMs: STALLED_CHECK_MS,
          prompt: ['leukodiff-images', 'leukodiff-analyses'] satisfies QueueName[],
          longestWaitMs: LONGEST_WAIT_MS,
        }),
      release: async () => {
        await worker.end();
        await pool.end();
      },
    },
  );
}

async function openRedis({ log, prefix, telemetry }: QueuesOptions, url: string): Promise<Queues> {
  const connection = { url, connectTimeout: 10_000, retryStrategy: (times: number) => Math.min(times * 200, 5_000) };
  const queues = build(
    'redis',
    withBackend(createRedisBackend),
    {
      // The API answers at once when Redis is down (the row is committed, the sweep enqueues it) ...
      producer: { ...connection, enableOfflineQueue: false, maxRetriesPerRequest: 1 },
      // ... while a worker waits for it to come back.
      worker: { ...connection, maxRetriesPerRequest: null },
    },
    { ...(prefix === undefined ? {} : { prefix }), ...(telemetry === undefined ? {} : { telemetry }) },
    log,
    { correctClock: async () => 0, release: async () => undefined },
  );
  try {
    await within(15_000, queues.ping());
  } catch (error) {
    await within(2_000, queues.close()).catch(() => undefined);
    const { host } = new URL(url);
    throw new ExpectedError(
      `Redis at ${host} cannot be used: ${error instanceof Error ? error.message : String(error)}. ` +
        'Check REDIS_URL, or leave it out to keep the queue in PostgreSQL.',
    );
  }
  return queues;
}

function build<B extends IQueueBackend, C>(
  backend: Queues['backend'],
  classes: BackendClasses<B, C>,
  connections: { readonly producer: C; readonly worker: C },
  namespace: { readonly prefix?: string; readonly telemetry?: Telemetry },
  log: Logger,
  { correctClock, release }: Pick<Queues, 'correctClock'> & { readonly release: () => Promise<void> },
): Queues {
  const common = { connection: connections.producer, ...namespace };
  const open = <D>(name: QueueName) => {
    const queue = new classes.Queue<D>(name, { ...common, streams: { events: { maxLen: EVENT_STREAM_LENGTH } } });
    queue.on('error', (error) => onError(error));
    return queue;
  };
  let lastError = '';
  const onError = (error: Error): void => {
    // A backend that is down reports itself several times a second, from every connection.
    if (error.message === lastError) return;
    lastError = error.message;
    setTimeout(() => {
      lastError = '';
    }, 10_000).unref();
    log.warn({ reason: error.message }, 'the queue reports an error');
  };
  const images = open<AnalyzeImagesData>('leukodiff-images');
  const analyses = open<FinishAnalysisData>('leukodiff-analyses');
  const deliveries = open<DeliverData>('leukodiff-deliveries');
  const failingDeliveries = open<DeliverData>('leukodiff-failing-deliveries');
  const reports = { hl7: open<SendReportData>('leukodiff-hl7'), fhir: open<SendReportData>('leukodiff-fhir') };
  const flows = new classes.FlowProducer(common);
  flows.on('error', onError);
  const all = {
    'leukodiff-images': images,
    'leukodiff-analyses': analyses,
    'leukodiff-deliveries': deliveries,
    'leukodiff-failing-deliveries': failingDeliveries,
    'leukodiff-hl7': reports.hl7,
    'leukodiff-fhir': reports.fhir,
  };

  // Where the job that ends an analysis may be; it bears the analysis's id.
  const endings = [analyses, images] as const;

  return {
    backend,
    correctClock,
    addAnalysis: async (analysisId, imageIndexes, { priority, turn, imagesPerJob: most = 1 }) => {
      const first = FIRST_PRIORITY[priority];
      const opts = {
        ...RETRIES,
        priority: first,
        removeOnComplete: true,
        removeOnFail: KEEP_FAILED,
      };
      const priorityOf = (index: number): number => first + Math.min(turn + index, TURNS - 1);
      const jobOf = ([index = 0, ...more]: readonly number[]): {
        name: string;
        data: AnalyzeImagesData;
        opts: JobsOptions;
      } => ({
        name: 'analyze-image',
        data: more.length === 0 ? { analysisId, index } : { portionOf: analysisId, indexes: [index, ...more] },
        opts: { ...opts, priority: priorityOf(index) },
      });
      const portions = inPortions(imageIndexes, most);
      const [only] = portions;
      if (only !== undefined && portions.length === 1) {
        // A flow of two would cost the queue twice as much and the result 2 ms.
        const job = jobOf(only);
        await images.add(job.name, { ...job.data, last: true }, { ...job.opts, jobId: analysisId });
        return;
      }
      const children: FlowJobNode[] = portions.map(jobOf).map((job) => ({
        ...job,
        queueName: 'leukodiff-images',
        // An image that cannot be analysed must not keep its analysis from ending.
        opts: { ...job.opts, ignoreDependencyOnFailure: true },
      }));
      const eachAlone = portions.length === imageIndexes.length;
      await flows.add({
        name: 'finish-analysis',
        queueName: 'leukodiff-analyses',
        data: (eachAlone ? { analysisId } : { portionsOf: analysisId }) satisfies FinishAnalysisData,
        opts: { ...opts, jobId: analysisId },
        children,
      });
    },
    hasAnalysis: async (analysisId) => {
      for (const queue of endings) {
        const state = (await (await queue.getJob(analysisId))?.getState()) ?? 'unknown';
        if (state !== 'completed' && state !== 'failed' && state !== 'unknown') return true;
      }
      return false;
    },
    removeAnalysis: async (analysisId) => {
      for (const queue of endings) {
        const job = await queue.getJob(analysisId);
        // A job that runs is locked and stays; it will find its analysis ended.
        await job?.remove({ removeChildren: true }).catch(() => undefined);
      }
    },
    addDelivery: async (deliveryId, { lane = 'prompt', again = false, overdue = false } = {}) => {
      if (overdue && (await hasten([deliveries, failingDeliveries], deliveryId))) return;
      // Its row is its memory: a finished job that stayed would keep the sweep from adding it again.
      const opts = { removeOnComplete: true, removeOnFail: true, ...(again ? {} : { jobId: deliveryId }) };
      await (lane === 'prompt' ? deliveries : failingDeliveries).add('deliver', { deliveryId }, opts);
    },
    addReport: async ({ id, channel }, { overdue = false } = {}) => {
      if (overdue && (await hasten([reports[channel]], id))) return;
      const opts = { jobId: id, removeOnComplete: true, removeOnFail: true };
      await reports[channel].add('send-report', { reportId: id }, opts);
    },
    work: (name, concurrency, processor) => {
      // A receiver of HL7 messages takes one at a time, however many workers there are.
      if (name === 'leukodiff-hl7') void reports.hl7.setGlobalConcurrency(1).catch(onError);
      const run = processor as unknown as Processor;
      const worker = new classes.Worker(name, (job, token) => run(job, token), {
        ...namespace,
        connection: connections.worker,
        concurrency,
        lockDuration: LOCK_MS,
        stalledInterval: STALLED_CHECK_MS,
        maxStalledCount: MAX_STALLED,
      });
      worker.on('error', onError);
      worker.on('stalled', (jobId) => log.warn({ queue: name, jobId }, 'a job lost its worker and will run again'));
      return { close: (force) => worker.close(force) };
    },
    counts: async () => {
      const entries = QUEUE_NAMES.map(async (name) => [name, await all[name].getJobCounts()] as const);
      return Object.fromEntries(await Promise.all(entries)) as Record<QueueName, Record<string, number>>;
    },
    ping: async () => {
      await analyses.waitUntilReady();
      await analyses.getJobCounts('active');
    },
    close: async () => {
      // A backend that is down does not answer; its connections end with the process.
      const closed = Promise.allSettled([...Object.values(all), flows].map((one) => one.close()));
      await within(CLOSE_TIMEOUT_MS, closed).catch(() => undefined);
      await release();
    },
  };
}

/** Ends the wait of a job that is there and waits for its time. False: none does. */
async function hasten(queues: readonly Pick<Queue, 'getJob'>[], jobId: string): Promise<boolean> {
  for (const queue of queues) {
    const job = await queue.getJob(jobId);
    if (job === undefined || !(await job.isDelayed())) continue;
    // Its time may come meanwhile.
    await job.promote().catch(() => undefined);
    return true;
  }
  return false;
}

export interface AnalysisToEnqueue {
  readonly id: string;
  readonly imageCount: number;
  readonly priority: Priority;
  /** Absent: as if nobody waited. */
  readonly turn?: number;
  /** What waited when it came, and the size of its largest image. Absent: as if nothing did. */
  readonly among?: { readonly load: QueueLoad; readonly pixels: number };
}

/**
 * Enqueues a stored analysis. When it throws, the row is committed all the same and the sweep will enqueue it: the
 * request that brought it has succeeded.
 */
export async function enqueueAnalysis(
  queues: Queues,
  { id, imageCount, priority, turn = 0, among }: AnalysisToEnqueue,
): Promise<void> {
  await queues.addAnalysis(
    id,
    Array.from({ length: imageCount }, (_, index) => index),
    { priority, turn, imagesPerJob: among === undefined ? 1 : imagesPerJob(priority, among) },
  );
}

async function within<T>(ms: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, fail) => {
    timer = setTimeout(() => fail(new Error(`no answer in ${ms / 1000} s`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
