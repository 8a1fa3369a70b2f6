/** Analyses: the order as it came, and the finished document that reads answer from. */
import { createHash } from 'node:crypto';
import type pg from 'pg';
import { repeatedImages } from '../hematology/repeated-images.js';
import type { ImageQuality, ModelInfo, ScaleSource } from '../vision/types.js';
import { type Database, inTransaction } from './database.js';
import type {
  AnalysisDocument,
  AnalysisStatus,
  AnalysisSummary,
  ImageDocument,
  JsonValue,
  Priority,
  StoredProblem,
} from './documents.js';
import type { Prisma } from './generated/client.js';
import { isUuid, uuidv7 } from './ids.js';
import { storeObject } from './image-objects.js';
import { SMALL_IMAGE_BYTES } from './images.js';
import { joined } from './joined.js';
import type { ObjectStore } from './object-store.js';
import { lastId, type Page, pageOf } from './paging.js';
import { nextTurn } from './turns.js';

export const DEFAULT_TARGET_CELLS = 100;
/** A waiter looks at the row this often, in case a notice was lost with its connection. */
const WAIT_POLL_MS = 1_000;

export interface NewImage {
  readonly filename: string;
  /** Media type as recognised from the bytes. */
  readonly contentType: string;
  /** A function is called when its image is stored, so that of many large images only one lies in memory. */
  readonly bytes: Uint8Array | (() => Promise<Uint8Array>);
  /** Lower-case hex; computed when absent. */
  readonly sha256?: string | undefined;
  readonly width?: number | null | undefined;
  readonly height?: number | null | undefined;
}

export interface NewAnalysis {
  readonly accessionNumber?: string | null | undefined;
  readonly specimenId?: string | null | undefined;
  readonly orderId?: string | null | undefined;
  readonly subjectId?: string | null | undefined;
  readonly site?: string | null | undefined;
  readonly collectedAt?: Date | string | null | undefined;
  readonly callbackUrl?: string | null | undefined;
  readonly priority?: Priority | null | undefined;
  readonly targetCells?: number | null | undefined;
  /** 10*9/L. */
  readonly wbcCount?: number | null | undefined;
  /** µm per pixel of every image; absent: estimated from each. */
  readonly micronsPerPixel?: number | null | undefined;
  readonly metadata?: JsonValue | undefined;
  /** Of the request that brings the order. */
  readonly origin?: RequestOrigin | undefined;
}

/** What names a request across systems; goes with the analysis through the queue to its deliveries. */
export interface RequestOrigin {
  readonly requestId: string;
  /** W3C Trace Context. */
  readonly traceparent: string;
  readonly tracestate: string | null;
}

export interface CreatedAnalysis {
  readonly id: string;
  readonly createdAt: string;
  /** Of its first image, in the line of those that wait. */
  readonly turn: number;
}

type NewOrder = NewAnalysis & { readonly images: readonly NewImage[] };

/** Stores an order with its images, all or nothing: when this resolves, the analysis cannot be lost any more. */
export async function createAnalysis(db: Database, laboratory: string, input: NewOrder): Promise<CreatedAnalysis> {
  const batches = await readBatches(input.images);
  // One statement is a transaction by itself, at a third of the cost.
  if (batches.first.length === input.images.length && writableStore(db) === null) {
    return insertAnalysis(db, db.pool, laboratory, input, batches);
  }
  return inTransaction(db.pool, (client) => insertAnalysis(db, client, laboratory, input, batches));
}

/**
 * The same within a transaction. Images go in batches, and where they lie in PostgreSQL the first batch goes with the order, in one
 * statement.
 */
