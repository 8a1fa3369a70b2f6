/**
 * Analyses an image in a process of its own, so that a decoder or a network which crashes on it ends nothing else. Costs
 * the start of a process and the loading of the model: for images that a crash was seen with.
 */
import { fork } from 'node:child_process';
import { AnalysisCrashedError, InferenceError, type UndecodableImageCode, UndecodableImageError } from './errors.js';
import type { AnalyzeOptions, Vision, VisionOptions } from './index.js';
import type { ImageAnalysis } from './types.js';

export interface ApartVision extends Vision {
  /** `apart`: in a process of its own, one image at a time. */
  analyze(bytes: Uint8Array, options?: AnalyzeOptions & { readonly apart?: boolean }): Promise<ImageAnalysis>;
}

type ProcessOptions = Pick<VisionOptions, 'modelDir' | 'cudaDevice' | 'threads' | 'limits'>;

export interface ApartTask {
  readonly vision: VisionOptions;
  readonly bytes: Uint8Array;
  readonly micronsPerPixel: number | undefined;
}

export type ApartAnswer =
  | { readonly type: 'analysis'; readonly analysis: ImageAnalysis }
  | { readonly type: 'undecodable'; readonly code: UndecodableImageCode; readonly message: string }
  | { readonly type: 'error'; readonly message: string };

/** As `workerUrl` in infer.ts: under vitest the compiled process runs. */
function processUrl(): URL {
  return import.meta.url.endsWith('.ts')
    ? new URL('../../dist/vision/apart-process.js', import.meta.url)
    : new URL('./apart-process.js', import.meta.url);
}

/** The same vision, which can also analyse apart; one image at a time, because each process holds the model. */
export function withApart(vision: Vision, { modelDir, cudaDevice, threads, limits }: ProcessOptions): ApartVision {
  const { executionProvider } = vision.model;
  const options = {
    ...{ modelDir, threads, executionProvider },
    ...(cudaDevice === undefined ? {} : { cudaDevice }),
    ...(limits === undefined ? {} : { limits }),
  };
  let last: Promise<unknown> = Promise.resolve();
  return {
    ...vision,
    analyze: (bytes, { apart = false, ...run } = {}) => {
      if (!apart) return vision.analyze(bytes, run);
      const answer = last.then(() => runApart(options, bytes, run));
      last = answer.catch(() => undefined);
      return answer;
    },
  };
}

function runApart(
  vision: VisionOptions,
  bytes: Uint8Array,
  { micronsPerPixel, signal }: AnalyzeOptions,
): Promise<ImageAnalysis> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const child = fork(processUrl(), [], {
      serialization: 'advanced',
      execArgv: [],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const onAbort = (): void => {
      child.kill('SIGKILL');
      reject(signal?.reason);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    child.once('message', (answer: ApartAnswer) => {
      if (answer.type === 'analysis') resolve(answer.analysis);
      else if (answer.type === 'undecodable') reject(new UndecodableImageError(answer.code, answer.message));
      else reject(new InferenceError(`The image could not be analysed apart: ${answer.message}`));
    });
    child.once('error', (error) => reject(new InferenceError(`The process apart does not run: ${error.message}`)));
    child.once('close', (code, ended) => {
      signal?.removeEventListener('abort', onAbort);
      // Without effect behind an answer.
      reject(new AnalysisCrashedError(`The process apart ended with ${ended ?? `code ${code}`} over this image.`));
    });
    const task: ApartTask = { vision, bytes, micronsPerPixel };
    // A process that ends before it has read this says so by its end.
    child.send(task, () => undefined);
  });
}
