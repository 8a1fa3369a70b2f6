/**
 * Orders that are stored once, however often they are sent. The key and the order are committed together, so a crash
 * leaves either both or neither, and no key is ever locked by somebody who is gone
 * (docs/decisions/0021-idempotency-in-the-transaction.md).
 */
import { createHash } from 'node:crypto';
import { type CreatedAnalysis, insertAnalysis, type NewAnalysis, type NewImage } from './analyses.js';
import { type Database, inTransaction } from './database.js';

export interface IdempotencyOptions {
  /** As the client sent it; only its hash is kept. */
  readonly key: string;
  /** Of everything that makes two orders the same. */
  readonly fingerprint: Buffer;
  readonly rememberedHours: number;
}

export type StoredOnce =
  | ({ readonly outcome: 'created' } & CreatedAnalysis)
  /** The same order came before. */
  | { readonly outcome: 'replayed'; readonly id: string }
  /** The same order came before, and was deleted since. */
  | { readonly outcome: 'deleted' }
  | { readonly outcome: 'other-order' }
  | { readonly outcome: 'in-flight' };

/** Stores an order unless the laboratory sent one with this key before. */
export async function createAnalysisOnce(
  db: Database,
  laboratory: string,
  input: NewAnalysis & { readonly images: readonly NewImage[] },
  { key, fingerprint, rememberedHours }: IdempotencyOptions,
): Promise<StoredOnce> {
  const keyHash = hashOf(key);
  return inTransaction(db.pool, async (client): Promise<StoredOnce> => {
    // Held to the end of the transaction, by a crash too.
    const { rows: locks } = await client.query<{ held: boolean }>(
      'SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS held',
      [`${laboratory} ${keyHash.toString('hex')}`],
    );
    if (locks[0]?.held !== true) return { outcome: 'in-flight' };
    const { rows } = await client.query<{ fingerprint: Buffer; analysisId: string; exists: boolean }>(
      `SELECT fingerprint, analysis_id AS "analysisId",
              EXISTS (SELECT FROM analyses WHERE analyses.id = analysis_id) AS exists
         FROM idempotency_keys
        WHERE laboratory = $1 AND key_hash = $2 AND created_at >= now() - $3 * interval '1 hour'`,
      [laboratory, keyHash, rememberedHours],
    );
    const [first] = rows;
    if (first !== undefined) {
      if (!first.fingerprint.equals(fingerprint)) return { outcome: 'other-order' };
      return first.exists ? { outcome: 'replayed', id: first.analysisId } : { outcome: 'deleted' };
    }
    const created = await insertAnalysis(db, client, laboratory, input);
    await client.query(
      `INSERT INTO idempotency_keys (laboratory, key_hash, fingerprint, analysis_id) VALUES ($1, $2, $3, $4)
       ON CONFLICT (laboratory, key_hash)
       DO UPDATE SET fingerprint = excluded.fingerprint, analysis_id = excluded.analysis_id, created_at = now()`,
      [laboratory, keyHash, fingerprint, created.id],
    );
    return { outcome: 'created', ...created };
  });
}

/** Whether an order came with this key: its repetition brings nothing new into the queue. */
export async function isKeyKnown(db: Database, laboratory: string, key: string, hours: number): Promise<boolean> {
  const { rowCount } = await db.pool.query(
    `SELECT FROM idempotency_keys
      WHERE laboratory = $1 AND key_hash = $2 AND created_at >= now() - $3 * interval '1 hour'`,
    [laboratory, hashOf(key), hours],
  );
  return rowCount !== 0;
}

/** Forgets keys that are older; returns how many. */
export async function removeKeysOlderThan(db: Database, hours: number): Promise<number> {
  const { rowCount } = await db.pool.query(
    `DELETE FROM idempotency_keys WHERE created_at < now() - $1 * interval '1 hour'`,
    [hours],
  );
  return rowCount ?? 0;
}

function hashOf(key: string): Buffer {
  return createHash('sha256').update(key).digest();
}
