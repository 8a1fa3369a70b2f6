/**
 * The job `deliver`: an event to its callback address, signed after Standard Webhooks
 * (https://www.standardwebhooks.com). Id and body stay the same over all attempts; the timestamp is the attempt's.
 */
import { DelayedError } from 'bullmq';
import type { Logger } from 'pino';
import { Webhook } from 'standardwebhooks';
import { request } from 'undici';
import type { Metrics } from '../observability/metrics.js';
import type { Database } from '../storage/database.js';
import {
  claimDelivery,
  type Delivery,
  markAttemptFailed,
  markDelivered,
  nextAttemptAt,
} from '../storage/deliveries.js';
import type { QueueJob } from './queues.js';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/** Waits before the second and every later attempt, as Standard Webhooks recommends: three days in all. */
export const RETRY_SCHEDULE_MS = [
  5 * SECOND,
  5 * MINUTE,
  30 * MINUTE,
  2 * HOUR,
  5 * HOUR,
  10 * HOUR,
  14 * HOUR,
  20 * HOUR,
  24 * HOUR,
] as const;
/** Spread, so that receivers who were down are not met by all deliveries at once. */
const JITTER = 0.2;
const TIMEOUT_MS = 20 * SECOND;
/** A claim outlives its attempt by this. */
const LEASE_MS = TIMEOUT_MS + 20 * SECOND;
const LONGEST_RETRY_AFTER_MS = 24 * HOUR;

export interface DeliverDeps {
  readonly db: Database;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly webhookSecret: string;
  /** Default `RETRY_SCHEDULE_MS`. */
  readonly retryScheduleMs?: readonly number[];
}

export async function deliver(deps: DeliverDeps, job: QueueJob<'leukodiff-deliveries'>, token: string): Promise<void> {
  const { db, metrics, log } = deps;
  const { deliveryId } = job.data;
  const delivery = await claimDelivery(db, deliveryId, LEASE_MS);
  if (delivery === null) {
    const due = await nextAttemptAt(db, deliveryId);
    if (due === null) return;
    return postpone(job, due, token);
  }
  const attempt = await post(delivery, deps.webhookSecret);
  if (attempt.ok) {
    await markDelivered(db, deliveryId, { httpStatus: attempt.httpStatus, error: null });
    metrics.deliveries.inc({ outcome: 'delivered' });
    log.info({ deliveryId, attempt: delivery.attempts, httpStatus: attempt.httpStatus }, 'webhook delivered');
    return;
  }
  const due = attempt.final
    ? null
    : nextAttempt(delivery.attempts, attempt.retryAfterMs, deps.retryScheduleMs ?? RETRY_SCHEDULE_MS);
  await markAttemptFailed(db, deliveryId, attempt, due);
  metrics.deliveries.inc({ outcome: due === null ? 'failed' : 'retry' });
  log.warn(
    { deliveryId, attempt: delivery.attempts, httpStatus: attempt.httpStatus, reason: attempt.error, next: due },
    'webhook not delivered',
  );
  if (due !== null) await postpone(job, due, token);
}

async function postpone(job: QueueJob<'leukodiff-deliveries'>, due: Date, token: string): Promise<never> {
  await job.moveToDelayed(Math.max(due.getTime(), Date.now() + 100), token);
  throw new DelayedError();
}

/** Null: the schedule is used up. */
export function nextAttempt(
  attemptsMade: number,
  retryAfterMs: number | null,
  schedule: readonly number[],
  nowMs = Date.now(),
): Date | null {
  const planned = schedule[attemptsMade - 1];
  if (planned === undefined) return null;
  const spread = planned * (1 + JITTER * (2 * Math.random() - 1));
  return new Date(nowMs + Math.max(spread, Math.min(retryAfterMs ?? 0, LONGEST_RETRY_AFTER_MS)));
}

interface PostResult {
  readonly ok: boolean;
  readonly httpStatus: number | null;
  /** Never the answer's content: it is not ours to log. */
  readonly error: string | null;
  /** No further attempt can succeed. */
  readonly final: boolean;
  readonly retryAfterMs: number | null;
}

async function post(delivery: Delivery, secret: string): Promise<PostResult> {
  const failure = { ok: false, httpStatus: null, final: false, retryAfterMs: null };
  const refused = refuseUrl(delivery.url);
  if (refused !== null) return { ...failure, error: refused, final: true };
  const timestamp = new Date();
  const id = `msg_${delivery.id}`;
  try {
    // Not `fetch`: that follows redirects, which could lead where the address itself would not have been allowed, and
    // refuses ports that browsers keep from web pages.
    const { statusCode, headers, body } = await request(delivery.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'user-agent': 'Leukodiff',
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(timestamp.getTime() / 1000)),
        'webhook-signature': new Webhook(secret).sign(id, timestamp, delivery.body),
        ...originHeaders(delivery),
      },
      body: delivery.body,
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    // The answer's content is of no interest; reading a little of it lets the connection be used again.
    await body.dump({ limit: 16 * 1024 }).catch(() => undefined);
    const ok = statusCode >= 200 && statusCode < 300;
    const retryAfter = headers['retry-after'];
    return {
      ok,
      httpStatus: statusCode,
      error: ok ? null : `the receiver answered ${statusCode}`,
      // Gone: the receiver wants no more of this.
      final: statusCode === 410,
      retryAfterMs: retryAfterMs(typeof retryAfter === 'string' ? retryAfter : null),
    };
  } catch (error) {
    return { ...failure, error: connectionError(error) };
  }
}

/** What names the request that brought the order, in the receiver's log as in ours (W3C Trace Context). */
function originHeaders({ requestId, traceparent, tracestate }: Delivery): Record<string, string> {
  return {
    ...(requestId === null ? {} : { 'x-request-id': requestId }),
    ...(traceparent === null ? {} : { traceparent }),
    ...(traceparent === null || tracestate === null ? {} : { tracestate }),
  };
}

/** Why an address is not called at all; null: it is. */
export function refuseUrl(text: string): string | null {
  if (!URL.canParse(text)) return 'the callback address is not a URL';
  const url = new URL(text);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return 'the callback address is neither http nor https';
  if (url.username !== '' || url.password !== '') return 'the callback address carries credentials';
  return null;
}

/** Seconds or a date; null for anything else. */
export function retryAfterMs(header: string | null, nowMs = Date.now()): number | null {
  if (header === null) return null;
  if (/^\d+$/.test(header.trim())) return Number(header) * SECOND;
  const date = Date.parse(header);
  return Number.isNaN(date) ? null : Math.max(0, date - nowMs);
}

function connectionError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.name === 'TimeoutError') return `no answer in ${TIMEOUT_MS / SECOND} s`;
  return 'code' in error ? String(error.code) : error.message;
}
