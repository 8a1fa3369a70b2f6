import { describe, expect, test } from 'vitest';
import { clopperPearson, regularisedBeta } from '../../../src/hematology/clopper-pearson.js';

/** P(X ≥ k), X ~ Bin(n, p), as an exact fraction of whole numbers: shares nothing with the code under test. */
function exactUpperTail(k: number, n: number, p: number): number {
  const one = 1n << 60n;
  const success = BigInt(Math.round(p * 2 ** 60));
  const failure = one - success;
  let sum = 0n;
  let choose = 1n;
  for (let i = 0; i <= n; i += 1) {
    if (i >= k) sum += choose * success ** BigInt(i) * failure ** BigInt(n - i);
    choose = (choose * BigInt(n - i)) / BigInt(i + 1);
  }
  const digits = 10n ** 18n;
  return Number((sum * digits) / one ** BigInt(n)) / 1e18;
}

describe('published values (Rümke)', () => {
  test.each([
    [9, 100, 4.2, 16.4],
    [0, 100, 0, 3.6],
    [0, 200, 0, 1.8],
  ])('%d of %d gives %d–%d percent', (count, total, low, high) => {
    const interval = clopperPearson(count, total);
    expect((100 * interval.low).toFixed(1)).toBe(low.toFixed(1));
    expect((100 * interval.high).toFixed(1)).toBe(high.toFixed(1));
  });
});

describe('limits cut off 2.5 % on each side, by exact binomial sums', () => {
  test.each([1, 2, 3, 5, 10, 33, 64, 100, 200, 500])('n = %d', (n) => {
    const step = Math.max(1, Math.floor(n / 12));
    for (let k = 0; k <= n; k += step) {
      const { low, high } = clopperPearson(k, n);
      if (k > 0) expect(exactUpperTail(k, n, low)).toBeCloseTo(0.025, 11);
      else expect(low).toBe(0);
      if (k < n) expect(1 - exactUpperTail(k + 1, n, high)).toBeCloseTo(0.025, 11);
      else expect(high).toBe(1);
    }
  });
});

test('coverage is never below 95 % for any proportion', () => {
  const n = 50;
  const intervals = Array.from({ length: n + 1 }, (_, k) => clopperPearson(k, n));
  for (let step = 1; step < 200; step += 1) {
    const p = step / 200;
    let covered = 0;
    for (const [k, { low, high }] of intervals.entries()) {
      if (low <= p && p <= high) covered += exactUpperTail(k, n, p) - exactUpperTail(k + 1, n, p);
    }
    expect(covered).toBeGreaterThanOrEqual(0.95);
  }
});

test('the interval holds the proportion, narrows with n, mirrors and moves with k', () => {
  let width = 1;
  for (const n of [10, 100, 1_000, 10_000, 100_000, 1_000_000]) {
    const { low, high } = clopperPearson(n / 10, n);
    expect(low).toBeLessThan(0.1);
    expect(high).toBeGreaterThan(0.1);
    expect(high - low).toBeLessThan(width);
    width = high - low;
    const mirrored = clopperPearson(n - n / 10, n);
    expect(mirrored.low).toBeCloseTo(1 - high, 12);
    expect(mirrored.high).toBeCloseTo(1 - low, 12);
  }
  // Large n: the normal approximation, 1.95996 standard errors either way, and half a count of continuity correction.
  expect(width).toBeCloseTo((2 * 1.95996 * Math.sqrt(0.09)) / 1_000 + 1e-6, 8);
  for (let k = 1; k <= 300; k += 1) {
    expect(clopperPearson(k, 300).low).toBeGreaterThan(clopperPearson(k - 1, 300).low);
    expect(clopperPearson(k, 300).high).toBeGreaterThan(clopperPearson(k - 1, 300).high);
  }
});

test('another confidence cuts off other tails', () => {
  const { low, high } = clopperPearson(7, 40, 0.99);
  expect(exactUpperTail(7, 40, low)).toBeCloseTo(0.005, 11);
  expect(1 - exactUpperTail(8, 40, high)).toBeCloseTo(0.005, 11);
});

test('closed forms of the incomplete beta function', () => {
  for (const x of [0.001, 0.1, 0.5, 0.9, 0.999]) {
    for (const b of [1, 2, 7, 150]) {
      expect(regularisedBeta(x, 1, b)).toBeCloseTo(1 - (1 - x) ** b, 12);
      expect(regularisedBeta(x, b, 1)).toBeCloseTo(x ** b, 12);
    }
    expect(regularisedBeta(x, 3, 2)).toBeCloseTo(x ** 3 * (4 - 3 * x), 12);
  }
  expect(regularisedBeta(0, 2, 2)).toBe(0);
  expect(regularisedBeta(1, 2, 2)).toBe(1);
});

test.each([
  [-1, 10, 0.95],
  [11, 10, 0.95],
  [1.5, 10, 0.95],
  [0, 0, 0.95],
  [Number.NaN, 10, 0.95],
  [1, 10.5, 0.95],
  [1, 10, 0],
  [1, 10, 1],
  [1, 10, Number.NaN],
])('%d of %d at %d is refused', (k, n, confidence) => {
  expect(() => clopperPearson(k, n, confidence)).toThrow(RangeError);
});
