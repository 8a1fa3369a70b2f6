/** Events as they are stored: with their final bytes, so that every attempt sends and signs the same. */
import { analysisEvent, CALLBACK_EVENT_TYPES, type WebhookEvent } from '../reporting/webhook-event.js';
import type { AnalysisDocument } from '../storage/documents.js';
import type { StoredEvent } from '../storage/events.js';

/**
 * `analysis.signed`: a person made the result final. A signature at another time is another event.
 *
 * @throws RangeError when the analysis is not finished or not signed.
 */
export function signedEvent(document: AnalysisDocument, publicUrl: string | undefined): StoredEvent {
  const { signedAt } = document.verification ?? { signedAt: null };
  if (signedAt === null) throw new RangeError(`Analysis ${document.id} is not signed.`);
  return toStored(analysisEvent(document, 'analysis.signed', signedAt, publicUrl));
}

export function toStored(event: WebhookEvent): StoredEvent {
  return {
    type: event.type,
    body: JSON.stringify(event),
    occurrence: event.type === 'analysis.signed' ? event.timestamp : '',
    toCallback: CALLBACK_EVENT_TYPES.includes(event.type),
  };
}
