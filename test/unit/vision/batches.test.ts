import { describe, expect, it } from 'vitest';
import { answersOf, bucketOf, bucketsUpTo, joinAnswers, partOf } from '../../../src/vision/batches.js';
import type { CellsInput, CellsOutput } from '../../../src/vision/infer-messages.js';
import { cellsOutput } from '../../support/cells-output.js';

const input = (count: number): CellsInput => ({
  kind: 'cells',
  count,
  crops: new Uint8Array(new SharedArrayBuffer(count * 3)),
  prior: new Float32Array(new SharedArrayBuffer(count * 4)),
});
/** Each value says which crop it belongs to. */
const output = (count: number, first = 0): CellsOutput => cellsOutput(count, (crop) => first + crop);

describe('buckets', () => {
  it('are powers of two up to the most that is allowed, which is one itself', () => {
    expect(bucketsUpTo(1)).toEqual([1]);
    expect(bucketsUpTo(16)).toEqual([1, 2, 4, 8, 16]);
    expect(bucketsUpTo(24)).toEqual([1, 2, 4, 8, 16, 24]);
  });

  it('hold a count in the smallest that is large enough', () => {
    const buckets = bucketsUpTo(16);
    expect([1, 2, 3, 9, 16].map((count) => bucketOf(count, buckets))).toEqual([1, 2, 4, 16, 16]);
    expect(bucketOf(7, [])).toBe(7);
  });
});

describe('parts', () => {
  it('of an input lie on its memory', () => {
    const whole = input(5);
    const part = partOf(whole, 2, 2);
    expect(part.count).toBe(2);
    expect(part.crops).toHaveLength(6);
    expect(part.prior).toHaveLength(2);
    expect(part.crops.buffer).toBe(whole.crops.buffer);
    whole.crops[6] = 99;
    expect(part.crops[0]).toBe(99);
  });

  it('of an answer belong to the crops they are for, and joined again make the whole', () => {
    const parts = answersOf(output(7), [3, 2, 2]);
    expect(parts.map(({ count }) => count)).toEqual([3, 2, 2]);
    expect([...(parts[1]?.consistency ?? [])]).toEqual([3, 4]);
    expect([...(parts[1]?.cam ?? [])]).toEqual([3, 3, 3, 3, 4, 4, 4, 4]);
    expect(joinAnswers(parts)).toEqual(output(7));
  });
});
