/**
 * The vision layer: bytes of an image in, found and described cells out.
 * `createVision` loads the model once; `analyze` may be called any number of times at once.
 */

import { type CellAnswer, inferCells } from './cells.js';
import { imageConsistency } from './consistency.js';
import { DEFAULT_DECODE_LIMITS, type DecodeLimits, type OpenedImage, openImage } from './decode.js';
import { createInferencePool, type InferenceObserver, type InferencePool } from './infer.js';
import { cellFlags, maskOf, resolveOverlaps, touching } from './instances.js';
import { locateAround } from './locate.js';
import { loadModel, type Manifest } from './manifest.js';
import { describeMorphology } from './morphology.js';
import { assessQuality } from './quality.js';
import { nextTurn, toGrey } from './raster.js';
import { release } from './release.js';
import { createRoom } from './room.js';
import { estimateScale, MICRONS_PER_PIXEL_RANGE } from './scale.js';
import type { CellFinding, ImageAnalysis, ImageScale, ModelInfo, RgbImage } from './types.js';

export type { DecodeLimits } from './decode.js';
export { AnalysisCrashedError, ExecutionProviderError, ModelError, UndecodableImageError } from './errors.js';
export type { InferenceObserver } from './infer.js';
export { decodeGreyPng, encodeGreyPng, encodeRgbPng } from './png.js';
export { release } from './release.js';
export * from './render.js';
export { MICRONS_PER_PIXEL_RANGE } from './scale.js';
export type * from './types.js';

export type ExecutionProvider = 'auto' | 'cuda' | 'cpu';

export interface VisionLogEntry {
  readonly level: 'info' | 'warn';
  readonly message: string;
  readonly details?: Readonly<Record<string, string | number>>;
}

export interface VisionOptions {
  /** Folder that holds manifest.json and the ONNX files. */
  readonly modelDir: string;
  readonly executionProvider: ExecutionProvider;
  /** Which GPU, by CUDA's numbers; default 0. */
  readonly cudaDevice?: number;
  /** CPU threads for inference, all workers together; at least 1. */
  readonly threads: number;
  /** Worker threads, each with both networks loaded; default: the rule in sizing.ts. */
  readonly workers?: number;
  /** Most crops in one run of the cells network; default 4 on a processor, 64 on a GPU. */
  readonly batchCrops?: number;
  /** How long crops may wait for those of other images, in milliseconds; default 0: only what waits already shares a run. */
  readonly batchDelayMs?: number;
  readonly limits?: DecodeLimits;
  readonly onLog?: (entry: VisionLogEntry) => void;
  readonly observer?: InferenceObserver;
}

export interface AnalyzeOptions {
  /** µm per pixel of the posted image; estimated when absent. Accepted: MICRONS_PER_PIXEL_RANGE. */
  readonly micronsPerPixel?: number;
  /** Aborting rejects with the signal's reason, at the latest when the running stage ends. */
  readonly signal?: AbortSignal;
}

export interface Vision {
  readonly model: ModelInfo;
  /** Resolves with the reason when inference is not possible any more and only a new process can help. */
  readonly died: Promise<string>;
  /**
   * Finds and describes the cells of an image. Deterministic for the same bytes, model and provider (consistency: within 1e-6).
   * Rejects with UndecodableImageError (the image), RangeError (micronsPerPixel), AnalysisCrashedError (a thread or process
   * ended over it), InferenceError (the same call may succeed again) or the signal's reason.
   */
  analyze(bytes: Uint8Array, options?: AnalyzeOptions): Promise<ImageAnalysis>;
  /** Ends the worker threads; pending analyses reject with InferenceError. */
  close(): Promise<void>;
}

/**
 * Of all images that are analysed at the same time: camera frames side by side, large fields one after the other. A pixel costs
 * some 15 bytes until its image is done, and the cells of one large field keep every thread busy.
 */
const PIXELS_AT_ONCE = 16_000_000;

/**
 * Loads the model, checks it against its manifest and starts the inference threads.
 * Throws ModelError or ExecutionProviderError; both say what to do.
 */
export async function createVision(options: VisionOptions): Promise<Vision> {
  const model = await loadModel(options.modelDir);
  const pool = await createInferencePool({
    model,
    executionProvider: options.executionProvider,
    ...(options.cudaDevice === undefined ? {} : { cudaDevice: options.cudaDevice }),
    threads: options.threads,
    ...(options.workers === undefined ? {} : { workers: options.workers }),
    ...(options.batchCrops === undefined ? {} : { batchCrops: options.batchCrops }),
    ...(options.batchDelayMs === undefined ? {} : { batchDelayMs: options.batchDelayMs }),
    ...(options.onLog === undefined ? {} : { onLog: options.onLog }),
    ...(options.observer === undefined ? {} : { observer: options.observer }),
  });
  const { manifest } = model;
  const limits = options.limits ?? DEFAULT_DECODE_LIMITS;
  const room = createRoom(PIXELS_AT_ONCE);
  return {
    died: pool.died,
    model: {
      name: manifest.name,
      version: manifest.version,
      sha256: model.sha256,
      executionProvider: pool.executionProvider,
    },
    analyze: async (bytes, analyzeOptions = {}) => {
      if (analyzeOptions.micronsPerPixel !== undefined) checkScale(analyzeOptions.micronsPerPixel);
      const opened = await openImage(bytes, limits);
      const giveBack = await room.take(opened.width * opened.height, analyzeOptions.signal);
      try {
        return await analyze(opened, analyzeOptions, manifest, pool);
      } finally {
        giveBack();
      }
    },
    close: () => pool.close(),
  };
}

