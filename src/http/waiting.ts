/** Waiting for a result on the client's behalf (`Prefer: wait=N`). */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { waitForCompletion } from '../storage/analyses.js';
import type { Database } from '../storage/database.js';
import { type LinkedAnalysis, withAnalysisLinks } from './links.js';
import { preferredWaitSeconds } from './prefer.js';

/** The granted wait in seconds, which the answer states; null where none was asked for. */
export function waitOf(request: FastifyRequest, reply: FastifyReply, maxWaitSeconds: number): number | null {
  const seconds = preferredWaitSeconds(request.headers.prefer, maxWaitSeconds);
  if (seconds !== null) reply.header('preference-applied', `wait=${seconds}`);
  return seconds;
}

/** The analysis if it ends within the wait, null otherwise. A client that leaves ends the wait, a shutdown too. */
export async function finishedWithin(
  database: Database,
  id: string,
  seconds: number,
  request: FastifyRequest,
): Promise<LinkedAnalysis | null> {
  const { laboratory } = request.principal;
  const left = new AbortController();
  const onClose = (): void => left.abort();
  request.raw.socket?.once('close', onClose);
  try {
    const document = await waitForCompletion(
      database,
      laboratory,
      id,
      seconds * 1000,
      AbortSignal.any([left.signal, request.server.closing]),
    );
    return document === null ? null : withAnalysisLinks(document);
  } finally {
    request.raw.socket?.removeListener('close', onClose);
  }
}
