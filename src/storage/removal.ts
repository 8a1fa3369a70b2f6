/**
 * What is removed before its analysis is: the posted images, or the pictures of the result. The numbers stay. Only of
 * analyses that have ended: the others still need their images.
 */
import type pg from 'pg';
import { appendAudit, systemEntry } from './audit.js';
import { type Database, inTransaction } from './database.js';
import { isUuid } from './ids.js';

export type RemovablePart = 'images' | 'masks';

interface Part {
  readonly column: string;
  readonly tables: readonly string[];
  /** What the audit trail calls it when the service does it by itself. */
  readonly operation: string;
}

const PARTS: Readonly<Record<RemovablePart, Part>> = {
  images: { column: 'images_removed_at', tables: ['image_files'], operation: 'removeImagesByAge' },
  masks: { column: 'masks_removed_at', tables: ['cell_rasters', 'image_saliency'], operation: 'removeMasksByAge' },
};

/** Analyses in one transaction: bounds how long it holds their rows. */
const BATCH = 100;

/** Removing twice is removing once. Null: the laboratory has no such analysis. */
export async function removePart(
  db: Database,
  laboratory: string,
  id: string,
  part: RemovablePart,
): Promise<'removed' | 'not-ended' | null> {
  if (!isUuid(id)) return null;
  return inTransaction(db.pool, async (client) => {
    const { rows } = await client.query<{ ended: boolean }>(
      `SELECT status IN ('completed', 'failed') AS ended FROM analyses
        WHERE id = $1 AND laboratory = $2 FOR NO KEY UPDATE`,
      [id, laboratory],
    );
    const [row] = rows;
    if (row === undefined) return null;
    if (!row.ended) return 'not-ended';
    await remove(client, part, [id]);
    return 'removed';
  });
}

export interface RemovedAnalysis {
  readonly id: string;
  readonly laboratory: string;
}

/** Of analyses posted more than `days` ago. Enters each that still had the part in the trail, and returns them. */
export async function removePartOlderThan(db: Database, part: RemovablePart, days: number): Promise<RemovedAnalysis[]> {
  const removed: RemovedAnalysis[] = [];
  for (;;) {
    const batch = await inTransaction(db.pool, async (client) => {
      const { rows } = await client.query<RemovedAnalysis>(
        `SELECT id, laboratory FROM analyses
          WHERE status IN ('completed', 'failed') AND created_at < now() - $1 * interval '1 day'
            AND ${PARTS[part].column} IS NULL
          ORDER BY id LIMIT ${BATCH} FOR NO KEY UPDATE SKIP LOCKED`,
        [days],
      );
      if (rows.length > 0) {
        await remove(
          client,
          part,
          rows.map(({ id }) => id),
        );
        await appendAudit(
          client,
          rows.map((row) => systemEntry(PARTS[part].operation, row)),
        );
      }
      return rows;
    });
    removed.push(...batch);
    if (batch.length < BATCH) return removed;
  }
}

/** Whether a part of an analysis was removed; false as well where there is no such analysis. */
export async function isPartRemoved(
  db: Database,
  laboratory: string,
  id: string,
  part: RemovablePart,
): Promise<boolean> {
  const { rows } = await db.pool.query<{ removed: boolean }>(
    `SELECT ${PARTS[part].column} IS NOT NULL AS removed FROM analyses WHERE id = $1 AND laboratory = $2`,
    [id, laboratory],
  );
  return rows[0]?.removed ?? false;
}

async function remove(client: pg.PoolClient, part: RemovablePart, ids: readonly string[]): Promise<void> {
  const { column, tables } = PARTS[part];
  for (const table of tables) await client.query(`DELETE FROM ${table} WHERE analysis_id = ANY($1)`, [ids]);
  await client.query(`UPDATE analyses SET ${column} = coalesce(${column}, now()) WHERE id = ANY($1)`, [ids]);
}