export async function insertAnalysis(
  db: Database,
  client: Pick<pg.PoolClient, 'query'>,
  laboratory: string,
  input: NewOrder,
  batches?: Batches,
): Promise<CreatedAnalysis> {
  const { first, rest } = batches ?? (await readBatches(input.images));
  const id = uuidv7();
  const order = orderColumns(id, laboratory, input);
  const store = writableStore(db);
  let stored: StoredOrder | undefined;
  if (store === null) {
    stored = (await client.query<StoredOrder>(INSERT_ORDER_WITH_IMAGES, [...order, ...fileColumns(first)])).rows[0];
  } else {
    stored = (await client.query<StoredOrder>(INSERT_ORDER, order)).rows[0];
    await insertObjects(db, store, client, { id, laboratory }, first);
  }
  for await (const batch of rest) {
    if (store !== null) await insertObjects(db, store, client, { id, laboratory }, batch);
    else await client.query(INSERT_IMAGES_WITH_FILES, [id, laboratory, ...fileColumns(batch)]);
  }
  if (stored === undefined) throw new Error('an order has at least one image');
  for (const { index, bytes } of first) {
    if (bytes.length <= SMALL_IMAGE_BYTES) db.recentImages?.put(id, index, bytes);
  }
  return { id, createdAt: stored.createdAt.toISOString(), turn: stored.turn };
}

interface StoredOrder {
  readonly turn: number;
  readonly createdAt: Date;
}

/** Where new images go; null: into PostgreSQL. */
const writableStore = ({ objects }: Database): ObjectStore | null => (objects?.writable ? objects.store : null);

/** Images of one statement, all together: as many camera frames as an order usually has, and of large images one. */
const BATCH_BYTES = 1024 * 1024;

/** An image with its bytes and its place in the order. */
interface PostedImage extends Omit<NewImage, 'bytes'> {
  readonly index: number;
  readonly bytes: Buffer;
  readonly sha256: string;
}

interface Batches {
  readonly first: readonly PostedImage[];
  readonly rest: AsyncIterable<readonly PostedImage[]>;
}

async function readBatches(images: readonly NewImage[]): Promise<Batches> {
  const rest = batchesOf(images);
  const { value: first = [] } = await rest.next();
  return { first, rest };
}

async function* batchesOf(images: readonly NewImage[]): AsyncGenerator<readonly PostedImage[], undefined> {
  let batch: PostedImage[] = [];
  let size = 0;
  for (const [index, { bytes: given, ...image }] of images.entries()) {
    const raw = typeof given === 'function' ? await given() : given;
    if (batch.length > 0 && size + raw.byteLength > BATCH_BYTES) {
      yield batch;
      batch = [];
      size = 0;
    }
    // pg sends a Buffer in binary; a plain Uint8Array would go as text.
    const bytes = Buffer.isBuffer(raw) ? raw : Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength);
    const sha256 = image.sha256 ?? createHash('sha256').update(bytes).digest('hex');
    batch.push({ ...image, index, bytes, sha256 });
    size += bytes.length;
  }
  yield batch;
}

async function insertObjects(
  db: Database,
  store: ObjectStore,
  client: Pick<pg.PoolClient, 'query'>,
  { id, laboratory }: { readonly id: string; readonly laboratory: string },
  batch: readonly PostedImage[],
): Promise<void> {
  await client.query(INSERT_IMAGES, [id, laboratory, ...imageColumns(batch)]);
  for (const { index, bytes } of batch) await storeObject(db, store, client, { analysisId: id, index, bytes });
}

/** The time is the database's: what is old is decided by its clock too, and those of API and workers may be wrong. */
const INSERT_ORDER = `
  INSERT INTO analyses (id, laboratory, priority, accession_number, specimen_id, order_id, subject_id, site, collected_at,
                        callback_url, target_cells, wbc_count, microns_per_pixel, metadata,
                        request_id, traceparent, tracestate, turn, turn_end)
  SELECT $1, $2, $3::priority, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, next.turn,
         next.turn + $18::int
    FROM (${nextTurn({ laboratory: '$2', priority: '$3' })}) AS next
  RETURNING turn, created_at AS "createdAt"`;

function orderColumns(id: string, laboratory: string, input: NewOrder): unknown[] {
  return [
    id,
    laboratory,
    input.priority ?? 'routine',
    input.accessionNumber ?? null,
    input.specimenId ?? null,
    input.orderId ?? null,
    input.subjectId ?? null,
    input.site ?? null,
    input.collectedAt == null ? null : new Date(input.collectedAt),
    input.callbackUrl ?? null,
    input.targetCells ?? DEFAULT_TARGET_CELLS,
    input.wbcCount ?? null,
    input.micronsPerPixel ?? null,
    input.metadata == null ? null : JSON.stringify(input.metadata),
    input.origin?.requestId ?? null,
    input.origin?.traceparent ?? null,
    input.origin?.tracestate ?? null,
    input.images.length,
  ];
}

