/**
 * What the jobs write. Every function may run twice: the second run replaces what the first wrote, and nothing changes
 * an analysis that has ended.
 */

import type pg from 'pg';
import type { CellType } from '../hematology/cell-types.js';
import type { Differential } from '../hematology/differential.js';
import type { Review } from '../hematology/review-rules.js';
import type { Verification } from '../hematology/verification.js';
import type { Box, CellFlag, Graded, ImageQuality, ImageScale, ModelInfo, Morphology } from '../vision/types.js';
import { type AnalysisRow, type ImageRow, repeatedRows, toDocument } from './analyses.js';
import { NOTIFY_COMPLETED } from './completions.js';
import { type Database, inTransaction } from './database.js';
import type { AnalysisDocument, StoredProblem } from './documents.js';
import { addDeliveries, type StoredEvent } from './events.js';
import { isUuid } from './ids.js';
import { readImageBytes } from './images.js';
import { insertReports, type PendingReport, pendingReports, type ReportDraft } from './reports.js';

/** Cells in one INSERT: keeps a statement with their PNGs at some megabytes. */
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

type OrderOfImage = Omit<ImageTask, 'bytes' | 'attempts'>;

/** Claims an image for a run. Null when there is nothing to do: it is finished, its analysis ended or was deleted. */
export async function startImage(db: Database, analysisId: string, index: number): Promise<ImageTask | null> {
  if (!isUuid(analysisId)) return null;
  const claim = await inTransaction(db.pool, async (client) => {
    const analysis = await lockOpenAnalysis(client, analysisId, 'FOR NO KEY UPDATE');
    if (analysis === null) return null;
    const { rows } = await client.query<{ attempts: number }>(
      `UPDATE images SET status = 'processing', attempts = attempts + 1, started_at = coalesce(started_at, now())
        WHERE analysis_id = $1 AND index = $2 AND status IN ('queued', 'processing') RETURNING attempts`,
      [analysisId, index],
    );
    const [image] = rows;
    if (image === undefined) return null;
    await client.query(
      `UPDATE analyses SET status = 'processing', started_at = now() WHERE id = $1 AND status = 'queued'`,
      [analysisId],
    );
    return { ...analysis, attempts: image.attempts };
  });
  if (claim === null) return null;
  // Outside the transaction: a large image takes long, and the other images of the analysis wait for its row.
  const bytes = await readImageBytes(db, analysisId, index);
  return bytes === null ? null : { ...claim, bytes };
}

/** Gives a run back that ended in an orderly way without a result: only runs that were cut off count against an image. */
export async function releaseImage(db: Database, analysisId: string, index: number): Promise<void> {
  await db.prisma.image.updateMany({
    where: { analysisId, index, status: 'processing', attempts: { gt: 0 } },
    data: { attempts: { decrement: 1 } },
  });
}

export interface CellResult {
  readonly box: Box;
  readonly areaPx: number;
  readonly areaUm2: number | null;
  readonly class: CellType;
  readonly confidence: number;
  readonly probabilities: Readonly<Record<string, number>>;
  readonly subtype: Graded | null;
  readonly morphology: Morphology | null;
  readonly saliencyConsistency: number;
  readonly rejectScore: number;
  readonly flags: readonly CellFlag[];
  readonly counted: boolean;
  /** PNG. */
  readonly mask: Uint8Array;
  readonly crop: Uint8Array;
  readonly cam: Uint8Array;
}

export interface ImageResult {
  readonly width: number;
  readonly height: number;
  readonly scale: ImageScale;
  readonly quality: ImageQuality;
  readonly saliencyConsistency: number | null;
  readonly timingsMs: Readonly<Record<string, number>>;
  readonly model: ModelInfo;
  /** Grey PNG. */
  readonly saliency: Uint8Array;
  /** In the order that numbers them. */
  readonly cells: readonly CellResult[];
}

