import { describe, expect, it } from 'vitest';
import { answersOf, joinAnswers, releaseAnswer } from '../../../src/vision/batches.js';
import type { CellsOutput } from '../../../src/vision/infer-messages.js';
import { release } from '../../../src/vision/release.js';
import { cellsOutput } from '../../support/cells-output.js';

/** Node.js 20 leaves everything to its garbage collector. */
const FREED = 'transfer' in ArrayBuffer.prototype;

const answer = (count: number, value: number): CellsOutput => cellsOutput(count, () => value);

describe('release', () => {
  it('gives back what is whole', () => {
    const bytes = new Uint8Array(100);
    const floats = new Float32Array(10);
    release(bytes, floats);
    expect([bytes.byteLength, floats.byteLength]).toEqual(FREED ? [0, 0] : [100, 40]);
  });

  it('leaves a part of a larger block, which others read', () => {
    const block = new Float32Array(10).fill(1);
    release(block.subarray(0, 5));
    expect(block[9]).toBe(1);
  });

  it('leaves shared memory', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(10)).fill(1);
    release(shared);
    expect(shared[9]).toBe(1);
  });

  it('may be asked twice', () => {
    const bytes = new Uint8Array(100);
    release(bytes);
    expect(() => release(bytes)).not.toThrow();
  });
});

describe('answers', () => {
  it('go with being joined, their values stay', () => {
    const parts = [answer(2, 1), answer(1, 2)];
    const joined = joinAnswers(parts);
    expect([...joined.consistency]).toEqual([1, 1, 2]);
    expect(parts.map(({ segmentation }) => segmentation.length)).toEqual(FREED ? [0, 0] : [24, 12]);
  });

  it('of a run for several inputs go each with its reader', () => {
    const run = answer(3, 7);
    const [mine, theirs] = answersOf(run, [2, 1]);
    expect(run.segmentation.length).toBe(FREED ? 0 : 36);
    if (mine === undefined || theirs === undefined) throw new Error('two inputs, two answers');
    releaseAnswer(mine);
    expect(mine.probabilities.length).toBe(FREED ? 0 : 6);
    expect([...theirs.probabilities]).toEqual([7, 7, 7]);
  });

  it('of a run for one input are not copied', () => {
    const run = answer(3, 7);
    expect(answersOf(run, [3])).toEqual([run]);
    expect(run.segmentation.length).toBe(36);
  });

  it('that came in one piece are the same piece', () => {
    const only = answer(2, 3);
    expect(joinAnswers([only])).toBe(only);
    expect(only.segmentation.length).toBe(24);
  });
});
