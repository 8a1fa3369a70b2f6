/** What people do to a finished result. Each act is one transaction: the result, its cells and the record of who did what. */
import type pg from 'pg';
import type { CellType } from '../hematology/cell-types.js';
import type { Differential } from '../hematology/differential.js';
import { cellsOnce } from '../hematology/repeated-images.js';
import type { ReviewImage } from '../hematology/review-rules.js';
import {
  type Look,
  type Refusal,
  type ReportStatus,
  type Result,
  recount,
  sign,
  standingClass,
  unverified,
  type VerifiableCell,
} from '../hematology/verification.js';
import { type Database, inTransaction } from './database.js';
import type { AnalysisDocument, ReviewChangeDocument } from './documents.js';
import { addDeliveries, type StoredEvent } from './events.js';
import { type CellKey, formatCellId, isUuid, parseCellId } from './ids.js';
import { insertReports, type PendingReport, type ReportDraft } from './reports.js';
import { insertDifferential } from './results.js';

export interface ReviewContext {
  readonly reviewer: string;
  readonly comment: string | null;
  /** Whether the caller knows the result as it stands: called with it while nobody else can change it. */
  readonly isCurrent: (document: AnalysisDocument) => boolean;
  /** The events of a signature, as their final bytes. */
  readonly eventsOf: (document: AnalysisDocument) => readonly StoredEvent[];
  /** The reports that the new revision goes out with. */
  readonly reportsOf: (document: AnalysisDocument) => readonly ReportDraft[];
}

export type ReviewOutcome =
  | {
      readonly kind: 'done';
      readonly document: AnalysisDocument;
      /** Reports that are to be sent. */
      readonly reports: readonly PendingReport[];
      /** Deliveries that are to be made. */
      readonly deliveryIds: readonly string[];
    }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  | { readonly kind: 'no_analysis' | 'no_cell' | 'unfinished' | 'failed' | 'stale' };

/** Gives a cell the name `to`, or confirms the one that it has. */
export async function reviewCell(
  db: Database,
  laboratory: string,
  id: string,
  cellId: string,
  to: CellType,
  context: ReviewContext,
): Promise<ReviewOutcome> {
  const key = parseCellId(cellId);
  return review(db, laboratory, id, context, async (client, { document, result, cells, at }) => {
    const cell = cells.find((candidate) => candidate.id === cellId);
    if (cell === undefined || key === null) return { kind: 'no_cell' };
    const from = standingClass(cell);
    if (cell.reviewedClass === to) return { kind: 'done', document, reports: [], deliveryIds: [] };
    await client.query(
      `UPDATE cells SET reviewed_class = $4, reviewed_by = $5, reviewed_at = $6
        WHERE analysis_id = $1 AND image_index = $2 AND number = $3`,
      [id, key.imageIndex, key.number, to, context.reviewer, at],
    );
    const images = reviewImages(document);
    const changedCells = cells.map((one) => (one.id === cellId ? { ...one, reviewedClass: to } : one));
    const changed = recount({
      result,
      cells: cellsOnce(changedCells, images),
      images,
      renamed: from !== to,
      at,
    });
    const change = { kind: 'cell', key, classBefore: from, classAfter: to, differential: null } as const;
    return store(client, laboratory, document, changed, context, change);
  });
}

/** Signs the result as it stands. @param fourEyes Nobody signs what they looked at themselves since the last signature. */
export async function signAnalysis(
  db: Database,
  laboratory: string,
  id: string,
  context: ReviewContext,
  fourEyes = false,
): Promise<ReviewOutcome> {
  return review(db, laboratory, id, context, async (client, { document, result, cells, at }) => {
    const looks = fourEyes ? await readLooks(client, id) : [];
    const outcome = sign(result, cellsOnce(cells, reviewImages(document)), { reviewer: context.reviewer, at, looks });
    if ('refused' in outcome) return { kind: 'refused', refusal: outcome.refused };
    const { differential } = outcome.signed;
    const change = { kind: 'signature', key: null, classBefore: null, classAfter: null, differential } as const;
    return store(client, laboratory, document, outcome.signed, context, change);
  });
}

/** Every act on the result, the oldest first. Null: the laboratory has no such analysis. */
export async function listReviewChanges(
  db: Database,
  laboratory: string,
  id: string,
): Promise<ReviewChangeDocument[] | null> {
  if (!isUuid(id)) return null;
  const analysis = await db.prisma.analysis.findUnique({
    where: { id, laboratory },
    select: { reviewChanges: { orderBy: { revision: 'asc' } } },
  });
  if (analysis === null) return null;
  return analysis.reviewChanges.map((row) => ({
    revision: row.revision,
    kind: row.kind === 'signature' ? 'signature' : 'cell',
    reviewer: row.reviewer,
    at: row.at.toISOString(),
    comment: row.comment,
    cell:
      row.imageIndex === null || row.cellNumber === null
        ? null
        : formatCellId({ imageIndex: row.imageIndex, number: row.cellNumber }),
    classBefore: row.classBefore as CellType | null,
    classAfter: row.classAfter as CellType | null,
    statusBefore: row.statusBefore as ReportStatus,
    statusAfter: row.statusAfter as ReportStatus,
    differential: row.differential as Differential | null,
  }));
}

