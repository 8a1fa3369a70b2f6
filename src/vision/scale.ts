/**
 * How large is a pixel? The saliency network tells, for a field, by how many octaves its µm per pixel differ from the scale
 * it was trained at. First it is asked at assumed scales an octave apart, the coarsest and cheapest first; its answers,
 * shifted onto one axis and added, say roughly where the scale lies. Where enough red cells lie free, their diameter then gives
 * it to some 5 %. Elsewhere the network is asked again around the rough scale, and around the one that follows: centred on
 * the cells' own size, its answer (good to some 15 %) does not depend on the resolution of the posted image.
 */
import type { FieldInput, FieldOutput } from './infer-messages.js';
import type { SaliencyManifest } from './manifest.js';
import { padTile, resizeRegion } from './raster.js';
import { measureRedCells } from './red-cells.js';
import type { Box, RgbImage } from './types.js';

export interface ScaleEstimate {
  /** µm per pixel of the posted image. */
  readonly micronsPerPixel: number;
  /** Of the network: its probability mass within ±0.375 octave. Of red cells: nearer to 1 the more were measured. */
  readonly confidence: number;
}

/** Levels of the pyramid: log2(assumed µm per pixel ÷ the network's own), coarse pictures first. */
const LEVELS = [-4, -3, -2, -1, 0] as const;
/** Always asked; more levels only while the answer lies past the finest one by this many octaves. */
const LEVELS_AT_LEAST = 2;
const REACH_OCTAVES = 0.5;
const TILE_SIDE = 256;
const MAX_TILES = 2;
/** A picture smaller than this shows no cell. */
const MIN_SIDE = 24;
const GRID = { first: -5, last: 1.25, step: 1 / 16 } as const;
const MASS_WITHIN_OCTAVES = 0.375;
/** Where the network is asked around the estimate to refine it, how often at most, and when it has settled. */
const ASIDE_OCTAVES = [-0.5, 0, 0.5] as const;
const MAX_REFINEMENTS = 3;
const SETTLED_OCTAVES = 0.1;
/** Plausible µm per pixel of a posted smear image. */
export const MICRONS_PER_PIXEL_RANGE = { min: 0.02, max: 1 } as const;
/** Finding cells at a scale past these ends has no meaning; see MICRONS_PER_PIXEL_RANGE. */
const MIN_OCTAVE = -4.5;
const MAX_OCTAVE = 1;

export type RunField = (input: FieldInput) => Promise<FieldOutput>;

/** Axis on which evidence is collected: octaves of (µm per pixel of the posted image ÷ the network's). */
export function octaveGrid(): Float64Array {
  const count = Math.round((GRID.last - GRID.first) / GRID.step) + 1;
  return Float64Array.from({ length: count }, (_, i) => GRID.first + i * GRID.step);
}

/** Log-probability of a level's answer at an octave, linear between bins; the outermost bins hold all beyond them. */
export function logProbabilityAt(bins: ArrayLike<number>, spec: SaliencyManifest['scaleBins'], octave: number): number {
  const position = (octave - spec.firstOctave) / spec.octavesPerBin;
  const clamped = Math.min(Math.max(position, 0), spec.count - 1);
  const low = Math.floor(clamped);
  const high = Math.min(low + 1, spec.count - 1);
  const fraction = clamped - low;
  return (bins[low] ?? 0) * (1 - fraction) + (bins[high] ?? 0) * fraction;
}

/** Maximum of evenly spaced log-evidence, refined by a parabola, and the probability mass around it. */
export function peakOf(
  grid: ArrayLike<number>,
  evidence: ArrayLike<number>,
): { readonly octave: number; readonly confidence: number } {
  let best = 0;
  for (let i = 1; i < evidence.length; i++) if ((evidence[i] ?? 0) > (evidence[best] ?? 0)) best = i;
  const top = evidence[best] ?? 0;
  let octave = grid[best] ?? 0;
  const before = evidence[best - 1];
  const after = evidence[best + 1];
  if (before !== undefined && after !== undefined) {
    const curvature = before - 2 * top + after;
    if (curvature < 0) octave += ((before - after) / (2 * curvature)) * ((grid[1] ?? 0) - (grid[0] ?? 0));
  }
  return { octave, confidence: massAround(grid, evidence, octave, MASS_WITHIN_OCTAVES) };
}

