/**
 * What the jobs write of an image, in as few statements as it takes: an image costs PostgreSQL and the process more by the
 * statement than by the byte. Every function may run twice, and nothing changes an analysis that has ended.
 */

import type pg from 'pg';
import type { CellFinding, ImageAnalysis, ModelInfo } from '../vision/types.js';
import type { ImageRow } from './analyses.js';
import { type Database, inTransaction } from './database.js';
import type { StoredProblem } from './documents.js';
import { isUuid } from './ids.js';
import { readImageBytes, SMALL_IMAGE_BYTES } from './images.js';
import { joined } from './joined.js';

/** Cells in one statement: keeps it with their PNGs at some megabytes. */
const CELL_BATCH = 200;

export interface ImageTask {
  readonly bytes: Buffer;
  /** As posted with the order; null: estimate it. */
  readonly micronsPerPixel: number | null;
  /** Runs that began and were not given back, this one included. */
  readonly attempts: number;
  /** Of the request that brought the order. */
  readonly requestId: string | null;
  readonly laboratory: string;
  /** As the order names it. */
  readonly site: string | null;
}

/** What stands for a task where an image of an urgent order waits, which goes first. */
export const URGENT_FIRST = 'urgent first';

/**
 * Claims an image for a run. Null when there is nothing to do: it is finished, its analysis ended or was deleted. The claim does not
 * wait for the disk: where a crash of the server takes it back, the image still waits, and the run goes on.
 */
export async function startImage(db: Database, analysisId: string, index: number): Promise<ImageTask | null> {
  const claim = await claimImage(db, CLAIM, analysisId, index);
  return claim === URGENT_FIRST ? null : claim;
}

/** The same, unless an image of an urgent order waits. */
export function startImageUnlessUrgent(
  db: Database,
  analysisId: string,
  index: number,
): Promise<ImageTask | null | typeof URGENT_FIRST> {
  return claimImage(db, CLAIM_UNLESS_URGENT, analysisId, index);
}

/** What such a statement answers; nothing was claimed where the attempts are null. */
type Claim = { readonly urgentWaits: boolean } & (
  | (Omit<ImageTask, 'bytes'> & { readonly bytes: Buffer | null })
  | { readonly attempts: null }
);

async function claimImage(
  db: Database,
  statement: string,
  analysisId: string,
  index: number,
): Promise<ImageTask | null | typeof URGENT_FIRST> {
  if (!isUuid(analysisId)) return null;
  const recent = db.recentImages?.get(analysisId, index) ?? null;
  // Of a larger image the other images of the analysis would wait for the row while it is read.
  const mostBytes = recent === null ? SMALL_IMAGE_BYTES : -1;
  const { rows } = await db.pool.query<Claim>(statement, [analysisId, index, mostBytes]);
  const [row] = rows;
  if (row === undefined) return null;
  const { urgentWaits, ...claim } = row;
  if (urgentWaits) return URGENT_FIRST;
  db.recentImages?.forget(analysisId, index);
  if (claim.attempts === null) return null;
  const bytes = recent ?? claim.bytes ?? (await readImageBytes(db, analysisId, index));
  return bytes === null ? null : { ...claim, bytes };
}

/** Two texts and not a parameter: PostgreSQL would plan such a statement anew for each image, to see whether the half of it can go. */
const claimUnless = (urgentWaits: string): string => `
  WITH urgent AS (SELECT ${urgentWaits} AS waits),
  -- The order's row before the image's, as everywhere; the stronger lock at once, because two that strengthen it wait for each other.
  analysis AS (
    SELECT id, status, microns_per_pixel, request_id, laboratory, site FROM analyses
     WHERE id = $1 AND status IN ('queued', 'processing') AND NOT (SELECT waits FROM urgent) FOR NO KEY UPDATE),
  image AS (
    UPDATE images SET status = 'processing', attempts = attempts + 1, started_at = coalesce(started_at, now())
      FROM analysis
     WHERE images.analysis_id = analysis.id AND images.index = $2 AND images.status IN ('queued', 'processing')
    RETURNING attempts, set_config('synchronous_commit', 'off', true)),
  begun AS (
    UPDATE analyses SET status = 'processing', started_at = now() FROM analysis, image
     -- Of the row that is locked above: asked of the table, it would be looked for among all orders that wait, or have waited.
     WHERE analyses.id = analysis.id AND analysis.status = 'queued')
  SELECT urgent.waits AS "urgentWaits", claim.* FROM urgent LEFT JOIN (
    SELECT analysis.microns_per_pixel AS "micronsPerPixel", analysis.request_id AS "requestId", analysis.laboratory,
           analysis.site, image.attempts,
           (SELECT bytes FROM image_files WHERE analysis_id = $1 AND image_index = $2 AND length(bytes) <= $3) AS bytes
      FROM analysis, image) AS claim ON true`;

