/**
 * Reports on their way to other systems. The row is the truth, with the final bytes of its message; a job only says that
 * it is time to look at it. Reports with one order key go out one after the other, in the order in which they were made.
 */
import type pg from 'pg';
import type { Database } from './database.js';
import type { AnalysisDocument } from './documents.js';
import { uuidv7 } from './ids.js';

export const REPORT_CHANNELS = ['hl7', 'fhir'] as const;
export type ReportChannel = (typeof REPORT_CHANNELS)[number];

export interface ReportDraft {
  readonly channel: ReportChannel;
  readonly body: string;
}

export interface PendingReport {
  readonly id: string;
  readonly channel: ReportChannel;
}

export interface ClaimedReport {
  readonly id: string;
  readonly body: string;
  readonly orderKey: string;
  /** Attempts that began, this one included. */
  readonly attempts: number;
  /** Earlier attempts that the receiver refused. */
  readonly refusals: number;
  /** By the database's clock. */
  readonly ageMs: number;
}

/** Stores the reports of the revision that `document` is at. */
export async function insertReports(
  client: pg.PoolClient,
  document: AnalysisDocument,
  drafts: readonly ReportDraft[],
): Promise<PendingReport[]> {
  const stored: PendingReport[] = [];
  for (const { channel, body } of drafts) {
    const id = uuidv7();
    await client.query(
      `INSERT INTO report_deliveries (id, analysis_id, channel, revision, order_key, body, next_attempt_at)
       VALUES ($1, $2, $3, $4, $5, $6, now())`,
      [id, document.id, channel, document.verification?.revision ?? 1, document.accessionNumber ?? document.id, body],
    );
    stored.push({ id, channel });
  }
  return stored;
}

export async function pendingReports(client: pg.PoolClient, analysisId: string): Promise<PendingReport[]> {
  const { rows } = await client.query<PendingReport>(
    `SELECT id, channel FROM report_deliveries WHERE analysis_id = $1 AND status = 'pending' ORDER BY id`,
    [analysisId],
  );
  return rows;
}

/**
 * Claims the next attempt. Null when it is not its turn: done, given up, deleted, not due, or an earlier report of its
 * order is still on its way. The claim lapses after `leaseMs`, so that an attempt which a crash cut off is made again.
 */
export async function claimReport(db: Database, id: string, leaseMs: number): Promise<ClaimedReport | null> {
  const { rows } = await db.pool.query<ClaimedReport>(
    // A second of grace: timers of the queue and clocks of two machines differ.
    `UPDATE report_deliveries AS r SET attempts = attempts + 1, next_attempt_at = now() + $2 * interval '1 millisecond'
      WHERE id = $1 AND status = 'pending' AND next_attempt_at <= now() + interval '1 second'
        AND NOT EXISTS (SELECT 1 FROM report_deliveries AS earlier
                         WHERE earlier.channel = r.channel AND earlier.order_key = r.order_key
                           AND earlier.status = 'pending' AND earlier.id < r.id)
      RETURNING id, body, order_key AS "orderKey", attempts, refusals,
                (extract(epoch FROM now() - created_at) * 1000)::float8 AS "ageMs"`,
    [id, leaseMs],
  );
  return rows[0] ?? null;
}

export async function markReportDelivered(db: Database, id: string, answer: string): Promise<void> {
  await db.pool.query(
    `UPDATE report_deliveries SET status = 'delivered', delivered_at = now(), next_attempt_at = NULL,
            last_answer = $2, last_error = NULL WHERE id = $1`,
    [id, answer],
  );
}

/** Records a failed attempt; the next one is made in `retryInMs`, by the database's clock, null gives up. */
export async function markReportFailed(
  db: Database,
  id: string,
  { answer, error, refused }: { readonly answer: string | null; readonly error: string; readonly refused: boolean },
  retryInMs: number | null,
): Promise<void> {
  await db.pool.query(
    `UPDATE report_deliveries SET status = $2::delivery_status, next_attempt_at = now() + $3 * interval '1 millisecond',
            last_answer = $4, last_error = $5, refusals = refusals + $6 WHERE id = $1`,
    [id, retryInMs === null ? 'failed' : 'pending', retryInMs, answer, error, refused ? 1 : 0],
  );
}

/** Milliseconds until a report is to be looked at again: its own or those of the one before it. Null: there is nothing to send. */
export async function reportDueInMs(db: Database, id: string): Promise<number | null> {
  const { rows } = await db.pool.query<{ dueInMs: number | null }>(
    `SELECT (extract(epoch FROM
              greatest(r.next_attempt_at, (SELECT min(earlier.next_attempt_at) FROM report_deliveries AS earlier
                                            WHERE earlier.channel = r.channel AND earlier.order_key = r.order_key
                                              AND earlier.status = 'pending' AND earlier.id < r.id)) - now()) * 1000)::float8 AS "dueInMs"
       FROM report_deliveries AS r WHERE id = $1 AND status = 'pending'`,
    [id],
  );
  return rows[0]?.dueInMs ?? null;
}

/** The report of the same order that waits behind those that are done; null when none does. */
export async function nextReport(db: Database, channel: ReportChannel, orderKey: string): Promise<string | null> {
  const row = await db.prisma.reportDelivery.findFirst({
    where: { channel, orderKey, status: 'pending' },
    orderBy: { id: 'asc' },
    select: { id: true },
  });
  return row?.id ?? null;
}

/** Pending reports that have been due for `overdueMs`, the oldest first: their job may be gone. */
export async function overdueReports(
  db: Database,
  channels: readonly ReportChannel[],
  overdueMs: number,
  limit: number,
): Promise<PendingReport[]> {
  const { rows } = await db.pool.query<PendingReport>(
    `SELECT id, channel FROM report_deliveries
      WHERE channel = ANY($1) AND status = 'pending' AND next_attempt_at < now() - $2 * interval '1 millisecond'
      ORDER BY next_attempt_at LIMIT $3`,
    [channels, overdueMs, limit],
  );
  return rows;
}
