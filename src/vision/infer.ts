/**
 * A pool of worker threads that run the networks, each one run at a time. What waits for them, and which of it makes the next
 * run, is the queue's (run-queue.ts).
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { answersOf } from './batches.js';
import { AnalysisCrashedError, ExecutionProviderError, InferenceError, ModelError } from './errors.js';
import type {
  CellsInput,
  CellsOutput,
  FieldInput,
  FieldOutput,
  ThreadMessage,
  WorkerConfig,
  WorkerMessage,
} from './infer-messages.js';
import { checkSignatures, type Model } from './manifest.js';
import { cellsTask, cropsOf, fieldTask, type Job, RunQueue, type Task } from './run-queue.js';
import { sizingFor } from './sizing.js';

export interface InferencePoolOptions {
  readonly model: Model;
  readonly executionProvider: 'auto' | 'cuda' | 'cpu';
  /** Default 0. */
  readonly cudaDevice?: number;
  /** CPU threads of all workers together. */
  readonly threads: number;
  /** Worker threads, each with both sessions; default: the rule in sizing.ts. */
  readonly workers?: number;
  /** Most crops in one run; default: BATCH_CROPS of the provider. */
  readonly batchCrops?: number;
  /** How long crops may wait for others before they run without them; default 0: only what waits already shares a run. */
  readonly batchDelayMs?: number;
  /** Another worker script, for tests that make one crash. */
  readonly workerUrl?: URL;
  /** Default HUNG_MS. */
  readonly hungMs?: number;
  readonly observer?: InferenceObserver;
  readonly onLog?: (entry: {
    level: 'info' | 'warn';
    message: string;
    details?: Readonly<Record<string, string | number>>;
  }) => void;
}

/** One run of a network. */
export interface NetworkRun {
  readonly network: 'saliency' | 'cells';
  /** Crops in the run, 1 for a field. */
  readonly size: number;
  /** Inputs that shared it. */
  readonly inputs: number;
  /** In the thread. */
  readonly durationMs: number;
  /** What a run that did not complete held is run again: by halves, or each input alone. */
  readonly outcome: 'completed' | 'failed' | 'out_of_memory';
}

/** Told what the pool does, for whoever measures it. */
export interface InferenceObserver {
  ran(run: NetworkRun): void;
  /** A thread ended and is replaced. */
  crashed(): void;
}

export interface InferencePool {
  readonly executionProvider: 'cpu' | 'cuda';
  /** Resolves with the reason when no thread can be kept running; never after `close`. */
  readonly died: Promise<string>;
  /**
   * The input's buffer is transferred: unusable for the caller afterwards. Rejects with AnalysisCrashedError when the
   * thread ended over it, otherwise with InferenceError.
   */
  field(input: FieldInput, signal?: AbortSignal): Promise<FieldOutput>;
  /** The input stays the caller's. Rejects with InferenceError. */
  cells(input: CellsInput, signal?: AbortSignal): Promise<CellsOutput>;
  /** Rejects all jobs at once; resolves when the runs that go on have ended and every thread has exited. */
  close(): Promise<void>;
}

/**
 * A thread that ends over a job is replaced, however often: it is the job that is to be given up. One that ends without a
 * job, or cannot start (which runs both networks once), is not: 5 within 60 s mean that something is wrong that stays wrong.
 */
const MAX_FAILURES = 5;
const FAILURE_WINDOW_MS = 60_000;
/** A thread that still works on a job so long after that was given up is taken for hung. */
const HUNG_MS = 60_000;

/**
 * The compiled worker. Under vitest this module is TypeScript source, which a worker thread of Node 20 cannot load:
 * then the worker that `npm run build` (part of `pretest`) left in dist/ runs.
 */
function workerUrl(): URL {
  return import.meta.url.endsWith('.ts')
    ? new URL('../../dist/vision/infer-worker.js', import.meta.url)
    : new URL('./infer-worker.js', import.meta.url);
}