/**
 * Terms of a WITH that insert the images of order $1 of laboratory $2, whose columns are the parameters from `at` on, each with a
 * reference to the first image with the same bytes: in an earlier order of the laboratory, or before it in its own.
 */
function insertImages(at: number): string {
  const columns = ['int', 'text', 'text', 'int', 'char(64)', 'int', 'int', 'int'].map(
    (type, i) => `$${at + i}::${type}[]`,
  );
  return `
  posted AS (
    SELECT * FROM unnest(${columns.join(', ')})
      AS posted (index, filename, content_type, byte_length, sha256, width, height, same_as)),
  image AS (
    INSERT INTO images (analysis_id, index, filename, content_type, byte_length, sha256, width, height,
                        duplicate_of_analysis, duplicate_of_index)
    SELECT $1::uuid, posted.index, filename, content_type, byte_length, sha256, width, height,
           coalesce(first.analysis_id, CASE WHEN same_as IS NOT NULL THEN $1::uuid END), coalesce(first.index, same_as)
      FROM posted LEFT JOIN LATERAL (
        SELECT earlier.analysis_id, earlier.index
          FROM images AS earlier JOIN analyses ON analyses.id = earlier.analysis_id
         WHERE earlier.sha256 = posted.sha256 AND analyses.laboratory = $2
         ORDER BY earlier.analysis_id, earlier.index LIMIT 1) AS first ON true)`;
}

/** The same with their bytes, the columns of `fileColumns`. A large image is alone, and not copied. */
function insertImagesWithFiles(at: number): string {
  const [indexes, lengths, starts, bytes] = [at, at + 3, at + 8, at + 9];
  return `${insertImages(at)},
  file AS (
    INSERT INTO image_files (analysis_id, image_index, bytes)
    SELECT $1::uuid, index, CASE WHEN length = length($${bytes}::bytea) THEN $${bytes}::bytea
                                 ELSE substring($${bytes}::bytea FROM start + 1 FOR length) END
      FROM unnest($${indexes}::int[], $${lengths}::int[], $${starts}::int[]) AS posted_file (index, length, start))`;
}

const INSERT_IMAGES = `WITH ${insertImages(3)} SELECT`;
const INSERT_IMAGES_WITH_FILES = `WITH ${insertImagesWithFiles(3)} SELECT`;
const INSERT_ORDER_WITH_IMAGES = `WITH analysis AS (${INSERT_ORDER}), ${insertImagesWithFiles(19)} SELECT * FROM analysis`;

/** The parameters of `insertImages`. */
function imageColumns(batch: readonly PostedImage[]): unknown[] {
  const firstOf = new Map<string, number>();
  for (const { sha256, index } of [...batch].reverse()) firstOf.set(sha256, index);
  const sameAs = ({ sha256, index }: PostedImage): number | null => {
    const first = firstOf.get(sha256);
    return first === index ? null : (first ?? null);
  };
  return [
    batch.map(({ index }) => index),
    batch.map(({ filename }) => filename),
    batch.map(({ contentType }) => contentType),
    batch.map(({ bytes }) => bytes.length),
    batch.map(({ sha256 }) => sha256),
    batch.map(({ width }) => width ?? null),
    batch.map(({ height }) => height ?? null),
    batch.map(sameAs),
  ];
}

/** The same, where the bytes of each begin, and the bytes: the parameters of `insertImagesWithFiles`. */
function fileColumns(batch: readonly PostedImage[]): unknown[] {
  const { bytes, starts } = joined(batch.map((image) => image.bytes));
  return [...imageColumns(batch), starts.slice(0, -1), bytes];
}

/** The finished document as it was stored, or the state of an analysis under way. Null: the laboratory has none such. */
export async function getAnalysisDocument(
  db: Database,
  laboratory: string,
  id: string,
): Promise<AnalysisDocument | null> {
  if (!isUuid(id)) return null;
  const row = await resultRow(db, laboratory, id);
  if (row === undefined) return null;
  if (row.result !== null) return row.result;
  const analysis = await db.prisma.analysis.findUnique({
    where: { id, laboratory },
    include: { images: { orderBy: { index: 'asc' } } },
  });
  if (analysis === null) return null;
  // It may have ended between the two queries.
  return (analysis.result as AnalysisDocument | null) ?? toDocument(analysis, analysis.images);
}

