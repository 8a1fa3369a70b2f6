import { describe, expect, it } from 'vitest';
import { imagesPerJob, inPortions, MAX_IMAGES_PER_JOB } from '../../../src/jobs/portions.js';

const FRAME = 640 * 480;
const routine = (pixels: number, waiting: number, running: number): number =>
  imagesPerJob('routine', { load: { waiting, running }, pixels });

describe('images of a job', () => {
  it('are one while hardly anything waits, and as many as each place has to do before otherwise', () => {
    const sizes = [0, 3, 7, 8, 19, 4_000].map((waiting) => routine(FRAME, waiting, 4));
    expect(sizes).toEqual([1, 1, 1, 2, 4, MAX_IMAGES_PER_JOB]);
    // The same queue is short for many machines.
    expect(routine(FRAME, 100, 80)).toBe(1);
  });

  it('are many when images wait and no worker is there', () => {
    expect(routine(FRAME, 50, 0)).toBe(MAX_IMAGES_PER_JOB);
  });

  it('are one in an urgent order', () => {
    expect(imagesPerJob('stat', { load: { waiting: 4_000, running: 4 }, pixels: FRAME })).toBe(1);
  });

  it('have no more pixels than ten camera frames, of any size', () => {
    const megapixels = [0, 0.01, 1, 1.6, 12].map((n) => routine(n * 1e6, 4_000, 4));
    expect(megapixels).toEqual([10, 10, 3, 1, 1]);
  });
});

describe('portions', () => {
  const ofTwelve = Array.from({ length: 12 }, (_, i) => i);

  it('keep the order, and differ in length by one at most', () => {
    expect(inPortions(ofTwelve, 5)).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
      [8, 9, 10, 11],
    ]);
    expect(inPortions([0, 2, 5, 6, 9], 2)).toEqual([[0], [2, 5], [6, 9]]);
    expect(inPortions(ofTwelve, 12)).toEqual([ofTwelve]);
    expect(inPortions(ofTwelve, 1)).toHaveLength(12);
  });

  it('are none of no images', () => {
    expect(inPortions([], 10)).toEqual([]);
  });

  it('have all images once, whatever their number and size', () => {
    for (let count = 1; count <= 60; count++) {
      for (let size = 1; size <= MAX_IMAGES_PER_JOB; size++) {
        const indexes = Array.from({ length: count }, (_, i) => i);
        const portions = inPortions(indexes, size);
        expect(portions.flat()).toEqual(indexes);
        const lengths = portions.map(({ length }) => length);
        expect(Math.max(...lengths)).toBeLessThanOrEqual(size);
        expect(Math.max(...lengths) - Math.min(...lengths)).toBeLessThanOrEqual(1);
      }
    }
  });
});
