/** Enqueueing what is committed: a queue that is away delays it until the sweep, and is no reason to fail a request. */
import type { FastifyRequest } from 'fastify';
import { loggable } from './plugins/errors.js';

/** A queue that hangs must not hold back the answer to what is committed. */
const ENQUEUE_TIMEOUT_MS = 3000;

/** @param what Ids for the log. */
export async function enqueueCommitted(
  request: FastifyRequest,
  what: Readonly<Record<string, string>>,
  enqueue: () => Promise<void>,
): Promise<void> {
  const slow = AbortSignal.timeout(ENQUEUE_TIMEOUT_MS);
  const tooSlow = new Promise<never>((_, reject) => {
    slow.addEventListener('abort', () => reject(new Error('The queue did not answer in time.')), { once: true });
  });
  try {
    await Promise.race([enqueue(), tooSlow]);
  } catch (error) {
    const reason = error instanceof Error ? loggable(error) : String(error);
    request.log.warn({ ...what, fault: reason }, 'not enqueued; the sweep will do it');
  }
}
