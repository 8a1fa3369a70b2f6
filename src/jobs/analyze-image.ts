/** The job `analyze-image`: an image, or several of an order, through the networks and into storage. May run twice for one image. */
import { WaitingError } from 'bullmq';
import type { Logger } from 'pino';
import { isCounted } from '../hematology/counting-frame.js';
import type { Metrics } from '../observability/metrics.js';
import type { Database } from '../storage/database.js';
import type { StoredProblem } from '../storage/documents.js';
import {
  type CellResult,
  type ImageResult,
  type ImageTask,
  releaseImage,
  saveImageFailure,
  saveImageResult,
  startImage,
  startImageUnlessUrgent,
  URGENT_FIRST,
} from '../storage/image-results.js';
import type { ApartVision } from '../vision/apart.js';
import {
  AnalysisCrashedError,
  type CellFinding,
  encodeGreyPng,
  encodeRgbPng,
  type ImageAnalysis,
  type ModelInfo,
  release,
  UndecodableImageError,
} from '../vision/index.js';
import { announce, endAnalysis, type FinishJobDeps, finishAnalysis } from './finish-analysis.js';
import { patiently } from './patience.js';
import { IMAGE_ANALYSIS_ERROR, IMAGE_INTERRUPTED, IMAGE_TIMEOUT, MAX_IMAGE_RUNS, undecodable } from './problems.js';
import { imagesOf, type QueueJob } from './queues.js';

/** Far beyond any image that passes the limits; ends what hangs. */
const IMAGE_TIMEOUT_MS = 10 * 60_000;

export interface AnalyzeImageDeps {
  readonly db: Database;
  readonly vision: Pick<ApartVision, 'analyze' | 'model'>;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Aborts when the process must end before its jobs have: they run again after the next start. */
  readonly shutdown: AbortSignal;
}

type ImageJob = QueueJob<'leukodiff-images'>;

/** An image of an analysis. */
interface Subject {
  readonly analysisId: string;
  readonly index: number;
}

/** One that this run has claimed. */
interface Claimed extends Subject {
  readonly task: ImageTask;
}

/**
 * Rejects for what another run may cure, once every image of the job has had its turn; what is wrong with an image itself is its result.
 * Where an urgent image waits between two of its own, the job goes back into the queue with those that are left.
 */
