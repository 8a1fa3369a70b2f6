/** A pool of worker threads that run the networks. Jobs queue here, each thread works on one at a time. */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { ExecutionProviderError, InferenceError, ModelError } from './errors.js';
import type {
  CellsInput,
  CellsOutput,
  FieldInput,
  FieldOutput,
  InferenceInput,
  InferenceOutput,
  JobMessage,
  WorkerConfig,
  WorkerMessage,
} from './infer-messages.js';
import { checkSignatures, type Model } from './manifest.js';

export interface InferencePoolOptions {
  readonly model: Model;
  readonly executionProvider: 'auto' | 'cuda' | 'cpu';
  /** CPU threads of all workers together. */
  readonly threads: number;
  readonly workers?: number;
  /** Another worker script, for tests that make one crash. */
  readonly workerUrl?: URL;
  readonly observer?: InferenceObserver;
  readonly onLog?: (entry: {
    level: 'info' | 'warn';
    message: string;
    details?: Readonly<Record<string, string | number>>;
  }) => void;
}

/** One run of a network; `size`: crops in the batch, 1 for a field. */
export interface NetworkRun {
  readonly network: 'saliency' | 'cells';
  readonly size: number;
  readonly durationMs: number;
}

/** Told what the pool does, for whoever measures it. */
export interface InferenceObserver {
  ran(run: NetworkRun): void;
  /** A thread ended and is replaced. */
  crashed(): void;
}

export interface InferencePool {
  readonly executionProvider: 'cpu' | 'cuda';
  /** The input's buffers are transferred: unusable for the caller afterwards. Rejects with InferenceError. */
  field(input: FieldInput, signal?: AbortSignal): Promise<FieldOutput>;
  cells(input: CellsInput, signal?: AbortSignal): Promise<CellsOutput>;
  close(): Promise<void>;
}

/** A thread that crashes is replaced, but not for ever: 5 within 60 s mean that something is wrong that stays wrong. */
const MAX_RESTARTS = 5;
const RESTART_WINDOW_MS = 60_000;

/**
 * The compiled worker. Under vitest this module is TypeScript source, which a worker thread of Node 20 cannot load:
 * then the worker that `npm run build` (part of `pretest`) left in dist/ runs.
 */
function workerUrl(): URL {
  return import.meta.url.endsWith('.ts')
    ? new URL('../../dist/vision/infer-worker.js', import.meta.url)
    : new URL('./infer-worker.js', import.meta.url);
}

interface Job {
  readonly id: number;
  readonly input: InferenceInput;
  readonly signal: AbortSignal | undefined;
  readonly resolve: (output: InferenceOutput) => void;
  readonly reject: (reason: unknown) => void;
}

interface Slot {
  worker: Worker;
  ready: boolean;
  job: Job | undefined;
  /** Of `job`. */
  startedMs: number;
}

type Ready = Extract<WorkerMessage, { type: 'ready' }>;

/**
 * Starts the threads, loads and warms up the networks and checks them against the manifest.
 * Throws ExecutionProviderError (cuda asked for and not to be had) or ModelError (the networks do not load or fit).
 */
export async function createInferencePool(options: InferencePoolOptions): Promise<InferencePool> {
  const pool = new Pool(options);
  await pool.start();
  return pool;
}

class Pool implements InferencePool {
  executionProvider: 'cpu' | 'cuda' = 'cpu';
  private readonly slots: Slot[] = [];
  private readonly queue: Job[] = [];
  private restarts: number[] = [];
  private nextId = 1;
  private broken: Error | undefined;

  constructor(private readonly options: InferencePoolOptions) {}

  async start(): Promise<void> {
    // The first worker decides the provider; the others then ask for exactly that one.
    const first = await this.open(this.options.executionProvider);
    this.executionProvider = first.ready.executionProvider;
    this.slots.push(first.slot);
    const { fallbackReason } = first.ready;
    if (fallbackReason !== undefined) {
      this.log('warn', 'CUDA was tried and cannot be used; inference runs on the CPU', {
        tried: 'cuda',
        reason: fallbackReason,
      });
    }
    try {
      checkSignatures(this.options.model.manifest, first.ready.saliency, first.ready.cells);
      // A GPU serialises the work anyway, and every further session costs its memory.
      const count = this.executionProvider === 'cuda' ? 1 : Math.max(1, this.options.workers ?? 1);
      const others = Array.from({ length: count - 1 }, () => this.open(this.executionProvider));
      for (const { slot } of await Promise.all(others)) this.slots.push(slot);
    } catch (error) {
      await this.close();
      throw error;
    }
    this.log('info', 'inference is ready', {
      executionProvider: this.executionProvider,
      workers: this.slots.length,
      threadsPerWorker: this.intraOpThreads(),
    });
  }

  async field(input: FieldInput, signal?: AbortSignal): Promise<FieldOutput> {
    const output = await this.submit(input, signal);
    if (output.kind !== 'field') throw new InferenceError('The worker answered another job.');
    return output;
  }

  async cells(input: CellsInput, signal?: AbortSignal): Promise<CellsOutput> {
    const output = await this.submit(input, signal);
    if (output.kind !== 'cells') throw new InferenceError('The worker answered another job.');
    return output;
  }

  async close(): Promise<void> {
    this.fail(new InferenceError('The inference pool is closed.'));
    await Promise.all(this.slots.splice(0).map(({ worker }) => worker.terminate()));
  }

