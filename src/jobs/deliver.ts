/**
 * The job `deliver`: an event to one of its receivers, signed after Standard Webhooks
 * (https://www.standardwebhooks.com). Id and body stay the same over all attempts; the timestamp is the attempt's.
 */
import { DelayedError } from 'bullmq';
import type { Logger } from 'pino';
import { type Dispatcher, request } from 'undici';
import type { Config } from '../config.js';
import type { Metrics } from '../observability/metrics.js';
import { refuseUrl } from '../outbound/address-policy.js';
import { AddressRefusedError } from '../outbound/lookup.js';
import type { Database } from '../storage/database.js';
import {
  type AttemptResult,
  claimDelivery,
  type Delivery,
  endAttempt,
  giveBackDelivery,
  type Lane,
  PING_EVENT,
} from '../storage/deliveries.js';
import { messageIdOf } from '../storage/delivery-log.js';
import type { Sealer } from '../storage/sealing.js';
import { patiently } from './patience.js';
import type { QueueJob, Queues } from './queues.js';
import { signatures } from './webhook-secret.js';
import { inWebhookSpan } from './webhook-span.js';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

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
/** For the whole attempt. Standard Webhooks: 15 to 30 seconds. */
const TIMEOUT_MS = 15 * SECOND;
/** A claim outlives its attempt by this. */
const LEASE_SLACK_MS = 20 * SECOND;
const LONGEST_RETRY_AFTER_MS = 24 * HOUR;

export interface DeliverDeps {
  readonly config: Pick<Config, 'webhookNetworks' | 'webhookPorts' | 'webhookDisableAfterDays'>;
  readonly db: Database;
  readonly queues: Pick<Queues, 'addDelivery'>;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Signs what goes to callback addresses; two during a change, separated by a space. */
  readonly webhookSecret: string;
  readonly sealer: Sealer;
  /** Connects to allowed addresses only. */
  readonly agent: Dispatcher;
  /** Default `RETRY_SCHEDULE_MS`. */
  readonly retryScheduleMs?: readonly number[];
  /** Cuts attempts off when the process has to end. */
  readonly shutdown: AbortSignal;
  /** Default `TIMEOUT_MS`. */
  readonly attemptTimeoutMs?: number;
}

export type DeliveryJob = QueueJob<'leukodiff-deliveries' | 'leukodiff-failing-deliveries'>;

export async function deliver(deps: DeliverDeps, lane: Lane, job: DeliveryJob, token: string): Promise<void> {
  const { config, db, queues, metrics, log, attemptTimeoutMs = TIMEOUT_MS } = deps;
  const { deliveryId } = job.data;
  const stored = <T>(work: () => Promise<T>): Promise<T> => patiently(deps.shutdown, work);
  const leaseMs = attemptTimeoutMs + LEASE_SLACK_MS;
  const claim = await stored(() => claimDelivery(db, deliveryId, { leaseMs, lane }));
  switch (claim.kind) {
    case 'none':
    case 'busy':
      return;
    case 'later':
      return postpone(job, claim.waitMs, token);
    case 'failing':
      return queues.addDelivery(deliveryId, { lane: 'failing' });
  }
  const { delivery } = claim;
  const attempt = await inWebhookSpan(
    delivery,
    { 'leukodiff.delivery': deliveryId, 'leukodiff.event': delivery.eventType, 'leukodiff.attempt': delivery.attempts },
    (headers) => post(deps, { ...delivery, ...headers }, attemptTimeoutMs),
  );
  if (!attempt.ok && attempt.httpStatus === null && deps.shutdown.aborted) {
    await giveBackDelivery(db, deliveryId);
    return queues.addDelivery(deliveryId, { lane, again: true });
  }
  const schedule = delivery.eventType === PING_EVENT ? [] : (deps.retryScheduleMs ?? RETRY_SCHEDULE_MS);
  const retryInMs = attempt.ok || attempt.final ? null : waitAfter(delivery.attempts, attempt.retryAfterMs, schedule);
  const disableAfterMs = config.webhookDisableAfterDays * DAY;
  const ended = await stored(() => endAttempt(db, delivery, attempt, { retryInMs, disableAfterMs }));
  const facts = { deliveryId, attempt: delivery.attempts, httpStatus: attempt.httpStatus };
  metrics.deliverySeconds.observe(attempt.durationMs / 1000);
  if (attempt.ok) {
    metrics.deliveries.inc({ outcome: 'delivered' });
    log.info(facts, 'webhook delivered');
  } else {
    metrics.deliveries.inc({ outcome: retryInMs === null ? 'failed' : 'retry' });
    log.warn({ ...facts, reason: attempt.error, retryInMs }, 'webhook not delivered');
  }
  if (ended.disabled !== null) {
    log.warn({ endpointId: delivery.endpoint?.id, reason: ended.disabled }, 'webhook endpoint disabled');
  }
  for (const id of ended.waiting) {
    await queues.addDelivery(id, { lane: ended.failing ? 'failing' : 'prompt', again: true });
  }
  if (retryInMs !== null && ended.disabled === null) await postpone(job, retryInMs, token);
}

