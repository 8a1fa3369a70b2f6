import { describe, expect, it } from 'vitest';
import { sizingFor } from '../../../src/vision/sizing.js';

describe('sessions and threads', () => {
  it('one session of one thread for each core, at most 16; then more threads in each', () => {
    const rule = [1, 2, 4, 7, 8, 16, 17, 32, 64].map((threads) => {
      const { sessions, threadsPerSession } = sizingFor(threads, 'cpu');
      return `${sessions}×${threadsPerSession}`;
    });
    expect(rule).toEqual(['1×1', '2×1', '4×1', '7×1', '8×1', '16×1', '16×1', '16×2', '16×4']);
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
