/**
 * Resampling. One geometry everywhere: pixel i covers [i, i + 1), its centre lies at i + 0.5, edges are replicated.
 */
import { bytesAt, copyIn, floatsAt, kernels, layOut, put, room, type SampleAddresses } from './kernels.js';
import type { Box, GreyImage, RgbImage } from './types.js';

/** Gives other work of the event loop a turn between two pieces of pixel work. */
export const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/**
 * Resizes a region (whole pixels inside the image) to exactly width × height: shrinking averages over areas, as the networks were
 * trained, enlarging interpolates. In turns of the event loop.
 */
export async function resizeRegion(image: RgbImage, region: Box, width: number, height: number): Promise<RgbImage> {
  if (region.width === width && region.height === height) return cropRegion(image, region);
  const source = region.width === image.width && region.height === image.height ? image : cropRegion(image, region);
  const data = new Uint8Array(width * height * 3);
  const columns = tapsFor(0, source.width, width);
  const rows = tapsFor(0, source.height, height);
  const rowsPerTurn = Math.max(1, Math.floor(PIXELS_PER_TURN / (source.width * Math.max(1, source.height / height))));
  for (let y = 0; y < height; y += rowsPerTurn) {
    resample(source, columns, rows, width, y, Math.min(height, y + rowsPerTurn), data);
    await nextTurn();
  }
  return { width, height, data };
}

/** Source pixels resampled between two turns of the event loop: about a millisecond. */
const PIXELS_PER_TURN = 1 << 19;

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

/** Output rows `fromRow` to `toRow` of a picture `width` wide; what lies past the image's border is its last pixel. */
function resample(
  image: RgbImage,
  columns: Taps,
  rows: Taps,
  width: number,
  fromRow: number,
  toRow: number,
  out: Uint8Array,
): void {
  // The columns that are read, at least one of them inside the image, and those that are; rows the kernel keeps inside by itself.
  const left = Math.min(columns.first[0] ?? 0, image.width - 1);
  const right = Math.max((columns.first[width - 1] ?? 0) + columns.count, 1);
  const [firstColumn, endColumn] = [Math.max(left, 0), Math.min(right, image.width)];
  const firstRow = clamp(rows.first[fromRow] ?? 0, 0, image.height - 1);
  const endRow = clamp((rows.first[toRow - 1] ?? 0) + rows.count, firstRow + 1, image.height);
  const stride = (endColumn - firstColumn) * 3;
  layOut();
  const source = room((endRow - firstRow) * stride);
  for (let y = firstRow; y < endRow; y++) {
    copyIn(image.data, (y * image.width + firstColumn) * 3, stride, source + (y - firstRow) * stride);
  }
  const bytes = (toRow - fromRow) * width * 3;
  const outAt = room(bytes);
  kernels.resample(
    source,
    stride,
    endRow - firstRow - 1,
    put(rows.first.subarray(fromRow, toRow).map((first) => first - firstRow)),
    put(rows.weights.subarray(fromRow * rows.count, toRow * rows.count)),
    rows.count,
    put(columns.first.map((first) => first - left)),
    put(columns.weights),
    columns.count,
    room((right - left) * 3 * Float32Array.BYTES_PER_ELEMENT),
    (right - left) * 3,
    (firstColumn - left) * 3,
    stride,
    width,
    toRow - fromRow,
    outAt,
  );
  out.set(bytesAt(outAt, bytes), fromRow * width * 3);
}

/** Two neighbouring places of a grid for each of `count` samples, and how far towards the second the sample lies. */
export interface Samples {
  readonly low: Int32Array;
  readonly high: Int32Array;
  readonly fraction: Float32Array;
}

/** Bilinear samples along one axis: sample i covers [origin + i, origin + i + 1), `step` places of the grid are one of it. */
export function samplesAlong(origin: number, count: number, step: number, places: number): Samples {
  const low = new Int32Array(count);
  const high = new Int32Array(count);
  const fraction = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const at = clamp((origin + i + 0.5) * step - 0.5, 0, places - 1);
    const before = Math.floor(at);
    low[i] = before;
    high[i] = Math.min(before + 1, places - 1);
    fraction[i] = at - before;
  }
  return { low, high, fraction };
}

/** Puts samples where the kernels find them. */
export function putSamples(rows: Samples, columns: Samples): SampleAddresses {
  return [
    put(rows.low),
    put(rows.high),
    put(rows.fraction),
    put(columns.low),
    put(columns.high),
    put(columns.fraction),
  ];
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
  // Only what the window shows of the map is laid out.
  const left = columns.low[0] ?? 0;
  const top = rows.low[0] ?? 0;
  const stride = (columns.high[size - 1] ?? 0) - left + 1;
  const height = (rows.high[size - 1] ?? 0) - top + 1;
  const part = new Float32Array(stride * height);
  for (let y = 0; y < height; y++) {
    const from = (top + y) * map.width + left;
    part.set(map.data.subarray(from, from + stride), y * stride);
  }
  layOut();
  const outAt = room(out.byteLength);
  const samples = putSamples(shifted(rows, top), shifted(columns, left));
  const line = room(stride * Float32Array.BYTES_PER_ELEMENT);
  kernels.sample(put(part), stride, ...samples, line, size, size, outAt);
  out.set(floatsAt(outAt, out.length));
}

const shifted = ({ low, high, fraction }: Samples, by: number): Samples => ({
  low: low.map((at) => at - by),
  high: high.map((at) => at - by),
  fraction,
});

/** 0–1 floats to 8-bit grey. */
export function toGrey(width: number, height: number, values: Float32Array): GreyImage {
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) data[i] = Math.round(clamp(values[i] ?? 0, 0, 1) * 255);
  return { width, height, data };
}
