/**
 * Images that one process works on at once, where WORKER_CONCURRENCY is not set: while one half of them is at the networks, the
 * other is read, decoded, described or stored (docs/decisions/0071). What large ones take of the memory is bounded elsewhere.
 */
export const imagesAtOnce = (cores: number): number => Math.min(16, 2 * cores);