interface Run {
  readonly id: number;
  readonly tasks: readonly Task[];
}

interface Slot {
  worker: Worker;
  ready: boolean;
  run: Run | undefined;
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
  readonly died: Promise<string>;
  private readonly slots: Slot[] = [];
  /** Every thread that lives, also those that still load the networks. */
  private readonly threads = new Set<Worker>();
  private queue = new RunQueue(1, 0);
  private failures: number[] = [];
  private nextId = 1;
  private broken: Error | undefined;
  private die: (reason: string) => void = () => undefined;
  private waiting: NodeJS.Timeout | undefined;

  constructor(private readonly options: InferencePoolOptions) {
    this.died = new Promise((settle) => {
      this.die = settle;
    });
  }

  async start(): Promise<void> {
    // The first worker decides the provider; the others then ask for exactly that one.
    const first = await this.open(this.options.executionProvider);
    this.executionProvider = first.ready.executionProvider;
    this.slots.push(first.slot);
    const { fallbackReason, batchCrops } = first.ready;
    if (fallbackReason !== undefined) {
      this.log('warn', 'CUDA was tried and cannot be used; inference runs on the CPU', {
        tried: 'cuda',
        device: this.options.cudaDevice ?? 0,
        reason: fallbackReason,
      });
    }
    this.queue = new RunQueue(batchCrops, this.options.batchDelayMs ?? 0);
    try {
      checkSignatures(this.options.model.manifest, first.ready.saliency, first.ready.cells);
      const others = Array.from({ length: this.sizing().sessions - 1 }, () => this.open(this.executionProvider));
      for (const { slot } of await Promise.all(others)) this.slots.push(slot);
    } catch (error) {
      await this.close();
      throw error;
    }
    this.log('info', 'inference is ready', {
      executionProvider: this.executionProvider,
      workers: this.slots.length,
      threadsPerWorker: this.sizing().threadsPerSession,
      batchCrops,
    });
  }

  field(input: FieldInput, signal?: AbortSignal): Promise<FieldOutput> {
    return this.submit(signal, (job) => fieldTask(job, input));
  }

  cells(input: CellsInput, signal?: AbortSignal): Promise<CellsOutput> {
    return this.submit(signal, (job) => cellsTask(job, input));
  }

  async close(): Promise<void> {
    this.fail(new InferenceError('The inference pool is closed.'));
    this.slots.length = 0;
    await Promise.all(
      [...this.threads].map(
        (thread) =>
          new Promise<void>((resolve) => {
            thread.once('exit', () => resolve());
            end(thread);
          }),
      ),
    );
  }