const CLAIM = claimUnless('false');
const CLAIM_UNLESS_URGENT = claimUnless(`EXISTS (
  SELECT FROM analyses JOIN images ON images.analysis_id = analyses.id
   WHERE analyses.priority = 'stat' AND analyses.status IN ('queued', 'processing') AND images.status = 'queued')`);

/** Gives a run back that ended in an orderly way without a result: only runs that were cut off count against an image. */
export async function releaseImage(db: Database, analysisId: string, index: number): Promise<void> {
  await db.prisma.image.updateMany({
    where: { analysisId, index, status: 'processing', attempts: { gt: 0 } },
    data: { attempts: { decrement: 1 } },
  });
}

/** A cell as vision found it, with PNG in place of rasters. */
export interface CellResult extends Omit<CellFinding, 'window' | 'mask' | 'crop' | 'cam'> {
  /** By the border rule of the differential. */
  readonly counted: boolean;
  readonly mask: Uint8Array;
  readonly crop: Uint8Array;
  readonly cam: Uint8Array;
}

/** An image as vision found it; its cells are numbered in their order. */
export interface ImageResult extends Omit<ImageAnalysis, 'saliency' | 'cells'> {
  readonly model: ModelInfo;
  /** Grey PNG. */
  readonly saliency: Uint8Array;
  readonly cells: readonly CellResult[];
}

/**
 * Stores what was found in an image, in place of what an earlier run found. False when the analysis has ended or was
 * deleted: nothing is written then.
 */
export async function saveImageResult(
  db: Database,
  analysisId: string,
  index: number,
  result: ImageResult,
): Promise<boolean> {
  if (result.cells.length <= CELL_BATCH) {
    const written = await writeResult(db.pool, analysisId, index, result);
    if (written !== 'found before') return written === 'stored';
  }
  return replacing(db, analysisId, index, (client) => writeInPlace(client, analysisId, index, result));
}

/**
 * The same in the transaction of a caller who holds the row of the order, which has not ended. Returns the image's row, where it is
 * known without another look.
 */
export async function writeImageResult(
  client: pg.PoolClient,
  analysisId: string,
  index: number,
  result: ImageResult,
): Promise<ImageRow | null> {
  if (result.cells.length <= CELL_BATCH) {
    const { rows } = await client.query<ImageRow>(WRITE_RESULT_FOR_ROW, resultColumns(analysisId, index, result));
    if (rows[0] !== undefined) return rows[0];
  }
  await removeFindings(client, analysisId, index);
  await writeInPlace(client, analysisId, index, result);
  return null;
}

const IMAGE_COLUMNS = `
  analysis_id AS "analysisId", index, filename, content_type AS "contentType", byte_length AS "byteLength", sha256,
  duplicate_of_analysis AS "duplicateOfAnalysis", duplicate_of_index AS "duplicateOfIndex", width, height, status, attempts,
  started_at AS "startedAt", completed_at AS "completedAt", microns_per_pixel AS "micronsPerPixel",
  scale_source AS "scaleSource", scale_confidence AS "scaleConfidence", quality,
  saliency_consistency AS "saliencyConsistency", cell_count AS "cellCount", timings_ms AS "timingsMs", model, problem`;

/** All images of an order, in its order. */
export async function readImages(client: pg.PoolClient, analysisId: string): Promise<ImageRow[]> {
  const { rows } = await client.query<ImageRow>(
    `SELECT ${IMAGE_COLUMNS} FROM images WHERE analysis_id = $1 ORDER BY index`,
    [analysisId],
  );
  return rows;
}

