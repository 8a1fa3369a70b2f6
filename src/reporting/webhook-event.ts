/**
 * The events that a callback address receives, in the form of Standard Webhooks: `{type, timestamp, data}`, thin.
 * An event names the analysis and what the LIS itself sent to recognise it by; the result is fetched over `links`,
 * so a delivery that arrives late or twice never carries a stale differential.
 */

export const WEBHOOK_EVENT_TYPES = ['analysis.completed', 'analysis.failed'] as const;
export type WebhookEventType = (typeof WEBHOOK_EVENT_TYPES)[number];

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
 * The event of a finished analysis. Pure: the same analysis always gives the same event, so that a job that runs
 * twice stores the same body.
 *
 * @param publicUrl Where receivers reach this service, with or without a trailing slash; undefined gives links
 *   relative to the service's root.
 * @throws RangeError when the analysis is not finished.
 */
export function analysisEvent(analysis: FinishedAnalysis, publicUrl?: string): WebhookEvent {
  const { id, status, completedAt } = analysis;
  if ((status !== 'completed' && status !== 'failed') || completedAt === null) {
    throw new RangeError(`Analysis ${id} is ${status}: only a finished analysis makes an event.`);
  }
  const base = (publicUrl ?? '').replace(/\/+$/, '');
  const self = `${base}/analyses/${id}`;
  return {
    type: `analysis.${status}`,
    timestamp: completedAt,
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
