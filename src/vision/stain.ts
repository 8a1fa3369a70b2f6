/** How strongly, and in which tint, a field is stained: what changes with a new batch of stain, a buffer or a lamp. */
import { doublesAt, kernels, layOut, put } from './kernels.js';
import { nextTurn } from './raster.js';
import type { RgbImage, Stain } from './types.js';

/** Fewer stained pixels show no stain. */
const MIN_PIXELS = 64;

/** Pixels measured between two turns of the event loop. */
const PIXELS_PER_TURN = 1 << 18;
/** In the order of src/vision/wasm/measure.ts. */
const SUMS = 6;

/** −log10 of a grey level, from 1 to 256, so that black stays finite. */
const DENSITY = Float64Array.from({ length: 256 }, (_, level) => -Math.log10((level + 1) / 256));

/**
 * Mean optical density of all pixels with a luminance below `clearFrom`, against the mean of those above: Lambert and Beer's
 * law makes that proportional to the dye, and the lamp drops out. Azure dyes absorb red, eosin absorbs green: their ratio
 * is the tint. Null where the field shows no stain, or no clear ground to hold it against.
 */
export async function measureStain({ width, height, data }: RgbImage, clearFrom: number): Promise<Stain | null> {
  const totals = new Float64Array(SUMS);
  for (let from = 0; from < width * height; from += PIXELS_PER_TURN) {
    const pixels = Math.min(PIXELS_PER_TURN, width * height - from);
    layOut();
    const rgb = put(data.subarray(from * 3, (from + pixels) * 3));
    const sums = put(totals);
    kernels.stain(rgb, pixels, clearFrom, put(DENSITY), sums);
    totals.set(doublesAt(sums, SUMS));
    await nextTurn();
  }
  const [clearCount = 0, clearRed = 0, clearGreen = 0, count = 0, sumRed = 0, sumGreen = 0] = totals;
  if (count < MIN_PIXELS || clearCount === 0) return null;
  const red = sumRed / count - clearRed / clearCount;
  const green = sumGreen / count - clearGreen / clearCount;
  // Something that is dark and takes no green light away is no stained smear.
  return green > 0 ? { density: green, balance: Math.max(0, red) / green } : null;
}
