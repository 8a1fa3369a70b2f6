/**
 * How many sessions, and how many threads in each, share the processor: the rule of docs/decisions/0071.
 */

/** Each holds the weights and its own working memory; from here on threads go into the sessions there are. */
const MOST_SESSIONS = 16;

export interface Sizing {
  readonly sessions: number;
  readonly threadsPerSession: number;
}

/** `sessions` overrides the rule. A GPU serialises the work anyway, and every further session costs its memory. */
export function sizingFor(threads: number, provider: 'cpu' | 'cuda', sessions?: number): Sizing {
  const wanted = sessions ?? Math.min(threads, MOST_SESSIONS);
  const count = provider === 'cuda' ? 1 : Math.max(1, wanted);
  return { sessions: count, threadsPerSession: Math.max(1, Math.floor(threads / count)) };
}
