import { describe, expect, it } from 'vitest';
import { createRateLimit } from '../../../src/http/rate-limit.js';

const T0 = 1_000_000;

describe('a rate limit', () => {
  it('lets a minute’s requests through at once, then one whenever one more has come back', () => {
    const limit = createRateLimit('caller', 60);
    for (let n = 0; n < 60; n += 1) expect(limit.take('a', T0).allowed).toBe(true);
    expect(limit.take('a', T0).allowed).toBe(false);
    expect(limit.take('a', T0 + 999).allowed).toBe(false);
    expect(limit.take('a', T0 + 1_000).allowed).toBe(true);
    expect(limit.take('a', T0 + 1_000).allowed).toBe(false);
    expect(limit.take('b', T0 + 1_000).allowed).toBe(true);
  });

  it('is full again after a minute, and never fuller', () => {
    const limit = createRateLimit('caller', 3);
    for (let n = 0; n < 4; n += 1) limit.take('a', T0);
    const later = T0 + 3_600_000;
    expect([1, 2, 3, 4].map(() => limit.take('a', later).allowed)).toEqual([true, true, true, false]);
  });

  it('says what it grants, what is left and when to come back', () => {
    const limit = createRateLimit('caller', 2);
    expect(limit.take('a', T0).headers).toEqual({
      'ratelimit-policy': '"caller";q=2;w=60',
      ratelimit: '"caller";r=1;t=30',
    });
    limit.take('a', T0);
    expect(limit.take('a', T0).headers).toMatchObject({ ratelimit: '"caller";r=0;t=60', 'retry-after': '30' });
    expect(limit.take('a', T0 + 29_999).headers).toMatchObject({ 'retry-after': '1' });
  });

  it('is not mended by a clock that goes back', () => {
    const limit = createRateLimit('caller', 1);
    limit.take('a', T0);
    expect(limit.take('a', T0 - 100_000).allowed).toBe(false);
  });

  it('forgets the callers that were quiet for longest, not those that keep asking', () => {
    const limit = createRateLimit('caller', 1);
    limit.take('busy', T0);
    for (let n = 0; n < 20_000; n += 1) {
      limit.take(`caller ${n}`, T0 + 1);
      if (n % 1_000 === 0) expect(limit.take('busy', T0 + 2).allowed).toBe(false);
    }
  });
});
