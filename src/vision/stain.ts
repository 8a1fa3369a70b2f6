/** How strongly, and in which tint, a field is stained: what changes with a new batch of stain, a buffer or a lamp. */
import type { RgbImage, Stain } from './types.js';

/** Fewer stained pixels show no stain. */
const MIN_PIXELS = 64;

/** −log10 of a grey level, from 1 to 256, so that black stays finite. */
const DENSITY = Float64Array.from({ length: 256 }, (_, level) => -Math.log10((level + 1) / 256));

/**
 * Mean optical density of all pixels with a luminance below `clearFrom`, against the mean of those above: Lambert and Beer's
 * law makes that proportional to the dye, and the lamp drops out. Azure dyes absorb red, eosin absorbs green: their ratio
 * is the tint. Null where the field shows no stain, or no clear ground to hold it against.
 */
export function measureStain({ data }: RgbImage, clearFrom: number): Stain | null {
  let [clearCount, clearRed, clearGreen] = [0, 0, 0];
  let [count, sumRed, sumGreen] = [0, 0, 0];
  for (let i = 0; i + 2 < data.length; i += 3) {
    const r = data[i] ?? 0;
    const g = data[i + 1] ?? 0;
    const red = DENSITY[r] ?? 0;
    const green = DENSITY[g] ?? 0;
    if (0.299 * r + 0.587 * g + 0.114 * (data[i + 2] ?? 0) >= clearFrom) {
      clearCount++;
      clearRed += red;
      clearGreen += green;
    } else {
      count++;
      sumRed += red;
      sumGreen += green;
    }
  }
  if (count < MIN_PIXELS || clearCount === 0) return null;
  const red = sumRed / count - clearRed / clearCount;
  const green = sumGreen / count - clearGreen / clearCount;
  // Something that is dark and takes no green light away is no stained smear.
  return green > 0 ? { density: green, balance: Math.max(0, red) / green } : null;
}
