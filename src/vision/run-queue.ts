/**
 * What waits for the networks, and which of it makes the next run. Crops of several jobs share a run when they wait together, and
 * one job's crops spread over the threads that have nothing to do (docs/decisions/0070). Pure but for the clock; the pool (infer.ts)
 * owns the threads.
 */
import { joinAnswers, partOf } from './batches.js';
import type { CellsInput, CellsOutput, FieldInput, FieldOutput } from './infer-messages.js';

/** What a caller asked for; ends once, with an answer or a reason. */
export interface Job<Output> {
  /** Ended: nobody waits for it any longer. */
  readonly ended: () => boolean;
  readonly resolve: (output: Output) => void;
  readonly reject: (reason: unknown) => void;
}

interface FieldTask {
  readonly kind: 'field';
  readonly job: Job<FieldOutput>;
  readonly input: FieldInput;
}

/** The crops of a job, or some of them. */
interface CellsTask {
  readonly kind: 'cells';
  readonly job: Job<CellsOutput>;
  readonly input: CellsInput;
  /** Place of the first of them in the job. */
  readonly first: number;
  /** Takes the answer for these crops; the last one ends the job. */
  readonly answer: (first: number, output: CellsOutput) => void;
  /** Shares no run: one that it was in failed. */
  readonly alone: boolean;
  readonly since: number;
}

export type Task = FieldTask | CellsTask;

export const fieldTask = (job: Job<FieldOutput>, input: FieldInput): Task => ({ kind: 'field', job, input });

export function cellsTask(job: Job<CellsOutput>, input: CellsInput): Task {
  const answers = new Map<number, CellsOutput>();
  let missing = input.count;
  const answer = (first: number, output: CellsOutput): void => {
    answers.set(first, output);
    missing -= output.count;
    if (missing > 0) return;
    const inOrder = [...answers].sort(([a], [b]) => a - b).map(([, part]) => part);
    job.resolve(joinAnswers(inOrder));
  };
  return { kind: 'cells', job, input, first: 0, answer, alone: false, since: performance.now() };
}

export const cropsOf = (tasks: readonly Task[]): number =>
  tasks.reduce((sum, task) => sum + (task.kind === 'cells' ? task.input.count : 0), 0);

/** After this time without memory running out, runs may have their full size again: others may have left the GPU. */
const MEMORY_PATIENCE_MS = 10 * 60_000;

export class RunQueue {
  private readonly waiting: Task[] = [];
  /** Most crops in a run now: as configured, and less for a while after memory ran out. */
  private batch: number;
  private memoryRanOutAt = 0;

  /** @param delayMs How long crops may wait for those of other jobs. */
  constructor(
    private readonly fullBatch: number,
    private readonly delayMs: number,
  ) {
    this.batch = fullBatch;
  }

  add(task: Task): void {
    this.waiting.push(task);
  }

  /** Before all others, what nobody waits for any longer left out: they have waited longest. */
  again(tasks: readonly Task[]): void {
    this.waiting.unshift(...tasks.filter(({ job }) => !job.ended()));
  }

  /** Takes what still waits of a job out. */
  forget(job: Job<never>): void {
    const left = this.waiting.filter((task) => task.job !== job);
    this.waiting.splice(0, this.waiting.length, ...left);
  }

  /** Takes everything out. */
  drain(): Task[] {
    return this.waiting.splice(0);
  }

  /** Memory ran out in a run of so many crops: the next ones hold half. Returns the most they hold. */
  memoryRanOut(crops: number): number {
    this.batch = Math.min(this.batch, Math.ceil(crops / 2));
    this.memoryRanOutAt = performance.now();
    return this.batch;
  }

  /**
   * Takes out what shall run now: the first task that is due, and the crops that wait behind it, so many that each of the
   * `idle` threads gets its share. Empty: nothing is due.
   */
  next(idle: number): Task[] {
    if (this.batch < this.fullBatch && performance.now() - this.memoryRanOutAt > MEMORY_PATIENCE_MS) {
      this.batch = this.fullBatch;
    }
    const at = this.waiting.findIndex((task) => this.isDue(task));
    // Before it is taken out: its own crops are part of what is shared out.
    const most = Math.max(1, Math.min(this.batch, Math.ceil(cropsOf(this.waiting) / Math.max(1, idle))));
    const [first] = at < 0 ? [] : this.waiting.splice(at, 1);
    if (first === undefined) return [];
    if (first.kind === 'field') return [first];
    const run = [this.cut(first, most, at)];
    if (first.alone) return run;
    let room = most - cropsOf(run);
    for (let i = 0; i < this.waiting.length && room > 0; ) {
      const task = this.waiting[i];
      if (task === undefined || task.kind === 'field' || task.alone || task.input.count > room) {
        i += 1;
        continue;
      }
      this.waiting.splice(i, 1);
      run.push(task);
      room -= task.input.count;
    }
    return run;
  }

  /** How long until something is due that is not yet, in milliseconds; undefined where nothing waits for that. */
  dueInMs(): number | undefined {
    const [first] = this.waiting;
    if (first?.kind !== 'cells') return undefined;
    return Math.max(0, this.delayMs - (performance.now() - first.since));
  }

  /** The task, or as much of it as one run may hold; then the rest goes back to its place in the queue. */
  private cut(task: CellsTask, most: number, at: number): CellsTask {
    const { input, first } = task;
    if (input.count <= most) return task;
    this.waiting.splice(at, 0, { ...task, input: partOf(input, most, input.count - most), first: first + most });
    return { ...task, input: partOf(input, 0, most) };
  }

  private isDue(task: Task): boolean {
    if (task.kind === 'field' || task.alone || this.delayMs === 0) return true;
    return performance.now() - task.since >= this.delayMs || cropsOf(this.waiting) >= this.batch;
  }
}
