/**
 * Waits for a database or an object store that is away, or whose disk is full, instead of failing. An outage is nobody's fault: it must use up
 * neither the tries of a job nor the result that a worker has already made.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isDatabaseUnavailable, isStorageFull } from '../storage/database-errors.js';
import { ObjectStoreError } from '../storage/object-store.js';

const PAUSE_MS = 500;

/** Runs `work` until it ends otherwise than by the database being away, or the process has to end. */
export async function patiently<T>(shutdown: AbortSignal, work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (shutdown.aborted || !isAway(error)) throw error;
      await sleep(PAUSE_MS, undefined, { signal: shutdown }).catch(() => undefined);
    }
  }
}

function isAway(error: unknown): boolean {
  return error instanceof ObjectStoreError || isDatabaseUnavailable(error) || isStorageFull(error);
}