interface Material {
  readonly document: AnalysisDocument;
  readonly result: Result;
  readonly cells: readonly VerifiableCell[];
  /** Now. ISO 8601, UTC. */
  readonly at: string;
}

async function review(
  db: Database,
  laboratory: string,
  id: string,
  { isCurrent }: ReviewContext,
  act: (client: pg.PoolClient, material: Material) => Promise<ReviewOutcome>,
): Promise<ReviewOutcome> {
  if (!isUuid(id)) return { kind: 'no_analysis' };
  return inTransaction(db.pool, async (client) => {
    const { rows } = await client.query<{ result: AnalysisDocument | null }>(
      'SELECT result FROM analyses WHERE id = $1 AND laboratory = $2 FOR UPDATE',
      [id, laboratory],
    );
    const [row] = rows;
    if (row === undefined) return { kind: 'no_analysis' };
    const document = row.result;
    if (document === null) return { kind: 'unfinished' };
    const { differential, completedAt } = document;
    if (differential === null || document.review === null || completedAt === null) return { kind: 'failed' };
    if (!isCurrent(document)) return { kind: 'stale' };
    const cells = await readVerifiableCells(client, id);
    // A result of a version that knew no signature has no state yet.
    const verification = document.verification ?? unverified(cells, completedAt);
    const result = { differential, review: document.review, verification };
    return act(client, { document, result, cells, at: new Date().toISOString() });
  });
}

interface Change {
  readonly kind: ReviewChangeDocument['kind'];
  readonly key: CellKey | null;
  readonly classBefore: CellType | null;
  readonly classAfter: CellType | null;
  readonly differential: Differential | null;
}

async function store(
  client: pg.PoolClient,
  laboratory: string,
  before: AnalysisDocument,
  result: Result,
  context: ReviewContext,
  change: Change,
): Promise<ReviewOutcome> {
  const document: AnalysisDocument = { ...before, ...result };
  const { differential, review: reasons, verification } = result;
  await client.query('UPDATE analyses SET result = $2, total_wbc = $3, review_required = $4 WHERE id = $1', [
    document.id,
    JSON.stringify(document),
    differential.totalWbc,
    reasons.required,
  ]);
  await client.query('DELETE FROM differential_rows WHERE analysis_id = $1', [document.id]);
  await insertDifferential(client, document.id, differential);
  await client.query(
    `INSERT INTO review_changes (analysis_id, revision, kind, reviewer, at, comment, image_index, cell_number,
                                 class_before, class_after, status_before, status_after, differential)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
    [
      document.id,
      verification.revision,
      change.kind,
      context.reviewer,
      verification.changedAt,
      context.comment,
      change.key?.imageIndex ?? null,
      change.key?.number ?? null,
      change.classBefore,
      change.classAfter,
      before.verification?.status ?? 'preliminary',
      verification.status,
      change.differential === null ? null : JSON.stringify(change.differential),
    ],
  );
  const reports = await insertReports(client, document, context.reportsOf(document));
  const receivers = { id: document.id, laboratory, callbackUrl: document.callbackUrl };
  const events = change.kind === 'signature' ? context.eventsOf(document) : [];
  const deliveryIds = await addDeliveries(client, receivers, events);
  return { kind: 'done', document, reports, deliveryIds };
}

async function readVerifiableCells(client: pg.PoolClient, id: string): Promise<VerifiableCell[]> {
  const { rows } = await client.query<Omit<VerifiableCell, 'id'> & { number: number }>(
    `SELECT image_index AS image, number, class, reviewed_class AS "reviewedClass", confidence, flags, counted
       FROM cells WHERE analysis_id = $1 ORDER BY image_index, number`,
    [id],
  );
  return rows.map(({ number, ...cell }) => ({ ...cell, id: formatCellId({ imageIndex: cell.image, number }) }));
}

/** Who looked at which cell since the last signature. */
async function readLooks(client: pg.PoolClient, id: string): Promise<Look[]> {
  const { rows } = await client.query<{ image: number; number: number; reviewer: string }>(
    `SELECT image_index AS image, cell_number AS number, reviewer FROM review_changes
      WHERE analysis_id = $1 AND kind = 'cell' AND revision > (
        SELECT coalesce(max(revision), 0) FROM review_changes WHERE analysis_id = $1 AND kind = 'signature')
      ORDER BY revision`,
    [id],
  );
  return rows.map(({ image, number, reviewer }) => ({ cell: formatCellId({ imageIndex: image, number }), reviewer }));
}

function reviewImages(document: AnalysisDocument): ReviewImage[] {
  return document.images.map((image) => ({
    index: image.index,
    failed: image.status === 'failed',
    qualityFlags: image.quality?.flags ?? [],
    repeatOf: image.repeatOf ?? null,
  }));
}
