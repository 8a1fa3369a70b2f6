import { describe, expect, it } from 'vitest';
import { RETRY_SCHEDULE_MS, retryAfterMs, waitAfter } from '../../../src/jobs/deliver.js';

const NOW = Date.parse('2026-11-23T12:00:00Z');

describe('the retry schedule', () => {
  it('spreads every wait by at most a fifth', () => {
    for (const [n, planned] of RETRY_SCHEDULE_MS.entries()) {
      const waits = Array.from({ length: 200 }, () => waitAfter(n + 1, null, RETRY_SCHEDULE_MS) ?? 0);
      expect(Math.min(...waits)).toBeGreaterThanOrEqual(planned * 0.8);
      expect(Math.max(...waits)).toBeLessThanOrEqual(planned * 1.2);
      expect(new Set(waits).size).toBeGreaterThan(100);
    }
  });

  it('ends after ten attempts', () => {
    expect(waitAfter(RETRY_SCHEDULE_MS.length, null, RETRY_SCHEDULE_MS)).not.toBeNull();
    expect(waitAfter(RETRY_SCHEDULE_MS.length + 1, null, RETRY_SCHEDULE_MS)).toBeNull();
  });

  it('waits as long as the receiver asks, within a day', () => {
    expect(waitAfter(1, 120_000, [5_000])).toBe(120_000);
    expect(waitAfter(1, 1e12, [5_000])).toBe(24 * 3_600_000);
    expect(waitAfter(1, 10, [5_000])).toBeGreaterThanOrEqual(4_000);
  });
});

describe('Retry-After', () => {
  it.each([
    ['120', 120_000],
    ['Mon, 23 Nov 2026 12:01:00 GMT', 60_000],
    ['Mon, 23 Nov 2026 11:00:00 GMT', 0],
    ['soon', null],
    [null, null],
  ])('%s', (header, expected) => {
    expect(retryAfterMs(header, NOW)).toBe(expected);
  });
});
