import { expect, it } from 'vitest';
import { type ServiceResult, serviceReport, targetsOf } from '../../../bench/service-report.js';

const throughput = (imagesPerSecond: number[], processorMs = [100, 100, 100]) => ({
  ...{ setting: 'defaults', imagesPerSecond, processorMs, p50: 20, p99: 70 },
});

const tables = (analyses: number, msOfTen: number[]) => ({
  ...{ analyses, msOfTen, databaseMb: 30 },
  ...{ readsPerSecond: [1800, 2000, 1900], readsP99: [15, 14, 16], listMs: [5, 6, 5.5] },
});

const RESULT: ServiceResult = {
  conditions: {
    measured: '2026-01-01',
    cores: 2,
    processor: 'test',
    memoryGb: 8,
    node: 'v20',
    version: '0',
    busyBefore: 0,
  },
  options: { rounds: 3, seconds: 6 },
  restingCores: 0,
  // The machine is twice as fast in the second round as in the first.
  bare: {
    ...{ setting: { sessions: 2, threads: 2, lanes: 4 }, trials: [] },
    ...{ rounds: [10, 20, 15], processorMs: [90, 70, 80], idleMs: [100, 50, 70] },
  },
  idleMs: [130, 80, 99],
  throughput: {
    Leukodiff: throughput([8, 16, 12]),
    'Leukodiff, orders of 10 images': throughput([9.5, 18, 13.5], [100, 80, 100]),
    'FastAPI + uvicorn, synchronous': throughput([9, 18, 15]),
    LitServe: throughput([8, 15, 10]),
    'FastAPI + uvicorn, synchronous, the least': throughput([20, 40, 30]),
  },
  peers: {},
  reads: [
    { connections: 4, perSecond: 1600, p50: 2, p99: 8 },
    { connections: 16, perSecond: 1700, p50: 9, p99: 30 },
  ],
  workerPeakMb: 650,
  storedBytesAnImage: { pictures: 100_000, numbers: 9000 },
  growth: { msPerImage: [{ images: 1, ms: 10 }], tables: [tables(150, [80, 40, 60]), tables(100_150, [88, 60, 66])] },
  tookSeconds: 1,
};

const target = (part: string, result = RESULT) => {
  const found = targetsOf(result).find(({ name }) => name.includes(part));
  if (found === undefined) throw new Error(`no target ${part}`);
  return found;
};

it('holds each round against the same round of the other: the speed of the machine falls out', () => {
  expect(target('bare limit, orders of ten').got).toBe('0.9 (0.9–0.95)');
  expect(target('bare limit, orders of ten').missedBy).toBeCloseTo(0);
  const [, alone] = targetsOf(RESULT);
  expect(alone?.got).toBe('0.8 (0.8–0.8)');
});

it('tells processor time too, which does not depend on how a turn was shared out', () => {
  const report = serviceReport(RESULT);
  expect(report).toContain('0.875 (0.8–0.9) of what an image costs Leukodiff in orders of ten, 0.8 (0.7–0.9) alone');
  expect(report).toMatch(/bare loop, no server .* 15 \(10–20\) \| 1.25 \| 80 \(70–90\) \|/);
});

it('takes the quickest peer of those that do the same job', () => {
  expect(target('best tuned peer').got).toBe('1 (0.9–1.06)');
});

it('gives an idle image the limit of its own round', () => {
  // 130 of 135, 80 of 75, 99 of 99.
  expect(target('idle').missedBy).toBeCloseTo(0);
  expect(target('idle', { ...RESULT, idleMs: [140, 80, 99] }).missedBy).toBeGreaterThan(0.03);
});

it('asks for readers who get both the rate and the time', () => {
  expect(target('reads').missedBy).toBeLessThan(0);
  expect(target('reads', { ...RESULT, reads: RESULT.reads.slice(1) }).missedBy).toBeCloseTo(0.5);
});

it('holds full tables against empty ones of the same round', () => {
  expect(target('10^5').got).toBe('1.1 (1.1–1.5) ×');
  expect(target('10^5').missedBy).toBeLessThan(0);
  const slow = [tables(150, [80, 40, 60]), tables(100_150, [160, 80, 120])];
  expect(target('10^5', { ...RESULT, growth: { ...RESULT.growth, tables: slow } }).missedBy).toBeCloseTo(1 / 3);
});

it('is told as a page with all that was measured', () => {
  expect(serviceReport(RESULT)).toContain('| 16 | 1,700 | 9 | 30 |');
});
