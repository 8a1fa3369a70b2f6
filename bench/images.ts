/** What everything here is measured with: fields that test/support/smear.ts draws, the same for all, no patient's. */
import sharp from 'sharp';
import { drawSmear } from '../test/support/smear.js';

/** Given with every order, so that neither the service nor a peer has to estimate it. */
export const MICRONS_PER_PIXEL = 0.1;
/** White cells in the fields, by turns: what a field of the 100× objective shows. */
const CELLS = [1, 2, 1, 3, 2, 1, 2, 4];
const FIELDS = 16;

async function jpeg(width: number, height: number, seed: number, cells: number, noise = 1.5): Promise<Buffer> {
  const drawn = drawSmear({
    seed,
    width,
    height,
    noise,
    micronsPerPixel: MICRONS_PER_PIXEL,
    cells: { neutrophil: Math.ceil(cells / 2), lymphocyte: Math.floor(cells / 2) },
  });
  return sharp(drawn.data, { raw: { width, height, channels: 3 } })
    .jpeg({ quality: 92 })
    .toBuffer();
}

/** Camera frames of 640×480 with 1 to 4 cells. */
export function cameraFrames(): Promise<Buffer[]> {
  return Promise.all(Array.from({ length: FIELDS }, (_, i) => jpeg(640, 480, i + 1, CELLS[i % CELLS.length] ?? 1)));
}

/** Fields of 12 megapixels with 40 cells. */
export function largeFields(count: number): Promise<Buffer[]> {
  return Promise.all(Array.from({ length: count }, (_, i) => jpeg(4000, 3000, 100 + i, 40)));
}

/** So small and empty that the networks cost next to nothing: what is left is the service's own work. Each is another picture. */
export async function tinyFields(count: number): Promise<Buffer[]> {
  const side = 64;
  const fields: Buffer[] = [];
  for (let n = 0; n < count; n++) {
    const data = new Uint8Array(side * side * 3).fill(225);
    data.set([n & 255, (n >> 8) & 255, 200]);
    const raw = { width: side, height: side, channels: 3 } as const;
    fields.push(await sharp(data, { raw }).png().toBuffer());
  }
  return fields;
}
