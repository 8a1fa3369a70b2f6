/**
 * How an analysis ends, and what it ends with. Every function may run twice: what the first run decided stands.
 */

import type pg from 'pg';
import type { CellType } from '../hematology/cell-types.js';
import type { Differential } from '../hematology/differential.js';
import type { Review } from '../hematology/review-rules.js';
import type { Verification } from '../hematology/verification.js';
import type { CellFlag, ImageQuality } from '../vision/types.js';
import { type AnalysisRow, type ImageRow, repeatedRows, toDocument } from './analyses.js';
import { COMPLETED_CHANNEL } from './completions.js';
import { type Database, inTransaction } from './database.js';
import type { AnalysisDocument, StoredProblem } from './documents.js';
import { addDeliveries, type StoredEvent } from './events.js';
import { isUuid } from './ids.js';
import { type ImageResult, readImages, writeImageResult } from './image-results.js';
import { insertReports, type PendingReport, pendingReports, type ReportDraft } from './reports.js';

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
  /** What is still to be stored of the last image, in the same transaction. */
  readonly last?: LastImage | undefined;
}

export interface LastImage {
  readonly index: number;
  readonly result: ImageResult;
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

/**
 * Ends an analysis: result document, differential rows and delivery in one transaction. Null: it was deleted, or has an image that
 * no run has begun; then it stays open, and the sweep finds it.
 */
export async function finishAnalysis(db: Database, id: string, options: FinishOptions): Promise<Finished | null> {
  if (!isUuid(id)) return null;
  return ending(db, async (client) => {
    const analysis = await lockAnalysis(client, id);
    if (analysis === null) return null;
    if (analysis.result !== null) {
      const document = analysis.result as unknown as AnalysisDocument;
      const deliveryIds = await pendingDeliveries(client, id);
      const reports = await pendingReports(client, id);
      return { document, laboratory: analysis.laboratory, deliveryIds, reports, changed: false };
    }
    const findings = await endedFindings(client, analysis, options);
    if (findings === null) return null;
    const { images, cells } = findings;
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
      cells,
    });
    if (repeated.size > 0) {
      // Only now: which image stands for which is known when every one has ended.
      await client.query('UPDATE cells SET counted = false WHERE analysis_id = $1 AND image_index = ANY($2::int[])', [
        id,
        [...repeated.keys()],
      ]);
    }
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
  return ending(db, async (client) => {
    const analysis = await lockAnalysis(client, id);
    if (analysis === null || analysis.status === 'completed' || analysis.status === 'failed') return null;
    const images = await endedImages(client, id, await readImages(client, id), problem);
    return end(client, { analysis, images, completedAt: new Date() }, { status: 'failed', problem }, { eventsOf });
  });
}

/** A transaction that ends an analysis; once it is committed, whoever waits in this process is told. */
async function ending(
  db: Database,
  work: (client: pg.PoolClient) => Promise<Finished | null>,
): Promise<Finished | null> {
  const finished = await inTransaction(db.pool, work);
  if (finished?.changed) db.completions.ended(finished.document);
  return finished;
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
    `WITH lines AS (${INSERT_DIFFERENTIAL})
     UPDATE analyses SET status = $8::status, completed_at = $9, result = $10, total_wbc = $11, review_required = $12,
            problem = $13 WHERE id = $1 RETURNING pg_notify('${COMPLETED_CHANNEL}', id::text)`,
    [
      id,
      ...differentialColumns(differential),
      document.status,
      completedAt,
      JSON.stringify(document),
      differential?.totalWbc ?? null,
      review?.required ?? null,
      problem === null ? null : JSON.stringify(problem),
    ],
  );
  const receivers = { id, laboratory: analysis.laboratory, callbackUrl: analysis.callbackUrl };
  const deliveryIds = await addDeliveries(client, receivers, eventsOf(document));
  const reports = await insertReports(client, document, reportsOf?.(document) ?? []);
  return { document, laboratory: analysis.laboratory, deliveryIds, reports, changed: true };
}

/** The lines of the differential of analysis $1; the columns of `differentialColumns` from $2 on. */
const INSERT_DIFFERENTIAL = `
  INSERT INTO differential_rows (analysis_id, class, count, percent, ci_low, ci_high, absolute_count)
  SELECT $1, * FROM unnest($2::text[], $3::int[], $4::float8[], $5::float8[], $6::float8[], $7::float8[])`;

