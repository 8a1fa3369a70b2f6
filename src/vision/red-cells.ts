/**
 * The red cells as a ruler: on a dried smear they are 7.2 µm wide, whatever the camera. Where a field shows enough of them
 * lying free, their common diameter says more about the scale than any network.
 */
import { borderPixels, flood, inverse } from './flood.js';
import { nextTurn, resizeRegion } from './raster.js';
import type { Box, RgbImage } from './types.js';

/** Diameter of a red cell on a dried smear; the networks' training scales rest on the same number. */
const RED_CELL_UM = 7.2;
/** Red cells are looked for where they are about 24 px wide: enough for 5 %, and a large field stays cheap. */
const WORKING_UM_PER_PX = 0.3;
/** Side of the region that is looked at, in working pixels. */
const REGION = 720;
/** Rows worked on between two turns of the event loop. */
const ROWS_PER_TURN = 64;
/** What is taken for a red cell: its diameter against the expected one, its outline against an ellipse. */
const DIAMETERS = { min: 0.6, max: 1.65 } as const;
const MIN_FILL = 0.9;
const MAX_ASPECT = 1.3;
/**
 * This many free cells, this share of which agree within 12 %, make a ruler. On fields of three laboratories with known red
 * cells it was then off by 5 % in the median and 10 % at most; with five to seven cells it erred by up to 20 %.
 */
const MIN_CELLS = 8;
const MIN_AGREEING = 0.5;
const AGREE_WITHIN = 0.12;
/** Red cells of one field differ in density by no more than this factor from their paler ones. */
const RED_DENSITY_SPREAD = 1.6;

export interface RedCellRuler {
  /** µm per pixel of the posted image. */
  readonly micronsPerPixel: number;
  /** Free red cells that agree. */
  readonly count: number;
}

/** Measures free red cells, given roughly how large a pixel is. Undefined where there are too few or they disagree. */
export async function measureRedCells(image: RgbImage, roughly: number): Promise<RedCellRuler | undefined> {
  const factor = roughly / WORKING_UM_PER_PX;
  const region = middle(image, REGION / factor);
  const width = Math.round(region.width * factor);
  const height = Math.round(region.height * factor);
  if (Math.min(width, height) < 48) return undefined;
  const field = await resizeRegion(image, region, width, height);
  const density = await greenDensity(field);
  await nextTurn();
  const expected = RED_CELL_UM / WORKING_UM_PER_PX;
  const discs = freeDiscs(density, width, height, otsu(density), expected);
  const common = commonDiameter(redOnes(discs));
  if (common === undefined) return undefined;
  return {
    micronsPerPixel: RED_CELL_UM / ((common.diameter * region.width) / width),
    count: common.count,
  };
}

function middle(image: RgbImage, side: number): Box {
  const width = Math.min(image.width, Math.max(1, Math.floor(side)));
  const height = Math.min(image.height, Math.max(1, Math.floor(side)));
  return { x: Math.floor((image.width - width) / 2), y: Math.floor((image.height - height) / 2), width, height };
}

/** Optical density of green against the local clear background, in which lamp spots and vignettes disappear. */
async function greenDensity({ width, height, data }: RgbImage): Promise<Float32Array> {
  const block = 60;
  const columns = Math.max(1, Math.round(width / block));
  const rows = Math.max(1, Math.round(height / block));
  const clear = new Float32Array(columns * rows);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const values: number[] = [];
      // A block and half of its neighbours: some clear glass is in sight even in dense places.
      const [x0, x1] = [((c - 0.5) * width) / columns, ((c + 1.5) * width) / columns].map(Math.round) as [
        number,
        number,
      ];
      const [y0, y1] = [((r - 0.5) * height) / rows, ((r + 1.5) * height) / rows].map(Math.round) as [number, number];
      for (let y = Math.max(0, y0); y < Math.min(height, y1); y += 3) {
        for (let x = Math.max(0, x0); x < Math.min(width, x1); x += 3) values.push(data[(y * width + x) * 3 + 1] ?? 0);
      }
      values.sort((a, b) => a - b);
      clear[r * columns + c] = Math.max(16, values[Math.floor(values.length * 0.92)] ?? 255);
    }
  }
  const out = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    if (y % ROWS_PER_TURN === 0) await nextTurn();
    const v = Math.min(Math.max(((y + 0.5) * rows) / height - 0.5, 0), rows - 1);
    const v0 = Math.floor(v);
    const v1 = Math.min(v0 + 1, rows - 1);
    for (let x = 0; x < width; x++) {
      const u = Math.min(Math.max(((x + 0.5) * columns) / width - 0.5, 0), columns - 1);
      const u0 = Math.floor(u);
      const u1 = Math.min(u0 + 1, columns - 1);
      const at = (c: number, r: number): number => clear[r * columns + c] ?? 255;
      const above = at(u0, v0) * (1 - (u - u0)) + at(u1, v0) * (u - u0);
      const below = at(u0, v1) * (1 - (u - u0)) + at(u1, v1) * (u - u0);
      const glass = above * (1 - (v - v0)) + below * (v - v0);
      out[y * width + x] = Math.max(0, Math.log((glass + 2) / ((data[(y * width + x) * 3 + 1] ?? 0) + 2)));
    }
  }
  return out;
}