/** Undefined: the laboratory has none such. */
async function resultRow(
  db: Database,
  laboratory: string,
  id: string,
): Promise<{ readonly result: AnalysisDocument | null } | undefined> {
  const { rows } = await db.pool.query<{ result: AnalysisDocument | null }>(
    'SELECT result FROM analyses WHERE id = $1 AND laboratory = $2',
    [id, laboratory],
  );
  return rows[0];
}

export type AnalysisRow = Prisma.AnalysisModel;
export type ImageRow = Prisma.ImageModel;

/** The document of an analysis under way; `outcome` completes it at its end. */
export function toDocument(
  row: AnalysisRow,
  images: readonly ImageRow[],
  outcome: Partial<
    Pick<AnalysisDocument, 'status' | 'completedAt' | 'differential' | 'review' | 'verification' | 'problem'>
  > = {},
): AnalysisDocument {
  return {
    id: row.id,
    status: row.status,
    accessionNumber: row.accessionNumber,
    specimenId: row.specimenId,
    orderId: row.orderId,
    subjectId: row.subjectId,
    site: row.site,
    collectedAt: iso(row.collectedAt),
    callbackUrl: row.callbackUrl,
    priority: row.priority,
    targetCells: row.targetCells,
    wbcCount: row.wbcCount,
    metadata: row.metadata as JsonValue,
    createdAt: row.createdAt.toISOString(),
    startedAt: iso(row.startedAt),
    completedAt: iso(row.completedAt),
    model: (images.findLast((image) => image.model !== null)?.model ?? null) as ModelInfo | null,
    images: toImageDocuments(images),
    differential: null,
    review: null,
    verification: null,
    problem: row.problem as StoredProblem | null,
    ...outcome,
  };
}

/** Which images of one order repeat others. */
export function repeatedRows(rows: readonly ImageRow[]): ReadonlyMap<number, number> {
  return repeatedImages(rows.map(({ index, sha256, status }) => ({ index, sha256, failed: status === 'failed' })));
}

function toImageDocuments(rows: readonly ImageRow[]): ImageDocument[] {
  const repeated = repeatedRows(rows);
  return rows.map((row) => toImageDocument(row, repeated.get(row.index) ?? null));
}

function toImageDocument(row: ImageRow, repeatOf: number | null): ImageDocument {
  return {
    index: row.index,
    filename: row.filename,
    contentType: row.contentType,
    byteLength: row.byteLength,
    sha256: row.sha256,
    duplicateOf:
      row.duplicateOfAnalysis === null || row.duplicateOfIndex === null
        ? null
        : { analysisId: row.duplicateOfAnalysis, index: row.duplicateOfIndex },
    repeatOf,
    width: row.width,
    height: row.height,
    status: row.status,
    micronsPerPixel: row.micronsPerPixel,
    scaleSource: row.scaleSource as ScaleSource | null,
    scaleConfidence: row.scaleConfidence,
    quality: row.quality as ImageQuality | null,
    saliencyConsistency: row.saliencyConsistency,
    cellCount: row.cellCount,
    model: row.model as ModelInfo | null,
    timingsMs: row.timingsMs as Record<string, number> | null,
    problem: row.problem as StoredProblem | null,
  };
}

function iso(date: Date | null): string | null {
  return date?.toISOString() ?? null;
}

export interface ListOptions {
  readonly accessionNumber?: string | undefined;
  readonly status?: AnalysisStatus | undefined;
  /** Results alone: signed as they stand, or waiting for a signature. */
  readonly signed?: boolean | undefined;
  /** Results alone: whether review is required. */
  readonly reviewRequired?: boolean | undefined;
  /** `nextCursor` of the page before. */
  readonly cursor?: string | undefined;
  readonly limit: number;
}

/** A result of a version that knew no signature has no state yet. Spelt as in the index of what is unsigned. */
const REPORT_STATUS = `coalesce(result->'verification'->>'status', 'preliminary')`;
const WAITS = `status = 'completed' AND ${REPORT_STATUS} IN ('preliminary', 'amended')`;
const SIGNED = `status = 'completed' AND ${REPORT_STATUS} IN ('final', 'corrected')`;