/** The parameters $2 to $7 of INSERT_DIFFERENTIAL; no lines where there is no differential. */
function differentialColumns(differential: Differential | null): unknown[] {
  const others = differential?.others ?? [];
  const rows = [
    ...(differential?.classes ?? []),
    ...others.map((line) => ({ ...line, percent: null, ci95: null, absoluteCount: null })),
  ];
  return [
    rows.map((row) => row.class),
    rows.map((row) => row.count),
    rows.map((row) => row.percent),
    rows.map((row) => row.ci95?.low ?? null),
    rows.map((row) => row.ci95?.high ?? null),
    rows.map((row) => row.absoluteCount),
  ];
}

/** Writes the lines of a differential; those of an earlier one must be gone. */
export async function insertDifferential(client: pg.PoolClient, id: string, differential: Differential): Promise<void> {
  await client.query(INSERT_DIFFERENTIAL, [id, ...differentialColumns(differential)]);
}

interface LockedAnalysis extends AnalysisRow {
  readonly imageCount: number;
}

/** Nothing else writes the analysis, its images or its removal until the transaction ends. Null: it was deleted. */
async function lockAnalysis(client: pg.PoolClient, id: string): Promise<LockedAnalysis | null> {
  const { rows } = await client.query<LockedAnalysis>(
    `SELECT id, status, priority, accession_number AS "accessionNumber", specimen_id AS "specimenId",
            order_id AS "orderId", subject_id AS "subjectId", site, collected_at AS "collectedAt",
            callback_url AS "callbackUrl", microns_per_pixel AS "micronsPerPixel", target_cells AS "targetCells",
            wbc_count AS "wbcCount", metadata, created_at AS "createdAt", started_at AS "startedAt",
            completed_at AS "completedAt", total_wbc AS "totalWbc", review_required AS "reviewRequired", problem, result,
            laboratory, request_id AS "requestId", traceparent, tracestate, images_removed_at AS "imagesRemovedAt",
            masks_removed_at AS "masksRemovedAt",
            (SELECT count(*)::int FROM images WHERE analysis_id = analyses.id) AS "imageCount"
       FROM analyses WHERE id = $1 FOR UPDATE`,
    [id],
  );
  return rows[0] ?? null;
}

/** All images of an analysis that ends, `last` written among them, and their cells. Null: one of them still waits for its first run. */
async function endedFindings(
  client: pg.PoolClient,
  { id, imageCount }: LockedAnalysis,
  { last, interrupted }: Pick<FinishOptions, 'last' | 'interrupted'>,
): Promise<{ readonly images: readonly ImageRow[]; readonly cells: readonly CountedCell[] } | null> {
  if (last !== undefined) {
    const image = await writeImageResult(client, id, last.index, last.result);
    // All there is has just been written: nothing is read back.
    if (image !== null && imageCount === 1) return { images: [image], cells: countedCells(last) };
  }
  const images = await readImages(client, id);
  if (images.some(({ status }) => status === 'queued')) return null;
  return { images: await endedImages(client, id, images, interrupted), cells: await readCells(client, id) };
}

/** The images of an analysis that ends, as they are then: those that no run finished fail with `problem`. */
async function endedImages(
  client: pg.PoolClient,
  id: string,
  images: readonly ImageRow[],
  problem: StoredProblem,
): Promise<readonly ImageRow[]> {
  if (images.every(({ status }) => status === 'completed' || status === 'failed')) return images;
  await client.query(
    `UPDATE images SET status = 'failed', completed_at = now(), problem = $2
      WHERE analysis_id = $1 AND status IN ('queued', 'processing')`,
    [id, JSON.stringify(problem)],
  );
  return readImages(client, id);
}

async function readCells(client: pg.PoolClient, id: string): Promise<CountedCell[]> {
  const { rows } = await client.query<CountedCell>(
    `SELECT image_index AS image, class, confidence, flags, counted FROM cells WHERE analysis_id = $1
      ORDER BY image_index, number`,
    [id],
  );
  return rows;
}

/** As `readCells` would read them. */
function countedCells({ index, result }: LastImage): CountedCell[] {
  return result.cells.map(({ class: type, confidence, flags, counted }) => ({
    image: index,
    class: type,
    confidence,
    flags,
    counted,
  }));
}

async function pendingDeliveries(client: pg.PoolClient, id: string): Promise<string[]> {
  const { rows } = await client.query<{ id: string }>(
    `SELECT id FROM deliveries WHERE analysis_id = $1 AND status = 'pending'`,
    [id],
  );
  return rows.map((row) => row.id);
}