/** Stores what was found in an image. False when the analysis has ended or was deleted: nothing is written then. */
export async function saveImageResult(
  db: Database,
  analysisId: string,
  index: number,
  result: ImageResult,
): Promise<boolean> {
  return replacing(db, analysisId, index, async (client) => {
    for (let first = 0; first < result.cells.length; first += CELL_BATCH) {
      await insertCells(client, analysisId, index, first, result.cells.slice(first, first + CELL_BATCH));
    }
    await client.query(
      `WITH map AS (
         INSERT INTO image_saliency (analysis_id, image_index, png) VALUES ($1, $2, $13)
         ON CONFLICT (analysis_id, image_index) DO UPDATE SET png = excluded.png)
       UPDATE images SET status = 'completed', completed_at = now(), problem = NULL, width = $3, height = $4,
              microns_per_pixel = $5, scale_source = $6, scale_confidence = $7, quality = $8, saliency_consistency = $9,
              cell_count = $10, timings_ms = $11, model = $12
        WHERE analysis_id = $1 AND index = $2`,
      [
        analysisId,
        index,
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
        buffer(result.saliency),
      ],
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
    if ((await lockOpenAnalysis(client, analysisId)) === null) return false;
    // Rasters and scores go with their cells.
    await client.query('DELETE FROM cells WHERE analysis_id = $1 AND image_index = $2', [analysisId, index]);
    await write(client);
    return true;
  });
}

async function insertCells(
  client: pg.PoolClient,
  analysisId: string,
  index: number,
  first: number,
  cells: readonly CellResult[],
): Promise<void> {
  const numbers = cells.map((_, offset) => first + offset);
  await client.query(
    `WITH stored AS (
       INSERT INTO cells (analysis_id, image_index, number, class, confidence, probabilities, box_x, box_y, box_width,
                          box_height, area_px, area_um2, flags, counted, subtype, morphology, reject_score)
       SELECT $1, $2, number, class, confidence, probabilities, x, y, width, height, area_px, area_um2,
              ARRAY(SELECT jsonb_array_elements_text(flags)), counted, subtype, morphology, reject_score
         FROM unnest($3::int[], $4::text[], $5::float8[], $6::json[], $7::int[], $8::int[], $9::int[], $10::int[],
                     $11::float8[], $12::float8[], $13::jsonb[], $14::boolean[], $15::json[], $16::json[], $17::float8[])
           AS cell (number, class, confidence, probabilities, x, y, width, height, area_px, area_um2, flags, counted,
                    subtype, morphology, reject_score))
     INSERT INTO consistency_scores (analysis_id, image_index, cell_number, score)
     SELECT $1, $2, * FROM unnest($3::int[], $18::float8[])`,
    [
      analysisId,
      index,
      numbers,
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
    ],
  );
  await insertRasters(client, analysisId, index, first, cells);
}

/** A row for each cell: pg sends a Buffer in binary, but an array of them as text, which both sides would have to convert. */
async function insertRasters(
  client: pg.PoolClient,
  analysisId: string,
  index: number,
  first: number,
  cells: readonly CellResult[],
): Promise<void> {
  const rows = cells.map((_, i) => `($1, $2, ${[3, 4, 5, 6].map((column) => `$${4 * i + column}`).join(', ')})`);
  const values = cells.flatMap(({ mask, crop, cam }, i) => [first + i, ...[mask, crop, cam].map(buffer)]);
  await client.query(
    `INSERT INTO cell_rasters (analysis_id, image_index, cell_number, mask, crop, cam) VALUES ${rows.join(', ')}`,
    [analysisId, index, ...values],
  );
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

/** One found cell, as far as the differential and the review rules look at it. */
export interface CountedCell {
  readonly image: number;
  readonly class: CellType;
  readonly confidence: number;
  readonly flags: readonly CellFlag[];
  readonly counted: boolean;
}

export interface Findings {
  readonly targetCells: number;
  readonly wbcCount: number | null;
  readonly images: readonly ImageFinding[];
  readonly cells: readonly CountedCell[];
  /** When the analysis ends: now. ISO 8601, UTC. */
  readonly endedAt: string;
}

export interface ImageFinding {
  readonly index: number;
  readonly failed: boolean;
  readonly qualityFlags: readonly string[];
  /** Index of the image with the same bytes whose cells are counted in its stead; null: its own are. */
  readonly repeatOf: number | null;
  readonly problem: StoredProblem | null;
}

export type Outcome =
  | {
      readonly status: 'completed';
      readonly differential: Differential;
      readonly review: Review;
      readonly verification: Verification;
    }
  | { readonly status: 'failed'; readonly problem: StoredProblem };

export interface FinishOptions {
  /** Pure: findings of all images in, result out. */
  readonly conclude: (findings: Findings) => Outcome;
  /** For an image that no run finished, because each was cut off. */
  readonly interrupted: StoredProblem;
  /** The events of an analysis that ended, as their final bytes. */
  readonly eventsOf: (document: AnalysisDocument) => readonly StoredEvent[];
  /** The reports that go to other systems. */
  readonly reportsOf?: (document: AnalysisDocument) => readonly ReportDraft[];
}

export interface Finished {
  readonly document: AnalysisDocument;
  readonly laboratory: string;
  /** Deliveries that are still to be made. */
  readonly deliveryIds: readonly string[];
  /** Reports that are still to be sent. */
  readonly reports: readonly PendingReport[];
  /** False when an earlier run had ended the analysis: its result stands. */
  readonly changed: boolean;
}

/** Ends an analysis: result document, differential rows and delivery in one transaction. Null: it was deleted. */
export async function finishAnalysis(db: Database, id: string, options: FinishOptions): Promise<Finished | null> {
  if (!isUuid(id)) return null;
  return inTransaction(db.pool, async (client) => {
    const { rows: locked } = await client.query<{ result: AnalysisDocument | null; laboratory: string }>(
      'SELECT result, laboratory FROM analyses WHERE id = $1 FOR UPDATE',
      [id],
    );
    const [present] = locked;
    if (present === undefined) return null;
    if (present.result !== null) {
      const deliveryIds = await pendingDeliveries(client, id);
      const reports = await pendingReports(client, id);
      return { document: present.result, laboratory: present.laboratory, deliveryIds, reports, changed: false };
    }
    await client.query(
      `UPDATE images SET status = 'failed', completed_at = now(), problem = $2
        WHERE analysis_id = $1 AND status IN ('queued', 'processing')`,
      [id, JSON.stringify(options.interrupted)],
    );
    const { analysis, images } = await readRows(client, id);
    const completedAt = new Date();
    const repeated = repeatedRows(images);
    const outcome = options.conclude({
      endedAt: completedAt.toISOString(),
      targetCells: analysis.targetCells,
      wbcCount: analysis.wbcCount,
      images: images.map((image) => ({
        index: image.index,
        failed: image.status === 'failed',
        qualityFlags: (image.quality as unknown as ImageQuality | null)?.flags ?? [],
        repeatOf: repeated.get(image.index) ?? null,
        problem: image.problem as StoredProblem | null,
      })),
      cells: await readCells(client, id),
    });
    // Only now: which image stands for which is known when every one has ended.
    await client.query('UPDATE cells SET counted = false WHERE analysis_id = $1 AND image_index = ANY($2::int[])', [
      id,
      [...repeated.keys()],
    ]);
    return end(client, { analysis, images, completedAt }, outcome, options);
  });
}

/** Ends an analysis without a result, whatever its images are doing. Null when it had ended or was deleted. */
export async function failAnalysis(
  db: Database,
  id: string,
  problem: StoredProblem,
  eventsOf: FinishOptions['eventsOf'],
): Promise<Finished | null> {
  if (!isUuid(id)) return null;
  return inTransaction(db.pool, async (client) => {
    if ((await lockOpenAnalysis(client, id, 'FOR UPDATE')) === null) return null;
    await client.query(
      `UPDATE images SET status = 'failed', completed_at = now(), problem = $2
        WHERE analysis_id = $1 AND status IN ('queued', 'processing')`,
      [id, JSON.stringify(problem)],
    );
    const { analysis, images } = await readRows(client, id);
    const ending = { analysis, images, completedAt: new Date() };
    return end(client, ending, { status: 'failed', problem }, { eventsOf });
  });
}

async function end(
  client: pg.PoolClient,
  {
    analysis,
    images,
    completedAt,
  }: { readonly analysis: AnalysisRow; readonly images: readonly ImageRow[]; readonly completedAt: Date },
  outcome: Outcome,
  { eventsOf, reportsOf }: Pick<FinishOptions, 'eventsOf' | 'reportsOf'>,
): Promise<Finished> {
  const { id } = analysis;
  const document = toDocument(analysis, images, { ...outcome, completedAt: completedAt.toISOString() });
  const { differential, review, problem } = document;
  await client.query(
    `UPDATE analyses SET status = $2::status, completed_at = $3, result = $4, total_wbc = $5, review_required = $6,
            problem = $7 WHERE id = $1`,
    [
      id,
      document.status,
      completedAt,
      JSON.stringify(document),
      differential?.totalWbc ?? null,
      review?.required ?? null,
      problem === null ? null : JSON.stringify(problem),
    ],
  );
  if (differential !== null) await writeDifferential(client, id, differential);
  const receivers = { id, laboratory: analysis.laboratory, callbackUrl: analysis.callbackUrl };
  const deliveryIds: string[] = [];
  for (const event of eventsOf(document)) deliveryIds.push(...(await addDeliveries(client, receivers, event)));
  const reports = await insertReports(client, document, reportsOf?.(document) ?? []);
  await client.query(NOTIFY_COMPLETED, [id]);
  return { document, laboratory: analysis.laboratory, deliveryIds, reports, changed: true };
}

/** Replaces the rows of the differential. */
export async function writeDifferential(client: pg.PoolClient, id: string, differential: Differential): Promise<void> {
  const rows = [
    ...differential.classes,
    ...differential.others.map((line) => ({ ...line, percent: null, ci95: null, absoluteCount: null })),
  ];
  await client.query('DELETE FROM differential_rows WHERE analysis_id = $1', [id]);
  await client.query(
    `INSERT INTO differential_rows (analysis_id, class, count, percent, ci_low, ci_high, absolute_count)
     SELECT $1, * FROM unnest($2::text[], $3::int[], $4::float8[], $5::float8[], $6::float8[], $7::float8[])`,
    [
      id,
      rows.map((row) => row.class),
      rows.map((row) => row.count),
      rows.map((row) => row.percent),
      rows.map((row) => row.ci95?.low ?? null),
      rows.map((row) => row.ci95?.high ?? null),
      rows.map((row) => row.absoluteCount),
    ],
  );
}

/**
 * Holds the analysis against its end and its removal, which lock FOR UPDATE. Null when it has ended or is gone.
 * With the default lock, images of one analysis are written side by side; a transaction that also changes the
 * analysis' own row takes the stronger one at once, because two that strengthen their lock later wait for each other.
 */
async function lockOpenAnalysis(
  client: pg.PoolClient,
  id: string,
  lock: 'FOR KEY SHARE' | 'FOR NO KEY UPDATE' | 'FOR UPDATE' = 'FOR KEY SHARE',
): Promise<OrderOfImage | null> {
  const { rows } = await client.query<OrderOfImage>(
    `SELECT microns_per_pixel AS "micronsPerPixel", request_id AS "requestId", laboratory, site FROM analyses
      WHERE id = $1 AND status IN ('queued', 'processing') ${lock}`,
    [id],
  );
  return rows[0] ?? null;
}

async function readRows(client: pg.PoolClient, id: string): Promise<{ analysis: AnalysisRow; images: ImageRow[] }> {
  const { rows: analyses } = await client.query<AnalysisRow>(
    `SELECT id, status, priority, accession_number AS "accessionNumber", specimen_id AS "specimenId",
            order_id AS "orderId", subject_id AS "subjectId", site, collected_at AS "collectedAt",
            callback_url AS "callbackUrl", microns_per_pixel AS "micronsPerPixel", target_cells AS "targetCells",
            wbc_count AS "wbcCount", metadata, created_at AS "createdAt", started_at AS "startedAt",
            completed_at AS "completedAt", total_wbc AS "totalWbc", review_required AS "reviewRequired", problem, result,
            laboratory, request_id AS "requestId", traceparent, tracestate, images_removed_at AS "imagesRemovedAt",
            masks_removed_at AS "masksRemovedAt"
       FROM analyses WHERE id = $1`,
    [id],
  );
  const { rows: images } = await client.query<ImageRow>(
    `SELECT analysis_id AS "analysisId", index, filename, content_type AS "contentType", byte_length AS "byteLength",
            sha256, duplicate_of_analysis AS "duplicateOfAnalysis", duplicate_of_index AS "duplicateOfIndex",
            width, height, status, attempts, started_at AS "startedAt", completed_at AS "completedAt",
            microns_per_pixel AS "micronsPerPixel", scale_source AS "scaleSource",
            scale_confidence AS "scaleConfidence", quality, saliency_consistency AS "saliencyConsistency",
            cell_count AS "cellCount", timings_ms AS "timingsMs", model, problem
       FROM images WHERE analysis_id = $1 ORDER BY index`,
    [id],
  );
  const [analysis] = analyses;
  if (analysis === undefined) throw new Error('the locked analysis is gone');
  return { analysis, images };
}

async function readCells(client: pg.PoolClient, id: string): Promise<CountedCell[]> {
  const { rows } = await client.query<CountedCell>(
    `SELECT image_index AS image, class, confidence, flags, counted FROM cells WHERE analysis_id = $1
      ORDER BY image_index, number`,
    [id],
  );
  return rows;
}

async function pendingDeliveries(client: pg.PoolClient, id: string): Promise<string[]> {
  const { rows } = await client.query<{ id: string }>(
    `SELECT id FROM deliveries WHERE analysis_id = $1 AND status = 'pending'`,
    [id],
  );
  return rows.map((row) => row.id);
}

const jsonOrNull = (value: unknown): string | null => (value === null ? null : JSON.stringify(value));

function buffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
