/** Tells an event of an analysis that did not come about in the jobs themselves, such as a signature. */
import { analysisEvent, CALLBACK_EVENT_TYPES, type WebhookEvent } from '../reporting/webhook-event.js';
import { getAnalysisDocument } from '../storage/analyses.js';
import type { Database } from '../storage/database.js';
import { addEvent, type StoredEvent } from '../storage/events.js';
import type { Queues } from './queues.js';

export interface AnnounceDeps {
  readonly db: Database;
  readonly queues: Pick<Queues, 'addDelivery'>;
  readonly publicUrl: string | undefined;
}

/**
 * `analysis.signed`: a person made the result final. Call it after the signature is committed. To be called again for
 * the same signature is harmless (one delivery for each receiver); a signature at another time is another event.
 *
 * @param signedAt RFC 3339, UTC; tells the signatures of one analysis apart.
 * @returns The number of deliveries that are to be made; null where there is no such analysis.
 * @throws RangeError when the analysis is not finished.
 */
export async function announceSigned(deps: AnnounceDeps, analysisId: string, signedAt: string): Promise<number | null> {
  const document = await getAnalysisDocument(deps.db, analysisId);
  if (document === null) return null;
  const event = analysisEvent(document, 'analysis.signed', signedAt, deps.publicUrl);
  const ids = await addEvent(deps.db, analysisId, toStored(event));
  // Where the queue is away the rows are there, and the sweep makes their jobs.
  for (const id of ids ?? []) await deps.queues.addDelivery(id).catch(() => undefined);
  return ids?.length ?? null;
}

/** An event with its final bytes: every attempt sends and signs the same. */
export function toStored(event: WebhookEvent): StoredEvent {
  return {
    type: event.type,
    body: JSON.stringify(event),
    occurrence: event.type === 'analysis.signed' ? event.timestamp : '',
    toCallback: CALLBACK_EVENT_TYPES.includes(event.type),
  };
}
