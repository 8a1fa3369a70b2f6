/**
 * Deliveries of events to their receivers. The row is the truth; a job only says that it is time to look at it.
 *
 * Of one destination only so many attempts run at once, over all processes. What finds its destination busy simply
 * stays due: whoever ends an attempt there is told what waits (`Ended.waiting`), so nobody polls for a free place.
 */
import type pg from 'pg';
import { type Database, inTransaction } from './database.js';

/**
 * Attempts under way to one destination. One is enough for a LIS that answers within a second (thousands an hour), and
 * all that a dead one can hold.
 */
export const ATTEMPTS_PER_DESTINATION = 1;
/** Days of failure alone would disable an endpoint that was called twice in a week. */
export const FAILURES_TO_DISABLE = 10;
/** A timer of the queue may be this early. */
const GRACE_MS = 1_000;
export const PING_EVENT = 'webhook.ping';
export const ENDPOINT_DISABLED = 'the endpoint is disabled';

export const DELIVERY_STATUSES = ['pending', 'delivered', 'failed'] as const;
export type DeliveryStatus = (typeof DELIVERY_STATUSES)[number];

/** Deliveries to destinations that fail run apart from the others, so that waiting for them keeps nobody waiting. */
export type Lane = 'prompt' | 'failing';

export interface Delivery {
  readonly id: string;
  readonly url: string;
  readonly body: string;
  readonly eventType: string;
  /** Attempts that began in this round, this one included. */
  readonly attempts: number;
  readonly destination: string;
  /** Null: the order's own callback address. */
  readonly endpoint: SigningEndpoint | null;
  /** Of the request that brought the order; null for pings, and for orders of versions that did not keep them. */
  readonly requestId: string | null;
  /** W3C Trace Context of that request. */
  readonly traceparent: string | null;
  readonly tracestate: string | null;
}

export interface SigningEndpoint {
  readonly id: string;
  /** Sealed; the newest first. */
  readonly secrets: readonly Uint8Array[];
}

export type Claim =
  | { readonly kind: 'claimed'; readonly delivery: Delivery }
  /** Not due before so many milliseconds are over. */
  | { readonly kind: 'later'; readonly waitMs: number }
  /** Enough attempts to its destination are under way; it will be named when one of them ends. */
  | { readonly kind: 'busy' }
  /** Its destination fails: it belongs into the other lane. */
  | { readonly kind: 'failing' }
  /** Done, given up or deleted. */
  | { readonly kind: 'none' };

interface ClaimRow {
  readonly id: string;
  readonly url: string;
  readonly body: string;
  readonly eventType: string;
  readonly attempts: number;
  readonly destination: string;
  readonly waitMs: number;
  readonly endpointId: string | null;
  readonly disabledAt: Date | null;
  readonly secret: Uint8Array | null;
  readonly previousSecret: Uint8Array | null;
  readonly failing: boolean;
  readonly underWay: number;
  readonly requestId: string | null;
  readonly traceparent: string | null;
  readonly tracestate: string | null;
}

/**
 * Claims the next attempt. The claim lapses after `leaseMs`, so that an attempt which a crash cut off is made again.
 */
