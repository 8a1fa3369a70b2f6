/** Histograms of what was found, for the drift report. */
import type { Database } from './database.js';

/** Newest results that are looked at: enough for any index, and bounded for a database of millions. */
const MOST_ANALYSES = 5_000;

/** What can be counted, and where it stands. Fixed texts: nothing of them comes from outside. */
const VALUES = {
  confidence: { from: 'JOIN cells ON cells.analysis_id = recent.id', value: 'cells.confidence' },
  consistency: { from: 'JOIN consistency_scores AS scores ON scores.analysis_id = recent.id', value: 'scores.score' },
  class: { from: 'JOIN cells ON cells.analysis_id = recent.id', value: 'cells.class' },
  sharpness: image(`quality->>'sharpness'`),
  brightness: image(`quality->>'brightness'`),
  background: image(`quality->>'background'`),
  stain_density: image(`quality->'stain'->>'density'`),
  stain_balance: image(`quality->'stain'->>'balance'`),
} as const;

export type MeasuredValue = keyof typeof VALUES;

function image(path: string): { from: string; value: string } {
  return {
    from: `JOIN images ON images.analysis_id = recent.id AND images.status = 'completed'`,
    value: `(images.${path})::float8`,
  };
}

export interface BinCount {
  readonly laboratory: string;
  readonly site: string | null;
  /** Number of the bin from 0, or the class. */
  readonly bin: string;
  readonly count: number;
}

export interface Period {
  readonly from: Date;
  readonly to: Date;
}

/** Of the results that the model with this checksum made of orders of the period. `edges` null: one bin for each class. */
export async function countBins(
  db: Database,
  measure: MeasuredValue,
  edges: readonly number[] | null,
  { from, to }: Period,
  modelSha256: string,
): Promise<BinCount[]> {
  const { from: join, value } = VALUES[measure];
  const bin = edges === null ? value : `width_bucket(${value}, $4::float8[])`;
  const { rows } = await db.pool.query<BinCount>(
    `WITH recent AS (
       SELECT id, laboratory, site FROM analyses
        WHERE status = 'completed' AND created_at >= $1 AND created_at < $2 AND result->'model'->>'sha256' = $3
        ORDER BY created_at DESC LIMIT ${MOST_ANALYSES})
     SELECT laboratory, site, (${bin})::text AS bin, count(*)::int AS count FROM recent ${join}
      WHERE ${value} IS NOT NULL GROUP BY 1, 2, 3`,
    edges === null ? [from, to, modelSha256] : [from, to, modelSha256, edges],
  );
  return rows;
}