/** Where a level is looked at: regions of the posted image of at most TILE_SIDE px after resizing, the richest first. */
function chooseRegions(image: RgbImage, factor: number, richness: Richness): Box[] {
  const side = TILE_SIDE / factor;
  const along = (length: number): { at: number; size: number }[] => {
    if (length <= side * 1.15) return [{ at: 0, size: length }];
    const size = Math.max(1, Math.floor(side));
    const count = Math.ceil(length / side);
    return Array.from({ length: count }, (_, i) => ({ at: Math.round((i * (length - size)) / (count - 1)), size }));
  };
  const columns = along(image.width);
  const regions = along(image.height).flatMap((row) =>
    columns.map((column) => ({ x: column.at, y: row.at, width: column.size, height: row.size })),
  );
  if (regions.length <= MAX_TILES) return regions;
  return regions
    .map((region) => ({ region, score: richness(region) }))
    .sort((a, b) => b.score - a.score || a.region.y - b.region.y || a.region.x - b.region.x)
    .slice(0, MAX_TILES)
    .map(({ region }) => region);
}

type Richness = (region: Box) => number;

/** How much structure a region holds: the variance of green in a small picture of the whole field. */
async function richnessOf(image: RgbImage): Promise<Richness> {
  const shrink = Math.min(1, 256 / Math.max(image.width, image.height));
  const width = Math.max(1, Math.round(image.width * shrink));
  const height = Math.max(1, Math.round(image.height * shrink));
  const all = { x: 0, y: 0, width: image.width, height: image.height };
  const small = await resizeRegion(image, all, width, height);
  return (region) => {
    let sum = 0;
    let squares = 0;
    let count = 0;
    const x1 = Math.ceil(((region.x + region.width) * width) / image.width);
    const y1 = Math.ceil(((region.y + region.height) * height) / image.height);
    for (let y = Math.floor((region.y * height) / image.height); y < y1; y++) {
      for (let x = Math.floor((region.x * width) / image.width); x < x1; x++) {
        const green = small.data[(y * width + x) * 3 + 1] ?? 0;
        sum += green;
        squares += green * green;
        count++;
      }
    }
    return count === 0 ? 0 : squares / count - (sum / count) ** 2;
  };
}

/** Mean log-probabilities over the regions of the field when it is looked at as if it had the scale 2^octave. */
async function ask(
  image: RgbImage,
  octave: number,
  richness: Richness,
  spec: SaliencyManifest,
  run: RunField,
): Promise<Float64Array | undefined> {
  const factor = 2 ** octave;
  const regions = chooseRegions(image, factor, richness);
  const answers = await Promise.all(
    regions.map(async (region) => {
      const width = Math.round(region.width * factor);
      const height = Math.round(region.height * factor);
      if (Math.max(width, height) < MIN_SIDE || Math.min(width, height) < 1) return undefined;
      const resized = await resizeRegion(image, region, width, height);
      const padded = (length: number): number => Math.ceil(length / spec.multipleOf) * spec.multipleOf;
      const tile = { x: 0, y: 0, width, height };
      const rgb = padTile(resized, tile, padded(width), padded(height));
      return run({ kind: 'field', width: padded(width), height: padded(height), rgb });
    }),
  );
  const given = answers.filter((answer) => answer !== undefined);
  if (given.length === 0) return undefined;
  const mean = new Float64Array(spec.scaleBins.count);
  for (const answer of given) {
    for (let i = 0; i < mean.length; i++) mean[i] = (mean[i] ?? 0) + (answer.scale[i] ?? 0) / given.length;
  }
  return mean;
}

