/** Is the picture good enough to be trusted? Measured at the saliency network's scale, so that magnification drops out. */
import { countsAt, doublesAt, kernels, layOut, put, room } from './kernels.js';
import { nextTurn } from './raster.js';
import { measureStain } from './stain.js';
import type { ImageQuality, RgbImage } from './types.js';

/**
 * Set on fields of six laboratories as they are (2.3 to 21) and blurred on purpose: by a Gaussian of 1 µm (0.3 to 2.6) and
 * of 2 µm (below 0.5).
 */
const OUT_OF_FOCUS_BELOW = 0.8;
const TOO_DARK_BELOW = 0.2;
const TOO_BRIGHT_ABOVE = 0.97;
/** Standard deviation of the luminance in grey levels: a field without cells hardly departs from its background. */
const BLANK_BELOW = 6;
const CLIPPED_ABOVE = 0.25;
/** Less shows no structure that could be sharp. */
const MIN_PIXELS_FOR_FOCUS = 1024;
/** Rows measured between two turns of the event loop. */
const BAND = 128;

/** Running sums of one quantity. */
interface Moments {
  readonly count: number;
  readonly sum: number;
  readonly squares: number;
}

const variance = ({ count, sum, squares }: Moments): number =>
  count === 0 ? 0 : Math.max(0, squares / count - (sum / count) ** 2);

/**
 * Measures a field. `field` is the image at the saliency network's scale, `extraFlags` what decoding and scale
 * estimation found out.
 */
export async function assessQuality(field: RgbImage, extraFlags: readonly string[] = []): Promise<ImageQuality> {
  const { luminance, green, laplacian, clippedPixels, histogram } = await sumsOf(field);
  const brightness = luminance.sum / luminance.count / 255;
  const clipped = clippedPixels / luminance.count;
  const contrast = variance(green);
  const sharpness = contrast === 0 ? 0 : (100 * variance(laplacian)) / contrast;
  const blank = Math.sqrt(variance(luminance)) < BLANK_BELOW;
  const flags: string[] = [];
  if (blank) flags.push('blank');
  if (brightness < TOO_DARK_BELOW) flags.push('too_dark');
  if (brightness > TOO_BRIGHT_ABOVE) flags.push('too_bright');
  if (clipped > CLIPPED_ABOVE && !blank) flags.push('clipped');
  if (!blank && luminance.count >= MIN_PIXELS_FOR_FOCUS && sharpness < OUT_OF_FOCUS_BELOW) flags.push('out_of_focus');
  flags.push(...extraFlags);
  const clearFrom = clearGround(histogram, luminance.count);
  const background = histogram.subarray(Math.ceil(clearFrom)).reduce((sum, n) => sum + n, 0) / luminance.count;
  const stain = blank ? null : await measureStain(field, clearFrom);
  return { sharpness, brightness, clipped, background, stain, flags };
}

interface Sums {
  readonly luminance: Moments;
  readonly green: Moments;
  /** Of smoothed green, inside of the field's border. */
  readonly laplacian: Moments;
  /** Pixels with a channel at 0 or 255. */
  readonly clippedPixels: number;
  /** Pixels of each luminance. */
  readonly histogram: Uint32Array;
}

/** Rows beside a band that its Laplacian looks at. */
const MARGIN = 2;
const LEVELS = 256;
/** In the order of src/vision/wasm/measure.ts. */
const SUMS = 8;

async function sumsOf({ width, height, data }: RgbImage): Promise<Sums> {
  const totals = new Float64Array(SUMS);
  const histogram = new Uint32Array(LEVELS);
  for (let top = 0; top < height; top += BAND) {
    const bottom = Math.min(height, top + BAND);
    const from = Math.max(0, top - MARGIN);
    const rows = Math.min(height, bottom + MARGIN) - from;
    layOut();
    const rgb = put(data.subarray(from * width * 3, (from + rows) * width * 3));
    const floats = rows * width * Float32Array.BYTES_PER_ELEMENT;
    const [across, smooth] = [room(floats), room(floats)];
    const [sums, counts] = [put(totals), put(histogram)];
    kernels.measure(rgb, width, rows, top - from, bottom - from, across, smooth, sums, counts);
    totals.set(doublesAt(sums, SUMS));
    histogram.set(countsAt(counts, LEVELS));
    await nextTurn();
  }
  const [bright = 0, bright2 = 0, greens = 0, greens2 = 0, clippedPixels = 0, inside = 0, edges = 0, edges2 = 0] =
    totals;
  return {
    luminance: { count: width * height, sum: bright, squares: bright2 },
    green: { count: width * height, sum: greens, squares: greens2 },
    laplacian: { count: inside, sum: edges, squares: edges2 },
    clippedPixels,
    histogram,
  };
}

/**
 * The luminance from which a pixel is clear background: near the brightest common level. The level is the most frequent luminance in the
 * upper half of the range that occurs, because cells are always darker than the slide's clear glass.
 */
function clearGround(histogram: Uint32Array, total: number): number {
  // Half a percent of outliers at either end says nothing about the range.
  const ignored = total * 0.005;
  let seen = 0;
  let darkest = 0;
  while (darkest < 255 && seen + (histogram[darkest] ?? 0) < ignored) seen += histogram[darkest++] ?? 0;
  seen = 0;
  let brightest = 255;
  while (brightest > 0 && seen + (histogram[brightest] ?? 0) < ignored) seen += histogram[brightest--] ?? 0;
  let level = brightest;
  for (let bin = Math.ceil((darkest + brightest) / 2); bin <= brightest; bin++) {
    if ((histogram[bin] ?? 0) > (histogram[level] ?? 0)) level = bin;
  }
  return Math.max(0, level - Math.max(6, (brightest - darkest) * 0.12));
}
