import { describe, expect, it } from 'vitest';
import type { CellsInput, CellsOutput } from '../../../src/vision/infer-messages.js';
import { cellsTask, fieldTask, type Job, RunQueue, type Task } from '../../../src/vision/run-queue.js';

interface Asked<Output> extends Job<Output> {
  answer?: Output;
  end(): void;
}

function job<Output>(): Asked<Output> {
  let ended = false;
  const asked: Asked<Output> = {
    ended: () => ended,
    resolve: (output) => {
      asked.answer = output;
    },
    reject: () => undefined,
    end: () => {
      ended = true;
    },
  };
  return asked;
}

const crops = (count: number): CellsInput => ({
  kind: 'cells',
  count,
  crops: new Uint8Array(new SharedArrayBuffer(count * 3)),
  prior: new Float32Array(new SharedArrayBuffer(count * 4)),
});
const cells = (count: number): Task => cellsTask(job(), crops(count));
const field = (): Task =>
  fieldTask(job(), { kind: 'field', width: 1, height: 1, rgb: new Uint8Array(new ArrayBuffer(3)) });
/** How many crops of each task make the run; 0 for a field. */
const sizes = (run: readonly Task[]): number[] => run.map((task) => (task.kind === 'cells' ? task.input.count : 0));

function queueOf(tasks: readonly Task[], batch = 16, delayMs = 0): RunQueue {
  const queue = new RunQueue(batch, delayMs);
  for (const task of tasks) queue.add(task);
  return queue;
}

describe('what makes the next run', () => {
  it('is a field alone, in the order of coming', () => {
    const queue = queueOf([field(), cells(2), field()]);
    expect([queue.next(1), queue.next(1), queue.next(1), queue.next(1)].map(sizes)).toEqual([[0], [2], [0], []]);
  });

  it('is the crops of several jobs where one thread is free, up to the batch', () => {
    const queue = queueOf([cells(5), cells(8), cells(4)]);
    expect(sizes(queue.next(1))).toEqual([5, 8]);
    expect(sizes(queue.next(1))).toEqual([4]);
  });

  it('is a share of one job for each thread that is free, and the job gets one answer', () => {
    const asked = job<CellsOutput>();
    const queue = queueOf([cellsTask(asked, crops(5))]);
    const runs = [queue.next(2), queue.next(1)];
    expect(runs.map(sizes)).toEqual([[3], [2]]);
    const answer = (first: number, count: number): CellsOutput => {
      const values = new Float32Array(count).map((_, i) => first + i);
      return {
        kind: 'cells',
        count,
        probabilities: values,
        segmentation: values,
        cam: values,
        consistency: values,
        attributes: values,
        reject: values,
      };
    };
    // The second half is ready first.
    for (const [task] of runs.toReversed()) {
      if (task?.kind === 'cells') task.answer(task.first, answer(task.first, task.input.count));
    }
    expect([...(asked.answer?.consistency ?? [])]).toEqual([0, 1, 2, 3, 4]);
  });

  it('never leaves a crop out, whatever is free', () => {
    for (let idle = 1; idle <= 8; idle++) {
      const queue = queueOf([cells(7), cells(1), cells(20)], 6);
      let taken = 0;
      for (let run = queue.next(idle); run.length > 0; run = queue.next(idle)) {
        const size = sizes(run).reduce((sum, count) => sum + count, 0);
        expect(size).toBeGreaterThan(0);
        expect(size).toBeLessThanOrEqual(6);
        taken += size;
      }
      expect(taken).toBe(28);
    }
  });

  it('is nothing while crops wait for others, until there are enough', () => {
    const queue = queueOf([cells(3)], 4, 60_000);
    expect(queue.next(1)).toEqual([]);
    expect(queue.dueInMs()).toBeGreaterThan(1000);
    queue.add(cells(1));
    expect(sizes(queue.next(1))).toEqual([3, 1]);
    expect(queue.dueInMs()).toBeUndefined();
  });

  it('holds half after memory ran out', () => {
    const queue = queueOf([cells(16)]);
    const run = queue.next(1);
    expect(sizes(run)).toEqual([16]);
    expect(queue.memoryRanOut(16)).toBe(8);
    queue.again(run);
    expect([queue.next(1), queue.next(1)].map(sizes)).toEqual([[8], [8]]);
  });

  it('is first what was run in vain, without what nobody waits for any longer', () => {
    const given = job<CellsOutput>();
    const failed = [cellsTask(given, crops(2)), cells(3)];
    const queue = queueOf([cells(4)], 4);
    given.end();
    queue.again(failed);
    expect([queue.next(1), queue.next(1)].map(sizes)).toEqual([[3], [4]]);
  });

  it('is nothing of a job that was forgotten', () => {
    const gone = job<CellsOutput>();
    const queue = queueOf([cellsTask(gone, crops(2)), cells(1)]);
    queue.forget(gone);
    expect(sizes(queue.next(1))).toEqual([1]);
    expect(queue.drain()).toEqual([]);
  });
});
