/**
 * The events that receivers are told, in the form of Standard Webhooks: `{type, timestamp, data}`, thin.
 * An event names the analysis and what the LIS itself sent to recognise it by; the result is fetched over `links`,
 * so a delivery that arrives late or twice never carries a stale differential.
 */

export const WEBHOOK_EVENT_TYPES = [
  'analysis.completed',
  'analysis.failed',
  'analysis.review_required',
  'analysis.signed',
] as const;
export type WebhookEventType = (typeof WEBHOOK_EVENT_TYPES)[number];

/**
 * What an order's own callback address receives: how the analysis ended, and that its result is final. That review is
 * necessary stands in `analysis.completed` too.
 */
export const CALLBACK_EVENT_TYPES: readonly WebhookEventType[] = [
  'analysis.completed',
  'analysis.failed',
  'analysis.signed',
];

export interface WebhookEvent {
  readonly type: WebhookEventType;
  /** When it happened (not when it was sent): the same over all attempts. RFC 3339, UTC. */
  readonly timestamp: string;
  readonly data: {
    readonly id: string;
    readonly status: 'completed' | 'failed';
    readonly accessionNumber: string | null;
    readonly specimenId: string | null;
    readonly orderId: string | null;
    /** Null when the analysis failed. */
    readonly totalWbc: number | null;
    readonly reviewRequired: boolean | null;
    readonly links: { readonly self: string; readonly cells: string };
  };
}

/** What an event is made from; an `AnalysisDocument` of storage fits. */
export interface FinishedAnalysis {
  readonly id: string;
  readonly status: string;
  readonly accessionNumber: string | null;
  readonly specimenId: string | null;
  readonly orderId: string | null;
  readonly completedAt: string | null;
  readonly differential: { readonly totalWbc: number } | null;
  readonly review: { readonly required: boolean } | null;
}

/**
 * The events of an analysis that has just ended: `analysis.completed`, and `analysis.review_required` beside it where a
 * person has to look; or `analysis.failed`. Pure: the same analysis always gives the same events, so that a job that
 * runs twice stores the same bodies.
 *
 * @param publicUrl Where receivers reach this service, with or without a trailing slash; undefined gives links
 *   relative to the service's root.
 * @throws RangeError when the analysis is not finished.
 */
export function endingEvents(analysis: FinishedAnalysis, publicUrl?: string): readonly WebhookEvent[] {
  const { id, status, completedAt } = analysis;
  if ((status !== 'completed' && status !== 'failed') || completedAt === null) {
    throw new RangeError(`Analysis ${id} is ${status}: only a finished analysis makes an event.`);
  }
  const ended = analysisEvent(analysis, `analysis.${status}`, completedAt, publicUrl);
  if (analysis.review?.required !== true) return [ended];
  return [ended, analysisEvent(analysis, 'analysis.review_required', completedAt, publicUrl)];
}

/**
 * One event of a finished analysis.
 *
 * @param occurredAt RFC 3339, UTC.
 * @throws RangeError when the analysis is not finished.
 */
export function analysisEvent(
  analysis: FinishedAnalysis,
  type: WebhookEventType,
  occurredAt: string,
  publicUrl?: string,
): WebhookEvent {
  const { id, status } = analysis;
  if (status !== 'completed' && status !== 'failed') {
    throw new RangeError(`Analysis ${id} is ${status}: only a finished analysis makes an event.`);
  }
  const base = (publicUrl ?? '').replace(/\/+$/, '');
  const self = `${base}/analyses/${id}`;
  return {
    type,
    timestamp: occurredAt,
    data: {
      id,
      status,
      accessionNumber: analysis.accessionNumber,
      specimenId: analysis.specimenId,
      orderId: analysis.orderId,
      totalWbc: analysis.differential?.totalWbc ?? null,
      reviewRequired: analysis.review?.required ?? null,
      links: { self, cells: `${self}/cells` },
    },
  };
}

/** Sent when an integrator asks for it: shows that address, network and signature are right. */
export interface PingEvent {
  readonly type: 'webhook.ping';
  readonly timestamp: string;
  readonly data: { readonly endpointId: string };
}

export function pingEvent(endpointId: string, occurredAt: string): PingEvent {
  return { type: 'webhook.ping', timestamp: occurredAt, data: { endpointId } };
}
