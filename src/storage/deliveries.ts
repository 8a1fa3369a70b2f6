/** Deliveries of events to callback addresses. The row is the truth; a job only says that it is time to look at it. */
import type { Database } from './database.js';

export interface Delivery {
  readonly id: string;
  readonly url: string;
  readonly body: string;
  /** Attempts that began, this one included. */
  readonly attempts: number;
  /** Of the request that brought the order; null for orders of versions that did not keep them. */
  readonly requestId: string | null;
  readonly traceparent: string | null;
  readonly tracestate: string | null;
}

/**
 * Claims the next attempt. Null when it is not due: done, given up, deleted, or another job has it. The claim lapses
 * after `leaseMs`, so that an attempt which a crash cut off is made again.
 */
export async function claimDelivery(db: Database, id: string, leaseMs: number): Promise<Delivery | null> {
  const { rows } = await db.pool.query<Delivery>(
    // A second of grace: timers of the queue and clocks of two machines differ.
    `UPDATE deliveries SET attempts = attempts + 1, next_attempt_at = now() + $2 * interval '1 millisecond'
       FROM analyses
      WHERE deliveries.id = $1 AND deliveries.status = 'pending' AND next_attempt_at <= now() + interval '1 second'
        AND analyses.id = analysis_id
      RETURNING deliveries.id, url, body, attempts, request_id AS "requestId", traceparent, tracestate`,
    [id, leaseMs],
  );
  return rows[0] ?? null;
}

export interface AttemptResult {
  /** Of the answer; null when there was none. */
  readonly httpStatus: number | null;
  readonly error: string | null;
}

export async function markDelivered(db: Database, id: string, attempt: AttemptResult): Promise<void> {
  await db.prisma.delivery.updateMany({
    where: { id },
    data: {
      status: 'delivered',
      deliveredAt: new Date(),
      nextAttemptAt: null,
      lastStatus: attempt.httpStatus,
      lastError: null,
    },
  });
}

/** Records a failed attempt; `nextAttemptAt` null gives up. */
export async function markAttemptFailed(
  db: Database,
  id: string,
  attempt: AttemptResult,
  nextAttemptAt: Date | null,
): Promise<void> {
  await db.prisma.delivery.updateMany({
    where: { id },
    data: {
      status: nextAttemptAt === null ? 'failed' : 'pending',
      nextAttemptAt,
      lastStatus: attempt.httpStatus,
      lastError: attempt.error,
    },
  });
}

/** When the next attempt is due; null when there is none to make. */
export async function nextAttemptAt(db: Database, id: string): Promise<Date | null> {
  const row = await db.prisma.delivery.findUnique({ where: { id }, select: { status: true, nextAttemptAt: true } });
  return row?.status === 'pending' ? row.nextAttemptAt : null;
}

/** Pending deliveries that have been due for `overdueMs`, the oldest first: their job may be gone. */
export async function overdueDeliveries(db: Database, overdueMs: number, limit: number): Promise<string[]> {
  const rows = await db.prisma.delivery.findMany({
    where: { status: 'pending', nextAttemptAt: { lt: new Date(Date.now() - overdueMs) } },
    orderBy: { nextAttemptAt: 'asc' },
    take: limit,
    select: { id: true },
  });
  return rows.map((row) => row.id);
}