/** Otsu's threshold (1979) on densities up to that of red cells: nuclei must not pull it up. */
function otsu(density: Float32Array): number {
  const bins = 128;
  const top = 0.7;
  const histogram = new Float64Array(bins);
  for (const value of density) {
    const bin = Math.min(bins - 1, Math.floor((Math.min(value, top) / top) * bins));
    histogram[bin] = (histogram[bin] ?? 0) + 1;
  }
  const total = density.length;
  const sum = histogram.reduce((acc, count, bin) => acc + count * bin, 0);
  let below = 0;
  let sumBelow = 0;
  let best = 0;
  let threshold = 0;
  for (let bin = 0; bin < bins; bin++) {
    below += histogram[bin] ?? 0;
    if (below === 0 || below === total) continue;
    sumBelow += bin * (histogram[bin] ?? 0);
    const gap = sumBelow / below - (sum - sumBelow) / (total - below);
    const between = below * (total - below) * gap * gap;
    if (between > best) {
      best = between;
      threshold = ((bin + 1) / bins) * top;
    }
  }
  return threshold;
}

interface Disc {
  readonly diameter: number;
  /** Mean optical density of green. */
  readonly density: number;
}

/** The blobs that are round, whole and of about the right size; holes count as cell. */
function freeDiscs(density: Float32Array, width: number, height: number, threshold: number, expected: number): Disc[] {
  const outside = new Uint8Array(width * height);
  const clear = new Uint8Array(width * height);
  for (let i = 0; i < clear.length; i++) if ((density[i] ?? 0) < threshold) clear[i] = 1;
  flood(width, height, borderPixels(width, height), clear, false, outside);
  // A clear place that the border does not reach is a central pallor, or glass that cells enclose: told by its size.
  const seen = outside.slice();
  const pallor = (Math.PI / 4) * (expected * 0.8) ** 2;
  for (let i = 0; i < seen.length; i++) {
    if (seen[i] === 1 || clear[i] === 0) continue;
    const hole = flood(width, height, [i], clear, false, seen);
    if (hole.length > pallor) for (const at of hole) outside[at] = 1;
  }
  const cells = inverse(outside);
  const taken = outside.slice();
  const discs: Disc[] = [];
  for (let i = 0; i < taken.length; i++) {
    if (taken[i] === 1) continue;
    const blob = flood(width, height, [i], cells, false, taken);
    const diameter = discDiameter(blob, width, height);
    if (diameter !== undefined && diameter >= DIAMETERS.min * expected && diameter <= DIAMETERS.max * expected) {
      discs.push({ diameter, density: blob.reduce((sum, at) => sum + (density[at] ?? 0), 0) / blob.length });
    }
  }
  return discs;
}

/** Diameter of the disc with the blob's area, where the blob fills its ellipse of inertia, is not long and not cut. */
function discDiameter(blob: readonly number[], width: number, height: number): number | undefined {
  let sumX = 0;
  let sumY = 0;
  for (const at of blob) {
    const x = at % width;
    const y = (at - x) / width;
    if (x === 0 || y === 0 || x === width - 1 || y === height - 1) return undefined;
    sumX += x;
    sumY += y;
  }
  const area = blob.length;
  const [cx, cy] = [sumX / area, sumY / area];
  let xx = 0;
  let yy = 0;
  let xy = 0;
  for (const at of blob) {
    const dx = (at % width) - cx;
    const dy = Math.floor(at / width) - cy;
    xx += dx * dx;
    yy += dy * dy;
    xy += dx * dy;
  }
  const half = (xx + yy) / 2 / area;
  const root = Math.hypot((xx - yy) / 2 / area, xy / area);
  const long = Math.sqrt(half + root);
  const short = Math.sqrt(Math.max(0, half - root));
  if (short === 0 || long / short > MAX_ASPECT) return undefined;
  // An ellipse with half-axes a, b has standard deviations a/2, b/2: its area is 4π times their product.
  const fill = area / (4 * Math.PI * long * short);
  return fill >= MIN_FILL && fill <= 1.1 ? Math.sqrt((4 * area) / Math.PI) : undefined;
}

/**
 * White cells without visible cytoplasm are round too, and in a leukaemic field they may be many; but they are at least
 * twice as dense as red cells.
 */
function redOnes(discs: readonly Disc[]): number[] {
  const densities = discs.map(({ density }) => density).sort((a, b) => a - b);
  const pale = densities[Math.floor(densities.length * 0.2)] ?? 0;
  return discs.filter(({ density }) => density <= RED_DENSITY_SPREAD * pale).map(({ diameter }) => diameter);
}

/** The diameter around which most of the discs lie. */
function commonDiameter(diameters: readonly number[]): { diameter: number; count: number } | undefined {
  let best: number[] = [];
  for (const middle of diameters) {
    const near = diameters.filter((d) => Math.abs(Math.log(d / middle)) <= AGREE_WITHIN);
    if (near.length > best.length) best = near;
  }
  if (best.length < MIN_CELLS || best.length < diameters.length * MIN_AGREEING) return undefined;
  const sorted = [...best].sort((a, b) => a - b);
  return { diameter: sorted[Math.floor(sorted.length / 2)] ?? 0, count: best.length };
}
