import { describe, expect, it } from 'vitest';
import { sizingFor } from '../../../src/vision/sizing.js';

describe('sessions and threads', () => {
  it('one session up to seven threads, then one for every four', () => {
    const rule = [1, 2, 4, 7, 8, 11, 16, 64].map((threads) => {
      const { sessions, threadsPerSession } = sizingFor(threads, 'cpu');
      return `${sessions}×${threadsPerSession}`;
    });
    expect(rule).toEqual(['1×1', '1×2', '1×4', '1×7', '2×4', '2×5', '4×4', '16×4']);
  });

  it('never more threads than there are', () => {
    for (let threads = 1; threads <= 128; threads++) {
      const { sessions, threadsPerSession } = sizingFor(threads, 'cpu');
      expect(sessions * threadsPerSession).toBeLessThanOrEqual(threads);
    }
    expect(sizingFor(2, 'cpu', 4)).toEqual({ sessions: 4, threadsPerSession: 1 });
  });

  it('one session on a GPU', () => {
    expect(sizingFor(64, 'cuda', 4).sessions).toBe(1);
  });
});