/** Where no findings are. */
async function writeInPlace(
  client: pg.PoolClient,
  analysisId: string,
  index: number,
  result: ImageResult,
): Promise<void> {
  await writeResult(client, analysisId, index, result);
  for (let first = CELL_BATCH; first < result.cells.length; first += CELL_BATCH) {
    await client.query(`WITH image AS (SELECT $1::uuid AS analysis_id, $2::int AS index), ${INSERT_CELLS} SELECT`, [
      analysisId,
      index,
      ...cellColumns(result.cells, first),
    ]);
  }
}

/** Cells, scores and pictures of `image`, which comes before in the same WITH; the columns of `cellColumns` from $3 on. */
const INSERT_CELLS = `
  found AS (
    INSERT INTO cells (analysis_id, image_index, number, class, confidence, probabilities, box_x, box_y, box_width,
                       box_height, area_px, area_um2, flags, counted, subtype, morphology, reject_score)
    SELECT image.analysis_id, image.index, number, class, confidence, probabilities, x, y, cell.width, cell.height, area_px, area_um2,
           ARRAY(SELECT jsonb_array_elements_text(flags)), counted, subtype, morphology, reject_score
      FROM image, unnest($3::int[], $4::text[], $5::float8[], $6::json[], $7::int[], $8::int[], $9::int[], $10::int[],
                         $11::float8[], $12::float8[], $13::jsonb[], $14::boolean[], $15::json[], $16::json[], $17::float8[])
        AS cell (number, class, confidence, probabilities, x, y, width, height, area_px, area_um2, flags, counted, subtype,
                 morphology, reject_score)),
  scores AS (
    INSERT INTO consistency_scores (analysis_id, image_index, cell_number, score)
    SELECT image.analysis_id, image.index, number, score
      FROM image, unnest($3::int[], $18::float8[]) AS cell (number, score)),
  pictures AS (
    INSERT INTO cell_rasters (analysis_id, image_index, cell_number, mask, crop, cam)
    SELECT image.analysis_id, image.index, number, substring($19::bytea FROM mask_at + 1 FOR crop_at - mask_at),
           substring($19::bytea FROM crop_at + 1 FOR cam_at - crop_at), substring($19::bytea FROM cam_at + 1 FOR end_at - cam_at)
      FROM image, unnest($3::int[], $20::int[], $21::int[], $22::int[], $23::int[])
        AS cell (number, mask_at, crop_at, cam_at, end_at))`;

/** The parameters $3 to $23 of INSERT_CELLS, for a batch of the cells from `first` on. */
function cellColumns(all: readonly CellResult[], first: number): unknown[] {
  const cells = all.slice(first, first + CELL_BATCH);
  const { bytes, starts } = joined(cells.flatMap(({ mask, crop, cam }) => [mask, crop, cam]));
  const everyThird = (from: number): number[] => cells.map((_, i) => starts[3 * i + from] ?? 0);
  return [
    cells.map((_, offset) => first + offset),
    cells.map((cell) => cell.class),
    cells.map((cell) => cell.confidence),
    cells.map((cell) => JSON.stringify(cell.probabilities)),
    cells.map((cell) => Math.round(cell.box.x)),
    cells.map((cell) => Math.round(cell.box.y)),
    cells.map((cell) => Math.round(cell.box.width)),
    cells.map((cell) => Math.round(cell.box.height)),
    cells.map((cell) => cell.areaPx),
    cells.map((cell) => cell.areaUm2),
    cells.map((cell) => JSON.stringify(cell.flags)),
    cells.map((cell) => cell.counted),
    cells.map((cell) => jsonOrNull(cell.subtype)),
    cells.map((cell) => jsonOrNull(cell.morphology)),
    cells.map((cell) => cell.rejectScore),
    cells.map((cell) => cell.saliencyConsistency),
    bytes,
    everyThird(0),
    everyThird(1),
    everyThird(2),
    everyThird(3),
  ];
}

