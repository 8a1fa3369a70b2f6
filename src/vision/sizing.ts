/**
 * How many sessions, and how many threads in each, share the processor: the rule of docs/decisions/0071.
 */

/** Threads that one run of these small networks can keep busy; from here on a second session does more with them. */
const THREADS_OF_A_RUN = 4;

export interface Sizing {
  readonly sessions: number;
  readonly threadsPerSession: number;
}

/** `sessions` overrides the rule. A GPU serialises the work anyway, and every further session costs its memory. */
export function sizingFor(threads: number, provider: 'cpu' | 'cuda', sessions?: number): Sizing {
  const wanted = sessions ?? Math.floor(threads / THREADS_OF_A_RUN);
  const count = provider === 'cuda' ? 1 : Math.max(1, wanted);
  return { sessions: count, threadsPerSession: Math.max(1, Math.floor(threads / count)) };
}
