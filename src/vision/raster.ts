/**
 * Resampling. One geometry everywhere: pixel i covers [i, i + 1), its centre lies at i + 0.5, edges are replicated.
 */
import sharp from 'sharp';
import type { Box, GreyImage, RgbImage } from './types.js';

/** Gives other work of the event loop a turn between two pieces of pixel work. */
export const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const raw = (image: RgbImage) =>
  sharp(image.data, {
    raw: { width: image.width, height: image.height, channels: 3 },
    limitInputPixels: false,
  });

/**
 * Resizes a region (whole pixels inside the image) to exactly width × height, anti-aliased, the larger part of the work
 * off the main thread. Enlarging is done here: libvips aligns corners then, not centres, which moves cells by half a pixel.
 */
export async function resizeRegion(image: RgbImage, region: Box, width: number, height: number): Promise<RgbImage> {
  if (region.width === width && region.height === height) return cropRegion(image, region);
  if (width > region.width || height > region.height) return enlarge(cropRegion(image, region), width, height);
  const data = await raw(image)
    .extract({ left: region.x, top: region.y, width: region.width, height: region.height })
    // Of libvips' kernels the one nearest to averaging over areas, with which the networks were trained.
    .resize(width, height, { fit: 'fill', kernel: 'mitchell' })
    .removeAlpha()
    .raw()
    .toBuffer();
  return { width, height, data };
}

/** Rows resampled between two turns of the event loop. */
const ROWS_PER_TURN = 64;

async function enlarge(image: RgbImage, width: number, height: number): Promise<RgbImage> {
  const data = new Uint8Array(width * height * 3);
  const columns = tapsFor(0, image.width, width);
  const rows = tapsFor(0, image.height, height);
  for (let y = 0; y < height; y += ROWS_PER_TURN) {
    resample(image, columns, rows, width, y, Math.min(height, y + ROWS_PER_TURN), data);
    await nextTurn();
  }
  return { width, height, data };
}

function cropRegion(image: RgbImage, region: Box): RgbImage {
  const data = new Uint8Array(region.width * region.height * 3);
  for (let y = 0; y < region.height; y++) {
    const from = ((region.y + y) * image.width + region.x) * 3;
    data.set(image.data.subarray(from, from + region.width * 3), y * region.width * 3);
  }
  return { width: region.width, height: region.height, data };
}

/** Cuts a tile out and continues it to the right and below to the given size by repeating its last column and row. */
export function padTile(image: RgbImage, tile: Box, width: number, height: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const row = tile.y + Math.min(y, tile.height - 1);
    const from = (row * image.width + tile.x) * 3;
    const to = y * width * 3;
    out.set(image.data.subarray(from, from + tile.width * 3), to);
    const last = from + (tile.width - 1) * 3;
    for (let x = tile.width; x < width; x++) out.set(image.data.subarray(last, last + 3), to + x * 3);
  }
  return out;
}

interface Taps {
  /** First source pixel of each output pixel. */
  readonly first: Int32Array;
  /** `count` weights for each output pixel; they sum to 1. */
  readonly weights: Float32Array;
  readonly count: number;
}

/** Catmull–Rom cubic: keeps enlarged cells as sharp as they were. */
function cubic(distance: number): number {
  const x = Math.abs(distance);
  if (x < 1) return 1.5 * x ** 3 - 2.5 * x ** 2 + 1;
  return x < 2 ? -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2 : 0;
}

/** Shrinking averages over areas, enlarging interpolates; `length` source pixels from `origin` become `size`. */
function tapsFor(origin: number, length: number, size: number): Taps {
  const step = length / size;
  const count = step >= 1 ? Math.ceil(step) + 1 : 4;
  const first = new Int32Array(size);
  const weights = new Float32Array(size * count);
  for (let i = 0; i < size; i++) {
    const from = origin + i * step;
    const centre = from + step / 2;
    const start = step >= 1 ? Math.floor(from) : Math.floor(centre - 0.5) - 1;
    first[i] = start;
    let sum = 0;
    for (let k = 0; k < count; k++) {
      const pixel = start + k;
      const weight =
        step >= 1 ? Math.max(0, Math.min(pixel + 1, from + step) - Math.max(pixel, from)) : cubic(pixel + 0.5 - centre);
      weights[i * count + k] = weight;
      sum += weight;
    }
    for (let k = 0; k < count; k++) weights[i * count + k] = (weights[i * count + k] ?? 0) / sum;
  }
  return { first, weights, count };
}

const clamp = (value: number, low: number, high: number): number => Math.min(Math.max(value, low), high);

/** Resamples a window (real coordinates, may reach past the border) of an RGB image to size × size into `out`. */
export function sampleWindow(image: RgbImage, window: Box, size: number, out: Uint8Array): void {
  const columns = tapsFor(window.x, window.width, size);
  const rows = tapsFor(window.y, window.height, size);
  resample(image, columns, rows, size, 0, size, out);
}

let kept = new Float32Array();
/** Room for so many numbers until the next call: a new megabyte for every crop would keep the garbage collector busy. */
function scratch(length: number): Float32Array {
  if (length > LARGEST_KEPT) return new Float32Array(length);
  if (kept.length < length) kept = new Float32Array(length);
  return kept;
}
const LARGEST_KEPT = 1 << 20;

