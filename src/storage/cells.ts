/** The cells of an analysis. */
import type { CellType } from '../hematology/cell-types.js';
import type { CellFlag, Graded, Morphology } from '../vision/types.js';
import type { Database } from './database.js';
import type { CellDocument } from './documents.js';
import type { Prisma } from './generated/client.js';
import { formatCellId, isUuid, parseCellId } from './ids.js';
import { InvalidCursorError, type Page, pageOf } from './paging.js';

export interface CellsOptions {
  /** `nextCursor` of the page before. */
  readonly cursor?: string | undefined;
  readonly limit: number;
  readonly image?: number | undefined;
  readonly class?: CellType | undefined;
}

export interface CellsPage extends Page<CellDocument> {
  /** Cells that the filters leave, over all pages. */
  readonly total: number;
}

/**
 * By image and number. Null: the laboratory has no such analysis. Cells appear as their images are finished.
 * Throws `InvalidCursorError` for a cursor that no page gave out.
 */
export async function getCells(
  db: Database,
  laboratory: string,
  id: string,
  options: CellsOptions,
): Promise<CellsPage | null> {
  if (!isUuid(id)) return null;
  const after = options.cursor === undefined ? null : parseCellId(options.cursor);
  if (options.cursor !== undefined && after === null) throw new InvalidCursorError();
  const filter = {
    analysisId: id,
    ...(options.image === undefined ? {} : { imageIndex: options.image }),
    ...(options.class === undefined
      ? {}
      : { OR: [{ reviewedClass: options.class }, { reviewedClass: null, class: options.class }] }),
  };
  const behind =
    after === null
      ? {}
      : {
          OR: [
            { imageIndex: { gt: after.imageIndex } },
            { imageIndex: after.imageIndex, number: { gt: after.number } },
          ],
        };
  const [analyses, total, rows] = await Promise.all([
    db.prisma.analysis.count({ where: { id, laboratory } }),
    db.prisma.cell.count({ where: filter }),
    db.prisma.cell.findMany({
      where: { AND: [filter, behind] },
      orderBy: [{ imageIndex: 'asc' }, { number: 'asc' }],
      take: options.limit + 1,
      include: { consistency: { select: { score: true } } },
    }),
  ]);
  if (analyses === 0) return null;
  return { ...pageOf(rows, options.limit, toCellDocument), total };
}

/** One cell; null: the laboratory has no such cell. */
export async function getCell(
  db: Database,
  laboratory: string,
  id: string,
  cellId: string,
): Promise<CellDocument | null> {
  const key = parseCellId(cellId);
  if (!isUuid(id) || key === null) return null;
  const row = await db.prisma.cell.findUnique({
    where: { analysisId_imageIndex_number: { analysisId: id, ...key }, image: { analysis: { laboratory } } },
    include: { consistency: { select: { score: true } } },
  });
  return row === null ? null : toCellDocument(row);
}

function toCellDocument(row: Prisma.CellModel & { consistency: { score: number } | null }): CellDocument {
  return {
    id: formatCellId(row),
    image: row.imageIndex,
    box: { x: row.boxX, y: row.boxY, width: row.boxWidth, height: row.boxHeight },
    areaUm2: row.areaUm2,
    class: row.class as CellType,
    reviewedClass: row.reviewedClass as CellType | null,
    reviewedBy: row.reviewedBy,
    reviewedAt: row.reviewedAt?.toISOString() ?? null,
    confidence: row.confidence,
    probabilities: row.probabilities as Record<string, number>,
    subtype: row.subtype as Graded | null,
    morphology: row.morphology as unknown as Morphology | null,
    saliencyConsistency: row.consistency?.score ?? 0,
    rejectScore: row.rejectScore,
    flags: row.flags as CellFlag[],
    counted: row.counted,
  };
}

export const CELL_ARTEFACTS = ['crop', 'mask', 'cam'] as const;
export type CellArtefact = (typeof CELL_ARTEFACTS)[number];

/** PNG: `crop` as the network saw the cell, `mask` of its box, `cam` over the crop's window. */
export async function getCellArtefact(
  db: Database,
  laboratory: string,
  id: string,
  cellId: string,
  kind: CellArtefact,
): Promise<Buffer | null> {
  const key = parseCellId(cellId);
  if (!isUuid(id) || key === null || !CELL_ARTEFACTS.includes(kind)) return null;
  const { rows } = await db.pool.query<{ png: Buffer }>(
    // `kind` is one of three words, checked above.
    `SELECT ${kind} AS png FROM cell_rasters JOIN analyses ON analyses.id = analysis_id
      WHERE analysis_id = $1 AND image_index = $2 AND cell_number = $3 AND laboratory = $4`,
    [id, key.imageIndex, key.number, laboratory],
  );
  return rows[0]?.png ?? null;
}