/** Writes a result with the first batch of its cells, in one statement: all of it or nothing. */
async function writeResult(
  client: Pick<pg.PoolClient, 'query'>,
  analysisId: string,
  index: number,
  result: ImageResult,
): Promise<'stored' | 'found before' | 'ended'> {
  const { rows } = await client.query<{ open: boolean; stored: boolean }>(
    WRITE_RESULT,
    resultColumns(analysisId, index, result),
  );
  const [written] = rows;
  if (!written?.open) return 'ended';
  return written.stored ? 'stored' : 'found before';
}

/**
 * Holds the analysis against its end and its removal, which lock FOR UPDATE; images of one analysis are written side by side.
 * No row when it has ended or is gone.
 */
const OPEN_ANALYSIS = `SELECT id FROM analyses WHERE id = $1 AND status IN ('queued', 'processing') FOR KEY SHARE`;

/** Terms of a WITH: `analysis` where it is open, `image` where it had no result; the parameters are those of `resultColumns`. */
const WRITING = `
  WITH analysis AS (${OPEN_ANALYSIS}),
  image AS (
    UPDATE images SET status = 'completed', completed_at = now(), problem = NULL, width = $24, height = $25,
           microns_per_pixel = $26, scale_source = $27, scale_confidence = $28, quality = $29,
           saliency_consistency = $30, cell_count = $31, timings_ms = $32, model = $33
      FROM analysis
     -- Only a completed image has cells.
     WHERE images.analysis_id = analysis.id AND images.index = $2 AND images.status <> 'completed'
    RETURNING images.*),
  map AS (
    INSERT INTO image_saliency (analysis_id, image_index, png) SELECT analysis_id, index, $34 FROM image
    ON CONFLICT (analysis_id, image_index) DO UPDATE SET png = excluded.png),
  ${INSERT_CELLS}`;

const WRITE_RESULT = `${WRITING} SELECT EXISTS (SELECT FROM analysis) AS open, EXISTS (SELECT FROM image) AS stored`;
const WRITE_RESULT_FOR_ROW = `${WRITING} SELECT ${IMAGE_COLUMNS} FROM image`;

function resultColumns(analysisId: string, index: number, result: ImageResult): unknown[] {
  return [
    analysisId,
    index,
    ...cellColumns(result.cells, 0),
    result.width,
    result.height,
    result.scale.micronsPerPixel,
    result.scale.source,
    result.scale.confidence,
    JSON.stringify(result.quality),
    result.saliencyConsistency,
    result.cells.length,
    JSON.stringify(result.timingsMs),
    JSON.stringify(result.model),
    Buffer.from(result.saliency.buffer, result.saliency.byteOffset, result.saliency.byteLength),
  ];
}

/** Marks an image that cannot be analysed. False when the analysis has ended or was deleted. */
export async function saveImageFailure(
  db: Database,
  analysisId: string,
  index: number,
  problem: StoredProblem,
): Promise<boolean> {
  return replacing(db, analysisId, index, async (client) => {
    await client.query(
      `UPDATE images SET status = 'failed', completed_at = now(), problem = $3, cell_count = NULL
        WHERE analysis_id = $1 AND index = $2`,
      [analysisId, index, JSON.stringify(problem)],
    );
  });
}

/** Writes what a run found in place of what an earlier run did. False when the analysis has ended or was deleted. */
function replacing(
  db: Database,
  analysisId: string,
  index: number,
  write: (client: pg.PoolClient) => Promise<void>,
): Promise<boolean> {
  return inTransaction(db.pool, async (client) => {
    const { rowCount } = await client.query(OPEN_ANALYSIS, [analysisId]);
    if (rowCount === 0) return false;
    await removeFindings(client, analysisId, index);
    await write(client);
    return true;
  });
}

async function removeFindings(client: pg.PoolClient, analysisId: string, index: number): Promise<void> {
  const key = [analysisId, index];
  // The image's row first: of two runs at the same time the second one then sees, and replaces, what the first one wrote.
  await client.query(`UPDATE images SET status = 'processing' WHERE analysis_id = $1 AND index = $2`, key);
  // Rasters and scores go with their cells.
  await client.query('DELETE FROM cells WHERE analysis_id = $1 AND image_index = $2', key);
}

const jsonOrNull = (value: unknown): string | null => (value === null ? null : JSON.stringify(value));