export async function claimDelivery(
  db: Database,
  id: string,
  { leaseMs, lane }: { readonly leaseMs: number; readonly lane: Lane },
): Promise<Claim> {
  return inTransaction(db.pool, async (client) => {
    if (!(await lockDestinationOf(client, id))) return { kind: 'none' };
    const { rows } = await client.query<ClaimRow>(
      `SELECT d.id, coalesce(e.url, d.url) AS url, d.body, d.event_type AS "eventType", d.attempts, d.destination,
              (extract(epoch FROM d.next_attempt_at - now()) * 1000)::float8 AS "waitMs",
              d.endpoint_id AS "endpointId", e.disabled_at AS "disabledAt", e.secret,
              CASE WHEN e.previous_secret_until > now() THEN e.previous_secret END AS "previousSecret",
              f.destination IS NOT NULL AS failing,
              a.request_id AS "requestId", a.traceparent, a.tracestate,
              (SELECT count(*)::int FROM deliveries other
                WHERE other.destination = d.destination AND other.status = 'pending' AND other.claimed_until > now()
              ) AS "underWay"
         FROM deliveries d
         LEFT JOIN analyses a ON a.id = d.analysis_id
         LEFT JOIN webhook_endpoints e ON e.id = d.endpoint_id
         LEFT JOIN failing_destinations f ON f.destination = d.destination
        WHERE d.id = $1 AND d.status = 'pending' FOR UPDATE OF d`,
      [id],
    );
    const [row] = rows;
    if (row === undefined) return { kind: 'none' };
    if (row.disabledAt !== null && row.eventType !== PING_EVENT) {
      await client.query(
        `UPDATE deliveries SET status = 'failed', next_attempt_at = NULL, last_error = $2 WHERE id = $1`,
        [id, ENDPOINT_DISABLED],
      );
      return { kind: 'none' };
    }
    if (row.waitMs > GRACE_MS) return { kind: 'later', waitMs: row.waitMs };
    if (row.failing && lane === 'prompt') return { kind: 'failing' };
    if (row.underWay >= ATTEMPTS_PER_DESTINATION) return { kind: 'busy' };
    await client.query(
      `UPDATE deliveries SET attempts = attempts + 1, url = $3, next_attempt_at = now() + $2 * interval '1 millisecond',
              claimed_until = now() + $2 * interval '1 millisecond' WHERE id = $1`,
      [id, leaseMs, row.url],
    );
    const secrets = [row.secret, row.previousSecret].filter((secret) => secret !== null);
    const { url, body, eventType, attempts, destination, endpointId, requestId, traceparent, tracestate } = row;
    const endpoint = endpointId === null ? null : { id: endpointId, secrets };
    const origin = { requestId, traceparent, tracestate };
    const delivery = { id, url, body, eventType, attempts: attempts + 1, destination, endpoint, ...origin };
    return { kind: 'claimed', delivery };
  });
}

export interface AttemptResult {
  readonly ok: boolean;
  /** Of the answer; null when there was none. */
  readonly httpStatus: number | null;
  readonly error: string | null;
  readonly durationMs: number;
  /** The receiver wants nothing of this any more (410). */
  readonly gone: boolean;
}

export interface Ended {
  /** Deliveries to the same destination for which there is a place now. */
  readonly waiting: readonly string[];
  readonly failing: boolean;
  /** Why the endpoint was disabled by this attempt; null: it was not. */
  readonly disabled: 'gone' | 'failing' | null;
}

export interface EndOptions {
  /** Until the next attempt, by the database's clock; null gives up. */
  readonly retryInMs: number | null;
  /** An endpoint that has failed for so long is disabled. */
  readonly disableAfterMs: number;
}

/** Records an attempt, and what it says about its destination. */
export async function endAttempt(
  db: Database,
  delivery: Pick<Delivery, 'id' | 'destination' | 'endpoint' | 'eventType'>,
  attempt: AttemptResult,
  { retryInMs, disableAfterMs }: EndOptions,
): Promise<Ended> {
  const { id, destination, endpoint } = delivery;
  return inTransaction(db.pool, async (client) => {
    await lockDestination(client, destination);
    const status = attempt.ok ? 'delivered' : retryInMs === null ? 'failed' : 'pending';
    const { rowCount } = await client.query(
      `UPDATE deliveries SET status = $2::delivery_status, next_attempt_at = now() + $3 * interval '1 millisecond',
              claimed_until = NULL, last_status = $4, last_error = $5, delivered_at = CASE WHEN $6 THEN now() ELSE delivered_at END WHERE id = $1`,
      [id, status, attempt.ok ? null : retryInMs, attempt.httpStatus, attempt.error, attempt.ok],
    );
    // The analysis may have been deleted meanwhile, and the delivery with it.
    if (rowCount === 1) {
      await client.query(
        `INSERT INTO delivery_attempts (delivery_id, duration_ms, http_status, error) VALUES ($1, $2, $3, $4)`,
        [id, Math.round(attempt.durationMs), attempt.httpStatus, attempt.error],
      );
    }
    const failingForMs = await noteDestination(client, destination, attempt.ok);
    let disabled: Ended['disabled'] = null;
    if (endpoint !== null) {
      if (attempt.ok) {
        await client.query('UPDATE webhook_endpoints SET last_delivered_at = now() WHERE id = $1', [endpoint.id]);
      } else if (attempt.gone || failingForMs >= disableAfterMs) {
        disabled = await disable(client, endpoint.id, attempt.gone ? 'gone' : 'failing');
      }
    }
    return { waiting: await waitingFor(client, destination), failing: !attempt.ok, disabled };
  });
}

