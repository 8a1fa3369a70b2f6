/**
 * Images that one process works on at once, where WORKER_CONCURRENCY is not set. On a processor the networks take the cores
 * that decode and describe, so more images than cores only wait. A run on a GPU takes none of them: while one half of the
 * images is there or being stored, the cores have the other half (docs/decisions/0085). A process's memory bounds both.
 */
export function imagesAtOnce(cores: number, provider: 'cpu' | 'cuda'): number {
  const busy = Math.min(8, cores);
  return provider === 'cuda' ? 2 * busy : busy;
}