/** Those of one laboratory, newest first. Throws `InvalidCursorError` for a cursor that no page gave out. */
export async function listAnalyses(
  db: Database,
  laboratory: string,
  options: ListOptions,
): Promise<Page<AnalysisSummary>> {
  const values: (string | boolean | number)[] = [];
  const parameter = (value: string | boolean | number): string => `$${values.push(value)}`;
  const { accessionNumber, status, signed, reviewRequired, limit } = options;
  const last = lastId(options.cursor);
  const conditions = [
    `laboratory = ${parameter(laboratory)}`,
    ...(accessionNumber === undefined ? [] : [`accession_number = ${parameter(accessionNumber)}`]),
    ...(status === undefined ? [] : [`status = ${parameter(status)}::status`]),
    ...(signed === undefined ? [] : [signed ? SIGNED : WAITS]),
    ...(reviewRequired === undefined ? [] : [`review_required = ${parameter(reviewRequired)}`]),
    ...(last === undefined ? [] : [`id < ${parameter(last)}`]),
  ];
  type Row = Omit<AnalysisSummary, 'createdAt' | 'completedAt'> & {
    readonly createdAt: Date;
    readonly completedAt: Date | null;
  };
  const { rows } = await db.pool.query<Row>(
    `SELECT id, status, accession_number AS "accessionNumber", specimen_id AS "specimenId", order_id AS "orderId",
            priority, created_at AS "createdAt", completed_at AS "completedAt", total_wbc AS "totalWbc",
            review_required AS "reviewRequired",
            (SELECT count(*)::int FROM images WHERE analysis_id = analyses.id) AS "imageCount",
            CASE WHEN status = 'completed' THEN ${REPORT_STATUS} END AS "verificationStatus"
       FROM analyses WHERE ${conditions.join(' AND ')} ORDER BY id DESC LIMIT ${parameter(limit + 1)}`,
    values,
  );
  return pageOf(rows, limit, (row) => ({
    ...row,
    createdAt: row.createdAt.toISOString(),
    completedAt: iso(row.completedAt),
  }));
}

/** Removes the analysis with its images, results and deliveries. False: the laboratory has none such. */
export async function deleteAnalysis(db: Database, laboratory: string, id: string): Promise<boolean> {
  if (!isUuid(id)) return false;
  const { count } = await db.prisma.analysis.deleteMany({ where: { id, laboratory } });
  return count > 0;
}

/** Images that are stored and not finished. */
export interface QueueLoad {
  /** No run of them has begun. */
  readonly waiting: number;
  readonly running: number;
}

/** Of all orders, whatever the queue itself knows. */
export async function queueLoad(db: Database): Promise<QueueLoad> {
  const { rows } = await db.pool.query<QueueLoad>(
    `SELECT count(*) FILTER (WHERE status = 'queued')::int AS waiting,
            count(*) FILTER (WHERE status = 'processing')::int AS running
       FROM images WHERE status IN ('queued', 'processing')`,
  );
  return rows[0] ?? { waiting: 0, running: 0 };
}

/**
 * Waits until the analysis has ended, at most `timeoutMs`, and returns its result; null: it goes on, or the laboratory has none such.
 * An aborted signal ends the wait early.
 */
export async function waitForCompletion(
  db: Database,
  laboratory: string,
  id: string,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<AnalysisDocument | null> {
  if (!isUuid(id)) return null;
  const deadline = Date.now() + timeoutMs;
  let wake = (_result?: AnalysisDocument): void => undefined;
  const unsubscribe = db.completions.subscribe(id.toLowerCase(), (result) => wake(result));
  try {
    for (;;) {
      // Armed before the look at the row: a notice between the two is not missed.
      const woken = new Promise<AnalysisDocument | undefined>((settle) => {
        wake = settle;
      });
      const row = await resultRow(db, laboratory, id);
      const leftMs = deadline - Date.now();
      if (row === undefined || row.result !== null) return row?.result ?? null;
      if (leftMs <= 0 || signal?.aborted) return null;
      const timer = setTimeout(() => wake(), Math.min(leftMs, WAIT_POLL_MS));
      const abort = (): void => wake();
      signal?.addEventListener('abort', abort, { once: true });
      const result = await woken;
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
      if (result !== undefined) return result;
    }
  } finally {
    unsubscribe();
  }
}
