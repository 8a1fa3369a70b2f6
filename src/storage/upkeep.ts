/** What the sweep asks for: analyses whose jobs may be gone, that are too old, or that need not be kept any longer. */
import { appendAudit, systemEntry } from './audit.js';
import { type Database, inTransaction } from './database.js';
import type { Priority } from './documents.js';
import type { RemovedAnalysis } from './removal.js';

export interface OpenAnalysis {
  readonly id: string;
  readonly priority: Priority;
  /** Of its first image, in the line of those that wait; null: an older version stored it. */
  readonly turn: number | null;
  /** Of the images that are not finished. */
  readonly openImages: readonly number[];
}

/** Analyses that have not ended and were posted at least `olderThanMs` ago, by the database's clock, in the order of their ids behind `after`. */
export async function openAnalyses(
  db: Database,
  olderThanMs: number,
  limit: number,
  after?: string,
): Promise<OpenAnalysis[]> {
  const { rows } = await db.pool.query<OpenAnalysis>(
    `SELECT id, priority, turn,
            ARRAY(SELECT index FROM images WHERE analysis_id = analyses.id AND status IN ('queued', 'processing')
                   ORDER BY index) AS "openImages"
       FROM analyses
      WHERE status IN ('queued', 'processing') AND created_at <= now() - $1 * interval '1 millisecond'
        AND ($3::uuid IS NULL OR id > $3)
      ORDER BY id LIMIT $2`,
    [olderThanMs, limit, after ?? null],
  );
  return rows;
}

/** Removes analyses posted more than `days` ago, with images and results, and enters each in the trail; returns which. */
export async function removeOlderThan(db: Database, days: number): Promise<RemovedAnalysis[]> {
  return inTransaction(db.pool, async (client) => {
    const { rows } = await client.query<RemovedAnalysis>(
      `DELETE FROM analyses WHERE created_at < now() - $1 * interval '1 day' RETURNING id, laboratory`,
      [days],
    );
    await appendAudit(
      client,
      rows.map((row) => systemEntry('removeAnalysisByAge', row)),
    );
    return rows;
  });
}

/** "SWEP" as a number. */
const SWEEP_LOCK = 0x53574550;

/** Runs `work` unless another process does. */
export async function withSweepLock<T>(db: Database, work: () => Promise<T>): Promise<T | null> {
  const client = await db.pool.connect();
  let broken: Error | undefined;
  try {
    const { rows } = await client.query<{ locked: boolean }>('SELECT pg_try_advisory_lock($1) AS locked', [SWEEP_LOCK]);
    if (rows[0]?.locked !== true) return null;
    try {
      return await work();
    } finally {
      await client.query('SELECT pg_advisory_unlock($1)', [SWEEP_LOCK]).catch((error: Error) => {
        // Closing the connection releases the lock as well.
        broken = error;
      });
    }
  } finally {
    client.release(broken);
  }
}