/** Output rows `fromRow` to `toRow` of a picture `width` wide; first along x over the source rows needed, then along y. */
function resample(
  image: RgbImage,
  columns: Taps,
  rows: Taps,
  width: number,
  fromRow: number,
  toRow: number,
  out: Uint8Array,
): void {
  const stride = width * 3;
  const top = rows.first[fromRow] ?? 0;
  const bottom = (rows.first[toRow - 1] ?? 0) + rows.count;
  const lines = scratch((bottom - top) * stride);
  const places = placesOf(columns, image.width);
  let filledRow = -1;
  for (let y = top; y < bottom; y++) {
    const sourceRow = clamp(y, 0, image.height - 1);
    const line = (y - top) * stride;
    if (sourceRow === filledRow) lines.copyWithin(line, line - stride, line);
    else resampleLine(image.data, sourceRow * image.width * 3, places, columns, lines, line, stride);
    filledRow = sourceRow;
  }
  const weights = new Float64Array(Math.max(4, rows.count));
  for (let y = fromRow; y < toRow; y++) {
    weights.set(rows.weights.subarray(y * rows.count, (y + 1) * rows.count));
    sumLines(lines, ((rows.first[y] ?? 0) - top) * stride, stride, weights, out, y * stride);
  }
}

/** One row of bytes: the weighted sum of the lines that start at `from`. Enlarging takes four of them, so those are written out. */
function sumLines(
  lines: Float32Array,
  from: number,
  stride: number,
  weights: Float64Array,
  out: Uint8Array,
  to: number,
): void {
  const w0 = weights[0] ?? 0;
  const w1 = weights[1] ?? 0;
  const w2 = weights[2] ?? 0;
  const w3 = weights[3] ?? 0;
  for (let x = 0; x < stride; x++) {
    const at = from + x;
    let sum = w0 * (lines[at] ?? 0) + w1 * (lines[at + stride] ?? 0);
    if (w2 !== 0) sum += w2 * (lines[at + 2 * stride] ?? 0);
    if (w3 !== 0) sum += w3 * (lines[at + 3 * stride] ?? 0);
    for (let k = 4; k < weights.length; k++) sum += (weights[k] ?? 0) * (lines[at + k * stride] ?? 0);
    out[to + x] = sum <= 0 ? 0 : sum >= 255 ? 255 : Math.floor(sum + 0.5);
  }
}

/** Where each weight's pixel lies in a source row of bytes; what lies past the border is its last pixel. */
function placesOf({ first, weights, count }: Taps, length: number): Int32Array {
  const places = new Int32Array(weights.length);
  for (let i = 0; i < places.length; i++) {
    const tap = i % count;
    places[i] = clamp((first[(i - tap) / count] ?? 0) + tap, 0, length - 1) * 3;
  }
  return places;
}

function resampleLine(
  data: Uint8Array,
  base: number,
  places: Int32Array,
  { weights, count }: Taps,
  lines: Float32Array,
  line: number,
  stride: number,
): void {
  for (let x = 0, tap = 0; x < stride; x += 3) {
    let r = 0;
    let g = 0;
    let b = 0;
    for (const end = tap + count; tap < end; tap++) {
      const weight = weights[tap] ?? 0;
      const at = base + (places[tap] ?? 0);
      r += weight * (data[at] ?? 0);
      g += weight * (data[at + 1] ?? 0);
      b += weight * (data[at + 2] ?? 0);
    }
    lines[line + x] = r;
    lines[line + x + 1] = g;
    lines[line + x + 2] = b;
  }
}

/** Two neighbouring places of a grid for each of `count` samples, and how far towards the second the sample lies. */
export interface Samples {
  readonly low: Int32Array;
  readonly high: Int32Array;
  readonly fraction: Float64Array;
}

/** Bilinear samples along one axis: sample i covers [origin + i, origin + i + 1), `step` places of the grid are one of it. */
export function samplesAlong(origin: number, count: number, step: number, places: number): Samples {
  const low = new Int32Array(count);
  const high = new Int32Array(count);
  const fraction = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const at = clamp((origin + i + 0.5) * step - 0.5, 0, places - 1);
    const before = Math.floor(at);
    low[i] = before;
    high[i] = Math.min(before + 1, places - 1);
    fraction[i] = at - before;
  }
  return { low, high, fraction };
}

/** A real-valued map over an image: cell (i, j) covers cellWidth × cellHeight pixels of the posted image. */
export interface FieldMap {
  readonly width: number;
  readonly height: number;
  readonly data: Float32Array;
  readonly cellWidth: number;
  readonly cellHeight: number;
}

/** Bilinear samples of a map over a window of the posted image, size × size into `out`. */
export function sampleMap(map: FieldMap, window: Box, size: number, out: Float32Array): void {
  const along = (origin: number, length: number, cell: number, places: number): Samples => {
    const step = length / size / cell;
    return samplesAlong((origin * size) / length, size, step, places);
  };
  const columns = along(window.x, window.width, map.cellWidth, map.width);
  const rows = along(window.y, window.height, map.cellHeight, map.height);
  for (let y = 0; y < size; y++) {
    const rowA = (rows.low[y] ?? 0) * map.width;
    const rowB = (rows.high[y] ?? 0) * map.width;
    const fv = rows.fraction[y] ?? 0;
    for (let x = 0; x < size; x++) {
      const u0 = columns.low[x] ?? 0;
      const u1 = columns.high[x] ?? 0;
      const fu = columns.fraction[x] ?? 0;
      const above = (map.data[rowA + u0] ?? 0) * (1 - fu) + (map.data[rowA + u1] ?? 0) * fu;
      const below = (map.data[rowB + u0] ?? 0) * (1 - fu) + (map.data[rowB + u1] ?? 0) * fu;
      out[y * size + x] = above * (1 - fv) + below * fv;
    }
  }
}

/** 0–1 floats to 8-bit grey. */
export function toGrey(width: number, height: number, values: Float32Array): GreyImage {
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = Math.round(clamp(values[i] ?? 0, 0, 1) * 255);
  return { width, height, data };
}