  private submit(input: InferenceInput, signal: AbortSignal | undefined): Promise<InferenceOutput> {
    return new Promise((resolve, reject) => {
      if (this.broken !== undefined) return reject(this.broken);
      if (signal?.aborted) return reject(signal.reason);
      const job: Job = {
        id: this.nextId++,
        input,
        signal,
        resolve: (output) => {
          signal?.removeEventListener('abort', onAbort);
          resolve(output);
        },
        reject: (reason) => {
          signal?.removeEventListener('abort', onAbort);
          reject(reason);
        },
      };
      const onAbort = (): void => {
        const at = this.queue.indexOf(job);
        if (at >= 0) this.queue.splice(at, 1);
        // A job that runs already cannot be stopped; its result is dropped.
        job.reject(signal?.reason);
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.queue.push(job);
      this.dispatch();
    });
  }

  private dispatch(): void {
    for (const slot of this.slots) {
      if (!slot.ready || slot.job !== undefined) continue;
      const job = this.queue.shift();
      if (job === undefined) return;
      slot.job = job;
      slot.startedMs = performance.now();
      const { input } = job;
      const buffers = input.kind === 'field' ? [input.rgb.buffer] : [input.crops.buffer, input.prior.buffer];
      const message: JobMessage = { id: job.id, input };
      slot.worker.postMessage(message, buffers);
    }
  }

  private intraOpThreads(): number {
    const workers = Math.max(1, this.options.workers ?? 1);
    const threads = Math.min(this.options.threads, availableParallelism());
    return Math.max(1, Math.floor(threads / workers));
  }

  private open(executionProvider: 'auto' | 'cuda' | 'cpu'): Promise<{ slot: Slot; ready: Ready }> {
    const { model } = this.options;
    const config: WorkerConfig = {
      manifest: model.manifest,
      saliencyPath: model.saliencyPath,
      cellsPath: model.cellsPath,
      executionProvider,
      intraOpThreads: this.intraOpThreads(),
    };
    const worker = new Worker(this.options.workerUrl ?? workerUrl(), {
      workerData: config,
      name: 'leukodiff-inference',
    });
    const slot: Slot = { worker, ready: false, job: undefined, startedMs: 0 };
    return new Promise((resolve, reject) => {
      worker.on('message', (message: WorkerMessage) => {
        if (message.type === 'ready') {
          slot.ready = true;
          resolve({ slot, ready: message });
        } else if (message.type === 'refused') {
          reject(refusal(message));
          void worker.terminate();
        } else {
          this.finish(slot, message);
        }
      });
      worker.on('error', (error) => {
        reject(new ModelError(`The inference thread ended while it loaded the model: ${error.message}`));
        this.lost(slot, error.message);
      });
      worker.on('exit', (code) => {
        reject(new ModelError(`The inference thread ended with code ${code} while it loaded the model.`));
        this.lost(slot, `exit code ${code}`);
      });
    });
  }

  private finish(slot: Slot, message: Extract<WorkerMessage, { type: 'result' | 'error' }>): void {
    const { job } = slot;
    slot.job = undefined;
    if (job?.id === message.id) {
      if (message.type === 'result') {
        const { output } = message;
        const run =
          output.kind === 'field'
            ? ({ network: 'saliency', size: 1 } as const)
            : ({ network: 'cells', size: output.count } as const);
        this.options.observer?.ran({ ...run, durationMs: performance.now() - slot.startedMs });
        job.resolve(output);
      } else job.reject(new InferenceError(`The network could not run: ${message.message}`));
    }
    this.dispatch();
  }

  /** A worker of the pool is gone: its job is rejected, and a new worker takes its place. */
  private lost(slot: Slot, reason: string): void {
    const at = this.slots.indexOf(slot);
    if (at < 0) return;
    this.slots.splice(at, 1);
    slot.job?.reject(new InferenceError(`The inference thread crashed during this job (${reason}).`));
    if (this.broken !== undefined) return;
    this.options.observer?.crashed();
    const now = Date.now();
    this.restarts = [...this.restarts.filter((time) => now - time < RESTART_WINDOW_MS), now];
    if (this.restarts.length > MAX_RESTARTS) {
      this.fail(new InferenceError('Inference threads crash again and again; restart the service and see its log.'));
      return;
    }
    this.log('warn', 'an inference thread crashed and is replaced', { reason });
    this.open(this.executionProvider).then(
      ({ slot: fresh }) => {
        if (this.broken !== undefined) {
          void fresh.worker.terminate();
          return;
        }
        this.slots.push(fresh);
        this.dispatch();
      },
      (error: unknown) => {
        const why = error instanceof Error ? error.message : String(error);
        this.log('warn', 'an inference thread could not be replaced', { reason: why });
        if (this.slots.length === 0) this.fail(new InferenceError(`No inference thread is left: ${why}`));
      },
    );
  }

  private fail(error: Error): void {
    this.broken ??= error;
    for (const job of this.queue.splice(0)) job.reject(error);
    for (const { job } of this.slots) job?.reject(error);
  }

  private log(level: 'info' | 'warn', message: string, details: Readonly<Record<string, string | number>>): void {
    this.options.onLog?.({ level, message, details });
  }
}

function refusal(message: Extract<WorkerMessage, { type: 'refused' }>): Error {
  if (message.reason === 'model') return new ModelError(`The model cannot be loaded: ${message.message}`);
  return new ExecutionProviderError(
    `EXECUTION_PROVIDER=cuda, but CUDA cannot be used: ${message.message}. It needs an NVIDIA driver, CUDA 12 with cuDNN 9, ` +
      'and the CUDA libraries of onnxruntime-node, which only its install script brings (ONNXRUNTIME_NODE_INSTALL=cuda12 ' +
      'npm rebuild onnxruntime-node). Set EXECUTION_PROVIDER=auto or cpu to run without.',
  );
}