async function postpone(job: DeliveryJob, waitMs: number, token: string): Promise<never> {
  await job.moveToDelayed(Date.now() + Math.ceil(Math.max(100, waitMs)), token);
  throw new DelayedError();
}

/** Milliseconds until the attempt after so many; null: the schedule is used up. */
export function waitAfter(
  attemptsMade: number,
  retryAfterMs: number | null,
  schedule: readonly number[],
): number | null {
  const planned = schedule[attemptsMade - 1];
  if (planned === undefined) return null;
  const spread = planned * (1 + JITTER * (2 * Math.random() - 1));
  return Math.max(spread, Math.min(retryAfterMs ?? 0, LONGEST_RETRY_AFTER_MS));
}

interface PostResult extends AttemptResult {
  /** No further attempt can succeed. */
  readonly final: boolean;
  readonly retryAfterMs: number | null;
}

async function post(deps: DeliverDeps, delivery: Delivery, timeoutMs: number): Promise<PostResult> {
  const { config, agent } = deps;
  const begun = performance.now();
  const failed = (error: string, final = false): PostResult => ({
    ...{ ok: false, gone: false, httpStatus: null, retryAfterMs: null },
    ...{ error, final, durationMs: performance.now() - begun },
  });
  const refused = refuseUrl(delivery.url, { allow: config.webhookNetworks, ports: config.webhookPorts });
  if (refused !== null) return failed(refused, true);
  let secrets: readonly string[];
  try {
    secrets = secretsOf(deps, delivery);
  } catch {
    return failed('the secret cannot be opened: every process needs the same WEBHOOK_ENCRYPTION_KEY');
  }
  const timestamp = new Date();
  const id = messageIdOf(delivery.id);
  try {
    // Not `fetch`: that follows redirects, which could lead where the address itself would not have been allowed, and
    // refuses ports that browsers keep from web pages.
    const { statusCode, headers, body } = await request(delivery.url, {
      dispatcher: agent,
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'user-agent': 'Leukodiff',
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(timestamp.getTime() / 1000)),
        'webhook-signature': signatures(secrets, id, timestamp, delivery.body),
        ...originHeaders(delivery),
      },
      body: delivery.body,
      signal: AbortSignal.any([AbortSignal.timeout(timeoutMs), deps.shutdown]),
    });
    // The answer's content is of no interest; reading a little of it lets the connection be used again.
    await body.dump({ limit: 16 * 1024 }).catch(() => undefined);
    const ok = statusCode >= 200 && statusCode < 300;
    // Gone: the receiver wants no more of this.
    const gone = statusCode === 410;
    const retryAfter = headers['retry-after'];
    return {
      ...{ ok, gone, final: gone, httpStatus: statusCode, durationMs: performance.now() - begun },
      error: ok ? null : `the receiver answered ${statusCode}`,
      retryAfterMs: retryAfterMs(typeof retryAfter === 'string' ? retryAfter : null),
    };
  } catch (error) {
    return failed(connectionError(error, timeoutMs));
  }
}

function secretsOf({ sealer, webhookSecret }: DeliverDeps, { endpoint }: Delivery): readonly string[] {
  if (endpoint === null) return webhookSecret.split(/\s+/);
  return endpoint.secrets.map((sealed) => sealer.open(sealed, endpoint.id));
}

/** What names the request that brought the order, in the receiver's log as in ours (W3C Trace Context). */
function originHeaders({ requestId, traceparent, tracestate }: Delivery): Record<string, string> {
  return {
    ...(requestId === null ? {} : { 'x-request-id': requestId }),
    ...(traceparent === null ? {} : { traceparent }),
    ...(traceparent === null || tracestate === null ? {} : { tracestate }),
  };
}

/** Seconds or a date; null for anything else. */
export function retryAfterMs(header: string | null, nowMs = Date.now()): number | null {
  if (header === null) return null;
  if (/^\d+$/.test(header.trim())) return Number(header) * SECOND;
  const date = Date.parse(header);
  return Number.isNaN(date) ? null : Math.max(0, date - nowMs);
}

/** For the delivery log: no address, no content. */
function connectionError(error: unknown, timeoutMs: number): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof AddressRefusedError) return `refused: ${error.message} (WEBHOOK_ALLOW_NETWORKS)`;
  if (error.name === 'TimeoutError') return `no answer in ${timeoutMs / SECOND} s`;
  return 'code' in error ? String(error.code) : error.message;
}