export async function analyzeImages(
  deps: AnalyzeImageDeps & FinishJobDeps,
  job: ImageJob,
  token: string,
): Promise<void> {
  const { analysisId, indexes } = imagesOf(job.data);
  const failures: unknown[] = [];
  let run = 0;
  for (const [i, index] of indexes.entries()) {
    const ends = job.data.last === true && i === indexes.length - 1 && failures.length === 0;
    // Each run of a job gets an image done, however many urgent ones wait; and one with a failure is a try, which the queue counts.
    const givesWay = run > 0 && failures.length === 0;
    const task = await claim(deps, job, { analysisId, index }, givesWay);
    if (task === URGENT_FIRST) return giveWay(deps, job, token);
    if (task === null) {
      // An earlier run had ended the image.
      if (ends) await finishAnalysis(deps, analysisId);
      continue;
    }
    run += 1;
    try {
      await (ends ? analyzeLastImage : analyzeImage)(deps, job, { analysisId, index, task });
    } catch (error) {
      if (deps.shutdown.aborted) throw error;
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
}

async function claim(
  { db, metrics, shutdown }: AnalyzeImageDeps,
  job: ImageJob,
  { analysisId, index }: Subject,
  givesWay: boolean,
): Promise<ImageTask | null | typeof URGENT_FIRST> {
  const begun = performance.now();
  // For those that share its job too.
  const waitedMs = Date.now() - job.timestamp;
  const start = givesWay ? startImageUnlessUrgent : startImage;
  const task = await patiently(shutdown, () => start(db, analysisId, index));
  if (task === null || task === URGENT_FIRST) return task;
  metrics.stageSeconds.observe({ stage: 'queue' }, Math.max(0, waitedMs) / 1000);
  metrics.stageSeconds.observe({ stage: 'load' }, (performance.now() - begun) / 1000);
  return task;
}

/** To the place in the line that the job had. The next run finds its finished images finished. */
async function giveWay({ log }: AnalyzeImageDeps, job: ImageJob, token: string): Promise<never> {
  await job.moveToWait(token);
  log.info({ analysisId: imagesOf(job.data).analysisId }, 'the images that are left of a job wait for an urgent one');
  throw new WaitingError();
}

async function analyzeImage(deps: AnalyzeImageDeps, job: ImageJob, image: Claimed): Promise<void> {
  await runImage(deps, job, image, async (result) => {
    const saved = await patiently(deps.shutdown, () => saveImageResult(deps.db, image.analysisId, image.index, result));
    return saved || null;
  });
}

/** The same for an image that nothing but the end of its order waits for: what was found is stored as the order ends, in one transaction. */
async function analyzeLastImage(deps: AnalyzeImageDeps & FinishJobDeps, job: ImageJob, image: Claimed): Promise<void> {
  const { analysisId, index } = image;
  const ended = await runImage(deps, job, image, async (result) => {
    const finished = await endAnalysis(deps, analysisId, { index, result });
    return finished?.changed ? finished : null;
  });
  if (ended !== null) await announce(deps, ended);
  // The image failed, or another run had ended it.
  else await finishAnalysis(deps, analysisId);
}

/** `store` answers null when nothing was stored, because the analysis has ended or was deleted. */
async function runImage<Stored>(
  deps: AnalyzeImageDeps,
  job: ImageJob,
  { analysisId, index, task }: Claimed,
  store: (result: ImageResult) => Promise<Stored | null>,
): Promise<Stored | null> {
  const { db, metrics, log } = deps;
  const begun = performance.now();
  const stored = <T>(work: () => Promise<T>): Promise<T> => patiently(deps.shutdown, work);
  const named = { analysisId, image: index, requestId: task.requestId };
  if (task.attempts > MAX_IMAGE_RUNS) return fail(IMAGE_INTERRUPTED);

  // One of AbortSignal.timeout would stay in memory until its time has come, long after the image is done.
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error('the image took too long')), IMAGE_TIMEOUT_MS);
  metrics.busy.inc();
  try {
    const analysis = await deps.vision.analyze(task.bytes, {
      ...(task.micronsPerPixel === null ? {} : { micronsPerPixel: task.micronsPerPixel }),
      signal: AbortSignal.any([late.signal, deps.shutdown]),
      // A run before this one was cut off. Should the image be the cause, it shall not end this process again.
      apart: task.attempts > 1,
    });
    for (const [stage, ms] of Object.entries(analysis.timingsMs)) metrics.stageSeconds.observe({ stage }, ms / 1000);
    const result = await timed('encode', () => toImageResult(analysis, deps.vision.model));
    const saved = await timed('store', () => store(result));
    if (saved === null) return null;
    metrics.images.inc({ outcome: 'completed', reason: 'none' });
    metrics.laboratory.image(task, result);
    log.info(
      { ...named, cells: result.cells.length, durationMs: Math.round(performance.now() - begun) },
      'image analysed',
    );
    return saved;
  } catch (error) {
    if (error instanceof UndecodableImageError) return await fail(undecodable(error.code, error.message));
    if (deps.shutdown.aborted) return await giveBack(error);
    if (late.signal.aborted) return await fail(IMAGE_TIMEOUT);
    log.warn({ ...named, attempt: job.attemptsMade + 1, err: error }, 'the analysis of an image failed');
    if (error instanceof AnalysisCrashedError) {
      if (task.attempts >= MAX_IMAGE_RUNS) return await fail(IMAGE_INTERRUPTED);
      // The run is not given back: it counts as one that a killed process left behind.
      throw error;
    }
    if (job.attemptsMade + 1 >= (job.opts.attempts ?? 1)) return await fail(IMAGE_ANALYSIS_ERROR);
    return await giveBack(error);
  } finally {
    clearTimeout(timer);
    metrics.busy.dec();
  }

  async function fail(problem: StoredProblem): Promise<null> {
    if (!(await stored(() => saveImageFailure(db, analysisId, index, problem)))) return null;
    metrics.images.inc({ outcome: 'failed', reason: problem.code });
    log.info({ ...named, problem: problem.code }, 'image failed');
    return null;
  }

  async function giveBack(error: unknown): Promise<never> {
    await stored(() => releaseImage(db, analysisId, index));
    throw error;
  }

  async function timed<T>(stage: string, work: () => Promise<T>): Promise<T> {
    const start = performance.now();
    try {
      return await work();
    } finally {
      metrics.stageSeconds.observe({ stage }, (performance.now() - start) / 1000);
    }
  }
}

/** What vision found, in the form that storage keeps: PNG instead of rasters, which are freed, and the border rule applied. */
export async function toImageResult(analysis: ImageAnalysis, model: ModelInfo): Promise<ImageResult> {
  const [saliency, cells] = await Promise.all([
    encodeGreyPng(analysis.saliency),
    Promise.all(analysis.cells.map((cell) => toCellResult(cell, analysis))),
  ]);
  release(analysis.saliency.data);
  return { ...analysis, model, saliency, cells };
}

async function toCellResult(cell: CellFinding, image: { width: number; height: number }): Promise<CellResult> {
  const [mask, crop, cam] = await Promise.all([
    encodeGreyPng(cell.mask),
    encodeRgbPng(cell.crop),
    encodeGreyPng(cell.cam),
  ]);
  release(cell.mask.data, cell.crop.data, cell.cam.data);
  const { window: _, ...found } = cell;
  return { ...found, counted: isCounted(cell, image), mask, crop, cam };
}
