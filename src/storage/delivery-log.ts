/** What became of deliveries, and making them again. Everything is asked for within a laboratory. */
import { type Database, inTransaction } from './database.js';
import { type DeliveryStatus, PING_EVENT } from './deliveries.js';
import type { Delivery as Row } from './generated/client.js';
import { isUuid } from './ids.js';
import { olderThan, type Page, pageOf } from './paging.js';

/** As many as one replay of an endpoint makes; the next one takes the next. */
export const REPLAY_LIMIT = 1_000;
/** Longer logs than the schedule of several replays do not help anybody. */
const ATTEMPTS_SHOWN = 100;

export interface DeliverySummary {
  readonly id: string;
  /** The `webhook-id` header of all its attempts. */
  readonly messageId: string;
  readonly eventType: string;
  readonly analysisId: string | null;
  readonly endpointId: string | null;
  readonly url: string;
  readonly status: DeliveryStatus;
  /** Of the present round: a replay begins again at 0. */
  readonly attempts: number;
  readonly nextAttemptAt: string | null;
  readonly lastStatus: number | null;
  readonly lastError: string | null;
  readonly createdAt: string;
  readonly deliveredAt: string | null;
}

export interface AttemptRecord {
  readonly at: string;
  readonly durationMs: number;
  readonly httpStatus: number | null;
  /** Null: it was received. */
  readonly error: string | null;
}

export interface DeliveryRecord extends DeliverySummary {
  /** The newest first. */
  readonly attemptLog: readonly AttemptRecord[];
}

export function messageIdOf(deliveryId: string): string {
  return `msg_${deliveryId}`;
}

export interface DeliveryFilter {
  readonly endpointId?: string | undefined;
  readonly analysisId?: string | undefined;
  readonly status?: DeliveryStatus | undefined;
  readonly limit: number;
  /** Id of the last delivery of the page before. */
  readonly cursor?: string | undefined;
}

/** The newest first. Throws `InvalidCursorError` for a cursor that no page gave out. */
export async function listDeliveries(
  db: Database,
  laboratory: string,
  { endpointId, analysisId, status, limit, cursor }: DeliveryFilter,
): Promise<Page<DeliverySummary>> {
  const rows = await db.prisma.delivery.findMany({
    where: {
      laboratory,
      ...(endpointId === undefined ? {} : { endpointId }),
      ...(analysisId === undefined ? {} : { analysisId }),
      ...(status === undefined ? {} : { status }),
      ...olderThan(cursor),
    },
    orderBy: { id: 'desc' },
    take: limit + 1,
  });
  return pageOf(rows, limit, toSummary);
}

/** Null: the laboratory has no such delivery. */
export async function getDelivery(db: Database, laboratory: string, id: string): Promise<DeliveryRecord | null> {
  if (!isUuid(id)) return null;
  const row = await db.prisma.delivery.findFirst({
    where: { id, laboratory },
    include: { attemptLog: { orderBy: { id: 'desc' }, take: ATTEMPTS_SHOWN } },
  });
  if (row === null) return null;
  const attemptLog = row.attemptLog.map(({ at, durationMs, httpStatus, error }) => ({
    at: at.toISOString(),
    durationMs,
    httpStatus,
    error,
  }));
  return { ...toSummary(row), attemptLog };
}

/**
 * Puts a delivery at the beginning of its schedule again, whatever became of it; one that waits is made now.
 * `disabled`: its endpoint receives nothing. Null: the laboratory has no such delivery.
 */
export async function replayDelivery(
  db: Database,
  laboratory: string,
  id: string,
): Promise<'replayed' | 'disabled' | null> {
  if (!isUuid(id)) return null;
  return inTransaction(db.pool, async (client) => {
    const { rows } = await client.query<{ disabled: boolean }>(
      `SELECT e.disabled_at IS NOT NULL AND d.event_type <> $3 AS disabled FROM deliveries d
         LEFT JOIN webhook_endpoints e ON e.id = d.endpoint_id
        WHERE d.id = $1 AND d.laboratory = $2 FOR UPDATE OF d`,
      [id, laboratory, PING_EVENT],
    );
    const [row] = rows;
    if (row === undefined) return null;
    if (row.disabled) return 'disabled';
    // An attempt under way is left to end; it decides what comes next.
    await client.query(
      `UPDATE deliveries SET status = 'pending', attempts = 0, next_attempt_at = now()
        WHERE id = $1 AND (claimed_until IS NULL OR claimed_until <= now())`,
      [id],
    );
    return 'replayed';
  });
}

/**
 * Replays what an endpoint did not receive of the events since then, the oldest first, at most `REPLAY_LIMIT`: what was
 * given up begins again, and what waits for its next attempt is made now.
 */
export async function replayMissed(
  db: Database,
  laboratory: string,
  endpointId: string,
  since: Date,
): Promise<string[]> {
  const { rows } = await db.pool.query<{ id: string }>(
    `UPDATE deliveries SET status = 'pending', attempts = 0, next_attempt_at = now()
      WHERE id IN (SELECT id FROM deliveries
                    WHERE endpoint_id = $1 AND laboratory = $2 AND created_at >= $3 AND event_type <> $5
                      AND (status = 'failed' OR (status = 'pending' AND next_attempt_at > now()
                                                 AND (claimed_until IS NULL OR claimed_until <= now())))
                    ORDER BY id LIMIT $4 FOR UPDATE)
      RETURNING id`,
    [endpointId, laboratory, since, REPLAY_LIMIT, PING_EVENT],
  );
  return rows.map((row) => row.id).sort();
}

function toSummary(row: Row): DeliverySummary {
  return {
    id: row.id,
    messageId: messageIdOf(row.id),
    eventType: row.eventType,
    analysisId: row.analysisId,
    endpointId: row.endpointId,
    url: row.url,
    status: row.status,
    attempts: row.attempts,
    nextAttemptAt: row.nextAttemptAt?.toISOString() ?? null,
    lastStatus: row.lastStatus,
    lastError: row.lastError,
    createdAt: row.createdAt.toISOString(),
    deliveredAt: row.deliveredAt?.toISOString() ?? null,
  };
}