/** Estimates the scale of a field. Equivariant up to resampling: an image shrunk by two yields twice the µm per pixel. */
export async function estimateScale(image: RgbImage, spec: SaliencyManifest, run: RunField): Promise<ScaleEstimate> {
  const richness = await richnessOf(image);
  const grid = octaveGrid();
  const evidence = new Float64Array(grid.length);
  let asked = 0;
  for (const level of LEVELS) {
    const rough = peakOf(grid, evidence);
    if (asked >= LEVELS_AT_LEAST && rough.octave <= level - 1 + REACH_OCTAVES) break;
    const bins = await ask(image, level, richness, spec, run);
    if (bins === undefined) continue;
    asked++;
    for (let i = 0; i < grid.length; i++) {
      evidence[i] = (evidence[i] ?? 0) + logProbabilityAt(bins, spec.scaleBins, (grid[i] ?? 0) - level);
    }
  }
  const rough = clampOctave(peakOf(grid, evidence).octave);
  const ruler = await measured(image, spec.micronsPerPixel * 2 ** rough);
  if (ruler !== undefined) return ruler;
  const askAt = (octave: number) => ask(image, octave, richness, spec, run);
  const fine = await refine(rough, grid, askAt, spec);
  // Sure only where the pyramid as a whole and the answers at the scale found agree.
  const confidence = Math.min(massAround(grid, evidence, fine.octave, 2 * MASS_WITHIN_OCTAVES), fine.confidence);
  return { micronsPerPixel: spec.micronsPerPixel * 2 ** fine.octave, confidence };
}

/** What the red cells say, where enough of them lie free. */
async function measured(image: RgbImage, roughly: number): Promise<ScaleEstimate | undefined> {
  const first = await measureRedCells(image, roughly);
  if (first === undefined) return undefined;
  // Once more at the scale found, so that the result does not depend on how far off the network was.
  const { micronsPerPixel, count } = (await measureRedCells(image, first.micronsPerPixel)) ?? first;
  // The spread of a median falls with the square root of what it is taken from.
  return { micronsPerPixel, confidence: 1 - 0.5 / Math.sqrt(count) };
}

const clampOctave = (octave: number): number => Math.min(Math.max(octave, MIN_OCTAVE), MAX_OCTAVE);

/**
 * Asks below, at and above the estimate and takes the mean of the pooled answers, until it moves no more. Pooled evenly
 * around the estimate, the network's leaning towards the scale it saw most often pulls to both sides alike.
 */
async function refine(
  start: number,
  grid: Float64Array,
  askAt: (octave: number) => Promise<Float64Array | undefined>,
  spec: SaliencyManifest,
): Promise<{ readonly octave: number; readonly confidence: number }> {
  let octave = start;
  let confidence = 0;
  for (let i = 0; i < MAX_REFINEMENTS; i++) {
    const asked = ASIDE_OCTAVES.map((aside) => octave + aside);
    const answers = await Promise.all(asked.map(askAt));
    const given = answers.flatMap((bins, k) => (bins === undefined ? [] : [{ bins, at: asked[k] ?? octave }]));
    if (given.length === 0) break;
    const pooled = grid.map(
      (place) =>
        given.reduce((sum, { bins, at }) => sum + logProbabilityAt(bins, spec.scaleBins, place - at), 0) / given.length,
    );
    const before = octave;
    octave = clampOctave(meanAround(grid, pooled));
    confidence = massAround(grid, pooled, octave, MASS_WITHIN_OCTAVES);
    if (Math.abs(octave - before) < SETTLED_OCTAVES) break;
  }
  return { octave, confidence };
}

/** Mean of the grid under the evidence, over the neighbourhood of its maximum. */
function meanAround(grid: Float64Array, evidence: Float64Array): number {
  const { octave } = peakOf(grid, evidence);
  const top = evidence.reduce((a, b) => Math.max(a, b));
  let mass = 0;
  let sum = 0;
  for (const [i, place] of grid.entries()) {
    if (Math.abs(place - octave) > 2 * MASS_WITHIN_OCTAVES) continue;
    const p = Math.exp((evidence[i] ?? 0) - top);
    mass += p;
    sum += p * place;
  }
  return mass > 0 ? sum / mass : octave;
}

/** Probability mass of log-evidence within so many octaves of a place. */
function massAround(grid: ArrayLike<number>, evidence: ArrayLike<number>, octave: number, within: number): number {
  let top = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < evidence.length; i++) top = Math.max(top, evidence[i] ?? 0);
  let mass = 0;
  let near = 0;
  for (let i = 0; i < evidence.length; i++) {
    const p = Math.exp((evidence[i] ?? 0) - top);
    mass += p;
    if (Math.abs((grid[i] ?? 0) - octave) <= within + 1e-9) near += p;
  }
  return near / mass;
}