async function analyze(
  opened: OpenedImage,
  { micronsPerPixel, signal }: AnalyzeOptions,
  manifest: Manifest,
  pool: InferencePool,
): Promise<ImageAnalysis> {
  const stage = stopwatch(signal);
  const decoded = await stage('decode', () => opened.decode());
  const { image } = decoded;
  const run: InferencePool['field'] = (input) => pool.field(input, signal);
  const guess = await stage('scale', () => scaleOf(image, micronsPerPixel, manifest, run));
  const { scale, located } = await stage('locate', () => locateAround(image, guess, manifest.saliency, run));
  const working = scale.workingMicronsPerPixel;
  const answers = await stage('infer', () =>
    inferCells(image, located, working, manifest.cells, (input) => pool.cells(input, signal)),
  );
  return stage('postprocess', async (timingsMs) => {
    const cells = await describeCells(answers, image, scale, manifest);
    const scaleFlags = scale.source === 'unknown' ? ['scale_unknown'] : [];
    const quality = await assessQuality(located.field, [...scaleFlags, ...decoded.flags]);
    const saliency = toGrey(located.saliency.width, located.saliency.height, located.saliency.data);
    release(image.data, located.field.data, located.saliency.data);
    return {
      width: image.width,
      height: image.height,
      scale,
      quality,
      saliencyConsistency: imageConsistency(cells),
      cells,
      saliency,
      timingsMs,
    };
  });
}

function checkScale(micronsPerPixel: number): void {
  const { min, max } = MICRONS_PER_PIXEL_RANGE;
  if (!(micronsPerPixel >= min && micronsPerPixel <= max)) {
    throw new RangeError(`micronsPerPixel is ${micronsPerPixel}; a smear image has ${min} to ${max} µm per pixel.`);
  }
}

async function scaleOf(
  image: RgbImage,
  given: number | undefined,
  manifest: Manifest,
  run: InferencePool['field'],
): Promise<ImageScale> {
  if (given !== undefined) {
    return { micronsPerPixel: given, source: 'given', workingMicronsPerPixel: given, confidence: 1 };
  }
  const { micronsPerPixel, confidence } = await estimateScale(image, manifest.saliency, run);
  const known = confidence >= manifest.saliency.scaleConfidence;
  return {
    micronsPerPixel: known ? micronsPerPixel : null,
    source: known ? 'estimated' : 'unknown',
    workingMicronsPerPixel: micronsPerPixel,
    confidence,
  };
}

async function describeCells(
  answers: readonly CellAnswer[],
  image: RgbImage,
  scale: ImageScale,
  manifest: Manifest,
): Promise<CellFinding[]> {
  const kept = resolveOverlaps(answers, scale.workingMicronsPerPixel);
  await nextTurn();
  const touches = touching(
    kept.map(({ shape }) => shape),
    scale.workingMicronsPerPixel,
  );
  return kept.map(({ instance, shape }, i) => ({
    box: shape.box,
    areaPx: shape.areaPx,
    areaUm2: scale.micronsPerPixel === null ? null : shape.areaPx * scale.micronsPerPixel ** 2,
    class: instance.class,
    confidence: instance.confidence,
    probabilities: Object.fromEntries(manifest.cells.classes.map((name, c) => [name, instance.probabilities[c] ?? 0])),
    ...describeMorphology(instance.attributes, instance.class, maskOf(shape), manifest.cells),
    saliencyConsistency: instance.consistency,
    rejectScore: instance.reject,
    flags: cellFlags({
      shape,
      imageWidth: image.width,
      imageHeight: image.height,
      confidence: instance.confidence,
      consistency: instance.consistency,
      reject: instance.reject,
      touches: touches.has(i),
      scaleUnknown: scale.source === 'unknown',
      manifest: manifest.cells,
    }),
    mask: maskOf(shape),
    window: instance.window,
    crop: instance.crop,
    cam: instance.cam,
  }));
}

/** Runs stages, notes how long each took, and stops between them when the signal says so. */
function stopwatch(signal: AbortSignal | undefined) {
  const timingsMs: Record<string, number> = {};
  return async <T>(name: string, work: (timingsMs: Readonly<Record<string, number>>) => Promise<T>): Promise<T> => {
    signal?.throwIfAborted();
    const start = performance.now();
    try {
      return await work(timingsMs);
    } finally {
      timingsMs[name] = performance.now() - start;
    }
  };
}
