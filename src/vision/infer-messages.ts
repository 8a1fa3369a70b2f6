/**
 * What the pool and its worker threads say to each other. Fields and answers are transferred; crops lie in memory that both
 * sides see, so that the pool can give them to another run when one fails.
 */
import type { Manifest, SessionSignature } from './manifest.js';

/** One RGB field of the saliency network's scale, sides multiples of manifest.saliency.multipleOf. */
export interface FieldInput {
  readonly kind: 'field';
  readonly width: number;
  readonly height: number;
  /** height × width × 3 */
  readonly rgb: Uint8Array<ArrayBuffer>;
}

export interface FieldOutput {
  readonly kind: 'field';
  /** Of the maps: input width and height ÷ stride. */
  readonly width: number;
  readonly height: number;
  readonly saliency: Float32Array<ArrayBuffer>;
  readonly centres: Float32Array<ArrayBuffer>;
  /** Log-probability for each scale bin. */
  readonly scale: Float32Array<ArrayBuffer>;
}

export interface CellsInput {
  readonly kind: 'cells';
  readonly count: number;
  /** count × size × size × 3; not to be written to until the answer is there. */
  readonly crops: Uint8Array<SharedArrayBuffer>;
  /** count × size × size */
  readonly prior: Float32Array<SharedArrayBuffer>;
}

/** Crops of one or several jobs, for one run. */
export interface CellsBatch {
  readonly kind: 'batch';
  readonly inputs: readonly CellsInput[];
}

export interface CellsOutput {
  readonly kind: 'cells';
  readonly count: number;
  /** count × classes */
  readonly probabilities: Float32Array<ArrayBuffer>;
  /** count × 3 × mask × mask: background, cytoplasm, nucleus */
  readonly segmentation: Float32Array<ArrayBuffer>;
  /** count × camSize × camSize */
  readonly cam: Float32Array<ArrayBuffer>;
  /** count */
  readonly consistency: Float32Array<ArrayBuffer>;
  /** count × values of all attributes */
  readonly attributes: Float32Array<ArrayBuffer>;
  /** count */
  readonly reject: Float32Array<ArrayBuffer>;
}

export type InferenceOutput = FieldOutput | CellsOutput;

export interface WorkerConfig {
  readonly manifest: Manifest;
  readonly saliencyPath: string;
  readonly cellsPath: string;
  readonly executionProvider: 'auto' | 'cuda' | 'cpu';
  readonly cudaDevice: number;
  readonly intraOpThreads: number;
  /** Most crops in one run; undefined: what suits the provider. */
  readonly batchCrops: number | undefined;
}

/**
 * To a thread. After `end` it finishes the run that goes on and exits by itself: a thread that is terminated while native code
 * runs takes the whole process down (decision 0083).
 */
export type ThreadMessage =
  | { readonly type: 'run'; readonly id: number; readonly input: FieldInput | CellsBatch }
  | { readonly type: 'end' };

export type WorkerMessage =
  | {
      readonly type: 'ready';
      readonly executionProvider: 'cpu' | 'cuda';
      /** Why CUDA was not taken, where `auto` fell back. */
      readonly fallbackReason?: string;
      /** Most crops that one run may hold. */
      readonly batchCrops: number;
      readonly saliency: SessionSignature;
      readonly cells: SessionSignature;
    }
  | { readonly type: 'refused'; readonly reason: 'provider' | 'model'; readonly message: string }
  | { readonly type: 'result'; readonly id: number; readonly output: InferenceOutput; readonly durationMs: number }
  | {
      readonly type: 'error';
      readonly id: number;
      readonly message: string;
      readonly outOfMemory: boolean;
      readonly durationMs: number;
    };
