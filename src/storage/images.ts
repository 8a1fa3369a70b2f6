/** What was posted and what was found in each image as a whole. */
import type { CellType } from '../hematology/cell-types.js';
import type { Box, CellFlag } from '../vision/types.js';
import type { Database } from './database.js';
import { formatCellId, isUuid } from './ids.js';
import { ObjectStoreError } from './object-store.js';

export interface StoredImageFile {
  readonly filename: string;
  readonly contentType: string;
  readonly sha256: string;
  readonly bytes: Buffer;
}

/** Read as they are claimed, and given to a worker of the same process: the time and room of a camera frame, not of a stitched field. */
export const SMALL_IMAGE_BYTES = 256 * 1024;

/**
 * pg receives binary columns as hexadecimal text, and a string of V8 ends at 512 MiB: large files come in pieces, which
 * also keeps the main thread free between them. They are stored uncompressed, so a piece costs only itself.
 */
const PIECE_BYTES = 8 * 1024 * 1024;

/** The posted bytes of one image, whosever it is: for the jobs. Null when it is gone. Throws `ObjectStoreError`. */
export async function readImageBytes(db: Database, id: string, index: number): Promise<Buffer | null> {
  const pieces: Buffer[] = [];
  for (let start = 1; ; start += PIECE_BYTES) {
    const { rows } = await db.pool.query<{ key: string | null; piece: Buffer | null }>(
      `SELECT object_key AS key, substring(bytes FROM $3 FOR $4) AS piece FROM image_files
        WHERE analysis_id = $1 AND image_index = $2`,
      [id, index, start, PIECE_BYTES],
    );
    const [file] = rows;
    if (file === undefined) return null;
    if (file.key !== null) return readObject(db, file.key);
    const { piece } = file;
    if (piece === null) return null;
    pieces.push(piece);
    if (piece.length < PIECE_BYTES) return pieces.length === 1 ? piece : Buffer.concat(pieces);
  }
}

function readObject({ objects }: Database, key: string): Promise<Buffer | null> {
  if (objects === null) throw new ObjectStoreError('the image lies in S3, and S3_BUCKET is not set');
  return objects.store.get(key);
}

/** The posted file, as it came. */
export async function getImageFile(
  db: Database,
  laboratory: string,
  id: string,
  index: number,
): Promise<StoredImageFile | null> {
  if (!isImageKey(id, index)) return null;
  const image = await db.prisma.image.findUnique({
    where: { analysisId_index: { analysisId: id, index }, analysis: { laboratory } },
    select: { filename: true, contentType: true, sha256: true },
  });
  const bytes = image === null ? null : await readImageBytes(db, id, index);
  return image === null || bytes === null ? null : { ...image, bytes };
}

export interface DrawableCell {
  readonly id: string;
  readonly box: Box;
  readonly class: CellType;
  readonly confidence: number;
  readonly flags: readonly CellFlag[];
  readonly counted: boolean;
  /** Label mask of the box as PNG. */
  readonly mask: Buffer;
}

/** Everything that drawing an image's result takes. Null: no such image, or it was not analysed. */
export async function getImageCells(
  db: Database,
  laboratory: string,
  id: string,
  index: number,
): Promise<{ width: number; height: number; cells: DrawableCell[] } | null> {
  if (!isImageKey(id, index)) return null;
  const image = await db.prisma.image.findUnique({
    where: { analysisId_index: { analysisId: id, index }, analysis: { laboratory } },
    select: { width: true, height: true, status: true },
  });
  if (image === null || image.status !== 'completed' || image.width === null || image.height === null) return null;
  const { rows } = await db.pool.query<Omit<DrawableCell, 'id' | 'box'> & Box & { number: number }>(
    `SELECT c.number, c.box_x AS x, c.box_y AS y, c.box_width AS width, c.box_height AS height,
            coalesce(c.reviewed_class, c.class) AS class, c.confidence, c.flags, c.counted, r.mask
       FROM cells c JOIN cell_rasters r USING (analysis_id, image_index)
      WHERE c.analysis_id = $1 AND c.image_index = $2 AND r.cell_number = c.number
      ORDER BY c.number`,
    [id, index],
  );
  return {
    width: image.width,
    height: image.height,
    cells: rows.map(({ number, x, y, width, height, ...cell }) => ({
      ...cell,
      id: formatCellId({ imageIndex: index, number }),
      box: { x, y, width, height },
    })),
  };
}

/** The saliency map as grey PNG, at the saliency network's resolution. */
export async function getImageSaliency(
  db: Database,
  laboratory: string,
  id: string,
  index: number,
): Promise<Buffer | null> {
  if (!isImageKey(id, index)) return null;
  const { rows } = await db.pool.query<{ png: Buffer }>(
    `SELECT png FROM image_saliency JOIN analyses ON analyses.id = analysis_id
      WHERE analysis_id = $1 AND image_index = $2 AND laboratory = $3`,
    [id, index, laboratory],
  );
  return rows[0]?.png ?? null;
}

/** An index beyond an integer column would be an error in PostgreSQL, not an absent image. */
function isImageKey(id: string, index: number): boolean {
  return isUuid(id) && Number.isInteger(index) && index >= 0 && index < 1_000_000;
}
