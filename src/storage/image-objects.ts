/**
 * Images that lie in the object store, kept in step with the rows that refer to them. An object without a row is named in
 * `unreferenced_objects`: from before its upload until the row is committed, and again from the moment the row goes
 * (docs/decisions/0087-images-in-s3.md). So neither a crash nor an outage leaves one behind.
 */
import type pg from 'pg';
import type { Database } from './database.js';
import { inTransaction } from './database.js';
import type { ObjectStore } from './object-store.js';

/** Longer than any order takes to be stored; what is still unreferenced then was cut off. */
const UPLOAD_GRACE = '1 hour';
/** As many as S3 removes at once. */
const BATCH = 1_000;

/** Uploads an image and refers to it within the caller's transaction. */
export async function storeObject(
  { journal }: Pick<Database, 'journal'>,
  store: ObjectStore,
  client: Pick<pg.PoolClient, 'query'>,
  image: { readonly analysisId: string; readonly index: number; readonly bytes: Uint8Array },
): Promise<void> {
  const key = `${image.analysisId}/${image.index}`;
  await journal.query(
    `INSERT INTO unreferenced_objects (key, due_at) VALUES ($1, now() + interval '${UPLOAD_GRACE}')`,
    [key],
  );
  // Taken back by the caller's commit alone. Until then the row is locked, and the sweep passes over it.
  await client.query('DELETE FROM unreferenced_objects WHERE key = $1', [key]);
  await store.put(key, image.bytes);
  await client.query('INSERT INTO image_files (analysis_id, image_index, object_key) VALUES ($1, $2, $3)', [
    image.analysisId,
    image.index,
    key,
  ]);
}

/** Removes the objects that are due; returns how many. Throws `ObjectStoreError`; what is not removed stays due. */
export async function removeUnreferencedObjects(db: Database): Promise<number> {
  const { objects } = db;
  if (objects === null) return 0;
  let removed = 0;
  for (;;) {
    const count = await inTransaction(db.pool, async (client) => {
      const { rows } = await client.query<{ key: string }>(
        `DELETE FROM unreferenced_objects WHERE key IN (
           SELECT key FROM unreferenced_objects WHERE due_at <= now() ORDER BY due_at LIMIT ${BATCH}
              FOR UPDATE SKIP LOCKED) RETURNING key`,
      );
      await objects.store.remove(rows.map(({ key }) => key));
      return rows.length;
    });
    removed += count;
    if (count < BATCH) return removed;
  }
}
