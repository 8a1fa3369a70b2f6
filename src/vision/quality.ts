/** Is the picture good enough to be trusted? Measured at the saliency network's scale, so that magnification drops out. */
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
  count: number;
  sum: number;
  squares: number;
}

const moments = (): Moments => ({ count: 0, sum: 0, squares: 0 });
const note = (m: Moments, value: number): void => {
  m.count++;
  m.sum += value;
  m.squares += value * value;
};
const variance = ({ count, sum, squares }: Moments): number =>
  count === 0 ? 0 : Math.max(0, squares / count - (sum / count) ** 2);

/**
 * Measures a field. `field` is the image at the saliency network's scale, `extraFlags` what decoding and scale
 * estimation found out.
 */
export async function assessQuality(field: RgbImage, extraFlags: readonly string[] = []): Promise<ImageQuality> {
  const { width, height, data } = field;
  const luminance = moments();
  const green = moments();
  const laplacian = moments();
  const histogram = new Uint32Array(256);
  let clippedPixels = 0;
  const rooms = { across: new Float32Array((BAND + 4) * width), smooth: new Float32Array((BAND + 4) * width) };
  for (let top = 0; top < height; top += BAND) {
    const bottom = Math.min(height, top + BAND);
    for (let p = top * width; p < bottom * width; p++) {
      const r = data[p * 3] ?? 0;
      const g = data[p * 3 + 1] ?? 0;
      const b = data[p * 3 + 2] ?? 0;
      // ITU-R BT.601 luma: what "brightness" means to a person at the screen.
      const y = 0.299 * r + 0.587 * g + 0.114 * b;
      note(luminance, y);
      note(green, g);
      const bin = Math.round(y);
      histogram[bin] = (histogram[bin] ?? 0) + 1;
      if (r === 0 || g === 0 || b === 0 || r === 255 || g === 255 || b === 255) clippedPixels++;
    }
    noteLaplacian(laplacian, field, top, bottom, rooms);
    await nextTurn();
  }
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
  const stain = blank ? null : measureStain(field, clearFrom);
  return { sharpness, brightness, clipped, background, stain, flags };
}

/**
 * 4-neighbour Laplacian of green, the channel in which stained cells have most contrast, for the rows from top to bottom.
 * Smoothed before (1-2-1 both ways), or a noisy camera would pass for a sharp one. `across` and `smooth` are room for a band with two rows
 * on either side.
 */
function noteLaplacian(
  laplacian: Moments,
  { width, height, data }: RgbImage,
  top: number,
  bottom: number,
  { across, smooth }: { readonly across: Float32Array; readonly smooth: Float32Array },
): void {
  const from = Math.max(0, top - 2);
  const to = Math.min(height, bottom + 2);
  const rows = to - from;
  const at = (values: Float32Array, x: number, y: number): number => values[y * width + x] ?? 0;
  for (let y = 0; y < rows; y++) {
    const base = (from + y) * width;
    for (let x = 0; x < width; x++) {
      const left = data[(base + Math.max(0, x - 1)) * 3 + 1] ?? 0;
      const right = data[(base + Math.min(width - 1, x + 1)) * 3 + 1] ?? 0;
      across[y * width + x] = (left + 2 * (data[(base + x) * 3 + 1] ?? 0) + right) / 4;
    }
  }
  for (let y = 0; y < rows; y++) {
    const above = Math.max(0, y - 1);
    const below = Math.min(rows - 1, y + 1);
    for (let x = 0; x < width; x++) {
      smooth[y * width + x] = (at(across, x, above) + 2 * at(across, x, y) + at(across, x, below)) / 4;
    }
  }
  for (let y = Math.max(1, top) - from; y < Math.min(height - 1, bottom) - from; y++) {
    for (let x = 1; x < width - 1; x++) {
      const around = at(smooth, x - 1, y) + at(smooth, x + 1, y) + at(smooth, x, y - 1) + at(smooth, x, y + 1);
      note(laplacian, 4 * at(smooth, x, y) - around);
    }
  }
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