/** Takes back a claim whose attempt was cut off by this process: it counts for nothing and is due at once. */
export async function giveBackDelivery(db: Database, id: string): Promise<void> {
  await db.pool.query(
    `UPDATE deliveries SET attempts = greatest(0, attempts - 1), next_attempt_at = now(), claimed_until = NULL
      WHERE id = $1 AND status = 'pending'`,
    [id],
  );
}

/** How long the destination has failed, in ms; -1 while it is too few times for a judgement, or not at all. */
async function noteDestination(client: pg.PoolClient, destination: string, ok: boolean): Promise<number> {
  if (ok) {
    await client.query('DELETE FROM failing_destinations WHERE destination = $1', [destination]);
    return -1;
  }
  const { rows } = await client.query<{ failures: number; forMs: number }>(
    `INSERT INTO failing_destinations (destination) VALUES ($1)
     ON CONFLICT (destination) DO UPDATE SET failures = failing_destinations.failures + 1, last_at = now()
     RETURNING failures, (extract(epoch FROM now() - since) * 1000)::float8 AS "forMs"`,
    [destination],
  );
  const [row] = rows;
  return row !== undefined && row.failures >= FAILURES_TO_DISABLE ? row.forMs : -1;
}

/** Null when it was disabled before. */
async function disable<R extends 'gone' | 'failing'>(client: pg.PoolClient, id: string, reason: R): Promise<R | null> {
  const { rowCount } = await client.query(
    `UPDATE webhook_endpoints SET disabled_at = now(), disabled_reason = $2, updated_at = now()
      WHERE id = $1 AND disabled_at IS NULL`,
    [id, reason],
  );
  if (rowCount !== 1) return null;
  await failPending(client, id);
  return reason;
}

/** What was still to be delivered is given up, and can be replayed when the endpoint is enabled again. */
export async function failPending(client: pg.PoolClient, endpointId: string): Promise<void> {
  await client.query(
    `UPDATE deliveries SET status = 'failed', next_attempt_at = NULL, last_error = coalesce(last_error, $2)
      WHERE endpoint_id = $1 AND status = 'pending' AND event_type <> $3`,
    [endpointId, ENDPOINT_DISABLED, PING_EVENT],
  );
}

/** Due and unclaimed deliveries, as many as there are places. */
async function waitingFor(client: pg.PoolClient, destination: string): Promise<string[]> {
  const { rows } = await client.query<{ id: string }>(
    `SELECT id FROM deliveries
      WHERE destination = $1 AND status = 'pending' AND next_attempt_at <= now()
      ORDER BY next_attempt_at
      LIMIT greatest(0, $2 - (SELECT count(*) FROM deliveries
                               WHERE destination = $1 AND status = 'pending' AND claimed_until > now()))`,
    [destination, ATTEMPTS_PER_DESTINATION],
  );
  return rows.map((row) => row.id);
}

/** Claims and ends of one destination come one after another. False: there is no such delivery. */
async function lockDestinationOf(client: pg.PoolClient, id: string): Promise<boolean> {
  const { rows } = await client.query<{ destination: string }>('SELECT destination FROM deliveries WHERE id = $1', [
    id,
  ]);
  const [row] = rows;
  if (row !== undefined) await lockDestination(client, row.destination);
  return row !== undefined;
}

async function lockDestination(client: pg.PoolClient, destination: string): Promise<void> {
  await client.query('SELECT pg_advisory_xact_lock(hashtextextended($1, 0))', [`delivery ${destination}`]);
}

/**
 * Pending deliveries that have been due for `overdueMs`: their job may be gone. A few of each destination, the oldest
 * first, so that thousands for a dead one do not hide those of the others.
 */
export async function overdueDeliveries(db: Database, overdueMs: number, limit: number): Promise<string[]> {
  const { rows } = await db.pool.query<{ id: string }>(
    `SELECT id FROM (
       SELECT id, next_attempt_at, row_number() OVER (PARTITION BY destination ORDER BY next_attempt_at) AS place
         FROM deliveries WHERE status = 'pending' AND next_attempt_at < now() - $1 * interval '1 millisecond'
     ) AS overdue WHERE place <= $2 ORDER BY next_attempt_at LIMIT $3`,
    [overdueMs, ATTEMPTS_PER_DESTINATION, limit],
  );
  return rows.map((row) => row.id);
}
