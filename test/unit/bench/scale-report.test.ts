import { expect, it } from 'vitest';
import { linearity, type ScaleResult } from '../../../bench/scale-report.js';

/** Workers, images a second, cores busy. */
function measured(cores: number, ...runs: readonly (readonly [number, number, number])[]): ScaleResult {
  const real = runs.map(([workers, rate, busyCores]) => ({
    workers,
    imagesPerSecond: { median: rate, low: rate, high: rate },
    busyCores,
  }));
  return { cores, real } as unknown as ScaleResult;
}
const shares = (result: ScaleResult): number[] => linearity(result).map(({ share }) => Number(share.toFixed(3)));

it('is linear where twice the workers do twice the work', () => {
  expect(shares(measured(8, [1, 10, 1.5], [2, 20, 3], [4, 36, 5.4]))).toEqual([1, 1, 0.9]);
});

it('asks for no more than the cores have: one worker that keeps 1.6 of 2 busy can only be followed by a quarter', () => {
  expect(shares(measured(2, [1, 16, 1.6], [2, 20, 2]))).toEqual([1, 1]);
  expect(shares(measured(2, [1, 16, 1.6], [2, 15, 2]))).toEqual([1, 0.75]);
});

it('does not excuse cores that were left idle', () => {
  expect(shares(measured(8, [1, 10, 1], [8, 40, 4]))).toEqual([1, 0.5]);
});