  private submit<Output>(signal: AbortSignal | undefined, taskOf: (job: Job<Output>) => Task): Promise<Output> {
    return new Promise((resolve, reject) => {
      if (this.broken !== undefined) return reject(this.broken);
      if (signal?.aborted) return reject(signal.reason);
      let ended = false;
      const end = (): void => {
        ended = true;
        signal?.removeEventListener('abort', onAbort);
      };
      const job: Job<Output> = {
        ended: () => ended,
        resolve: (output) => {
          end();
          resolve(output);
        },
        reject: (reason) => {
          end();
          this.queue.forget(job);
          reject(reason);
        },
      };
      // A run that is on its way cannot be stopped; this job's part of its answer is dropped, the others' is not.
      const onAbort = (): void => {
        job.reject(signal?.reason);
        this.watchForHang(job);
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.queue.add(taskOf(job));
      this.dispatch();
    });
  }

  private dispatch(): void {
    const idle = this.slots.filter(({ ready, run }) => ready && run === undefined);
    for (const [i, slot] of idle.entries()) {
      const tasks = this.queue.next(idle.length - i);
      const [first] = tasks;
      if (first === undefined) {
        this.wakeWhenDue();
        return;
      }
      const id = this.nextId++;
      slot.run = { id, tasks };
      if (first.kind === 'field') {
        const message: ThreadMessage = { type: 'run', id, input: first.input };
        slot.worker.postMessage(message, [first.input.rgb.buffer]);
      } else {
        const inputs = tasks.flatMap((task) => (task.kind === 'cells' ? [task.input] : []));
        const message: ThreadMessage = { type: 'run', id, input: { kind: 'batch', inputs } };
        slot.worker.postMessage(message);
      }
    }
  }

  /** With a delay configured, crops alone in the queue wait for others; not for ever. */
  private wakeWhenDue(): void {
    const dueInMs = this.queue.dueInMs();
    if (dueInMs === undefined || this.waiting !== undefined) return;
    this.waiting = setTimeout(
      () => {
        this.waiting = undefined;
        this.dispatch();
      },
      Math.max(1, Math.ceil(dueInMs)),
    );
  }

  private sizing(): ReturnType<typeof sizingFor> {
    const threads = Math.min(this.options.threads, availableParallelism());
    return sizingFor(threads, this.executionProvider, this.options.workers);
  }

  private open(executionProvider: 'auto' | 'cuda' | 'cpu'): Promise<{ slot: Slot; ready: Ready }> {
    const { model } = this.options;
    const config: WorkerConfig = {
      manifest: model.manifest,
      saliencyPath: model.saliencyPath,
      cellsPath: model.cellsPath,
      executionProvider,
      cudaDevice: this.options.cudaDevice ?? 0,
      intraOpThreads: this.sizing().threadsPerSession,
      batchCrops: this.options.batchCrops,
    };
    const worker = new Worker(this.options.workerUrl ?? workerUrl(), {
      workerData: config,
      name: 'leukodiff-inference',
    });
    this.threads.add(worker);
    worker.once('exit', () => this.threads.delete(worker));
    const slot: Slot = { worker, ready: false, run: undefined };
    return new Promise((resolve, reject) => {
      worker.on('message', (message: WorkerMessage) => {
        if (message.type === 'ready') {
          slot.ready = true;
          resolve({ slot, ready: message });
        } else if (message.type === 'refused') {
          // The thread ends by itself.
          reject(refusal(message));
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
    const { run } = slot;
    slot.run = undefined;
    if (run?.id === message.id) {
      if (message.type === 'result') this.answered(run, message);
      else this.failed(run, message);
    }
    this.dispatch();
  }

  private answered({ tasks }: Run, { output, durationMs }: Extract<WorkerMessage, { type: 'result' }>): void {
    this.report(tasks, durationMs, 'completed');
    const counts = tasks.map((task) => cropsOf([task]));
    const answers = output.kind === 'cells' ? answersOf(output, counts) : [];
    for (const [i, task] of tasks.entries()) {
      const answer = answers[i];
      if (task.kind === 'field' && output.kind === 'field') task.job.resolve(output);
      else if (task.kind === 'cells' && answer !== undefined) task.answer(task.first, answer);
      else task.job.reject(new InferenceError('The worker answered another job.'));
    }
  }

  private failed({ tasks }: Run, error: Extract<WorkerMessage, { type: 'error' }>): void {
    const { message, outOfMemory, durationMs } = error;
    const crops = cropsOf(tasks);
    this.report(tasks, durationMs, outOfMemory ? 'out_of_memory' : 'failed');
    if (outOfMemory && crops > 1) {
      const batchCrops = this.queue.memoryRanOut(crops);
      this.log('warn', 'memory ran out during a run; it is repeated in halves', { crops, batchCrops });
      this.queue.again(tasks);
    } else {
      this.separate(tasks, new InferenceError(`The network could not run: ${message}`));
    }
  }

  /** A run that failed is repeated input by input, so that the one that is to blame fails alone. */
  private separate(tasks: readonly Task[], error: Error): void {
    if (tasks.length <= 1) {
      for (const { job } of tasks) job.reject(error);
      return;
    }
    this.log('warn', 'a run of several inputs failed; each is run alone', {
      inputs: tasks.length,
      reason: error.message,
    });
    this.queue.again(tasks.map((task) => (task.kind === 'cells' ? { ...task, alone: true } : task)));
  }

  /** A worker of the pool is gone: what it ran is repeated or rejected, and a new worker takes its place. */
  private lost(slot: Slot, reason: string): void {
    const at = this.slots.indexOf(slot);
    if (at < 0) return;
    this.slots.splice(at, 1);
    if (this.broken !== undefined) return;
    this.log('warn', 'an inference thread ended and is replaced', { reason });
    this.options.observer?.crashed();
    const tasks = slot.run?.tasks ?? [];
    this.separate(tasks, new AnalysisCrashedError(`The inference thread ended during this job (${reason}).`));
    this.dispatch();
    if (slot.run !== undefined || this.mayTryAgain(reason)) this.replace();
  }

  private replace(): void {
    this.open(this.executionProvider).then(
      ({ slot: fresh }) => {
        if (this.broken !== undefined) {
          end(fresh.worker);
          return;
        }
        this.slots.push(fresh);
        this.dispatch();
      },
      (error: unknown) => {
        if (this.broken !== undefined) return;
        const reason = error instanceof Error ? error.message : String(error);
        this.log('warn', 'an inference thread could not be replaced', { reason });
        if (this.mayTryAgain(reason)) this.replace();
      },
    );
  }

  /** Counts a failure that no job is to blame for. False: it was one too many, and the pool is given up. */
  private mayTryAgain(reason: string): boolean {
    const now = Date.now();
    this.failures = [...this.failures.filter((time) => now - time < FAILURE_WINDOW_MS), now];
    if (this.failures.length <= MAX_FAILURES) return true;
    this.fail(new InferenceError(`Inference threads end again and again (${reason}).`));
    this.die(reason);
    return false;
  }

  private watchForHang(job: Job<never>): void {
    const slot = this.slots.find(({ run }) => run?.tasks.some((task) => task.job === job));
    const run = slot?.run;
    if (slot === undefined || run === undefined) return;
    const timer = setTimeout(() => {
      if (slot.run !== run) return;
      this.lost(slot, 'it hung');
      // In native code this ends the process; its supervisor starts another, and its jobs come back.
      void slot.worker.terminate();
    }, this.options.hungMs ?? HUNG_MS);
    timer.unref();
  }

  private fail(error: Error): void {
    this.broken ??= error;
    clearTimeout(this.waiting);
    for (const { job } of this.queue.drain()) job.reject(error);
    for (const { run } of this.slots) for (const { job } of run?.tasks ?? []) job.reject(error);
  }

  private report(tasks: readonly Task[], durationMs: number, outcome: NetworkRun['outcome']): void {
    const crops = cropsOf(tasks);
    const run = crops > 0 ? ({ network: 'cells', size: crops } as const) : ({ network: 'saliency', size: 1 } as const);
    this.options.observer?.ran({ ...run, inputs: tasks.length, durationMs, outcome });
  }

  private log(level: 'info' | 'warn', message: string, details: Readonly<Record<string, string | number>>): void {
    this.options.onLog?.({ level, message, details });
  }
}

function end(thread: Worker): void {
  const message: ThreadMessage = { type: 'end' };
  thread.postMessage(message);
}

function refusal(message: Extract<WorkerMessage, { type: 'refused' }>): Error {
  if (message.reason === 'model') return new ModelError(`The model cannot be loaded: ${message.message}`);
  return new ExecutionProviderError(
    `EXECUTION_PROVIDER=cuda, but CUDA cannot be used ${message.message} What a GPU needs stands in docs/operations.md. ` +
      'Set EXECUTION_PROVIDER=auto or cpu to run without.',
  );
}
