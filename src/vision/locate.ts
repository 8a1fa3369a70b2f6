/** Where are the cells? The saliency network over the whole field, and the peaks of its centre map. */
import { flood } from './flood.js';
import type { FieldOutput } from './infer-messages.js';
import type { SaliencyManifest } from './manifest.js';
import { type FieldMap, nextTurn, padTile, resizeRegion } from './raster.js';
import { release } from './release.js';
import { MICRONS_PER_PIXEL_RANGE, type RunField } from './scale.js';
import type { Box, ImageScale, RgbImage } from './types.js';

/** A candidate cell in pixels of the posted image. */
export interface Candidate {
  readonly x: number;
  readonly y: number;
  /** Height of the centre map's peak, 0–1. */
  readonly score: number;
}

export interface Located {
  readonly candidates: readonly Candidate[];
  readonly saliency: FieldMap;
  /** The field at the saliency network's scale. */
  readonly field: RgbImage;
  /** µm per pixel of `field`. */
  readonly fieldMicronsPerPixel: number;
}

/** Saliency from which a region is surely that of a white cell. */
const SALIENT_FROM = 0.6;
/** Half of the smallest white cell: less is a platelet. */
const SMALLEST_REGION_UM2 = 18;
/** 80 Mpx of field are 240 MB; beyond that the field is looked at more coarsely instead of exhausting the memory. */
const MAX_FIELD_PIXELS = 80_000_000;
/** Fields up to this side are one run; larger ones are tiled, so that a run's memory stays bounded. */
const TILE_CORE = 1024;
/** What a tile sees beyond its core: 96 px are 46 µm, more than the network looks around a cell. */
const TILE_HALO = 96;

/** Size of the field at the network's scale. */
export function fieldSize(
  width: number,
  height: number,
  micronsPerPixel: number,
  networkMicronsPerPixel: number,
): { readonly width: number; readonly height: number } {
  const wanted = micronsPerPixel / networkMicronsPerPixel;
  const factor = Math.min(wanted, Math.sqrt(MAX_FIELD_PIXELS / (width * height)));
  return { width: Math.max(1, Math.round(width * factor)), height: Math.max(1, Math.round(height * factor)) };
}

/** Runs the saliency network over the field at the given scale and finds the candidate cells. */
export async function locateCells(
  image: RgbImage,
  micronsPerPixel: number,
  spec: SaliencyManifest,
  run: RunField,
): Promise<Located> {
  const size = fieldSize(image.width, image.height, micronsPerPixel, spec.micronsPerPixel);
  const all = { x: 0, y: 0, width: image.width, height: image.height };
  const field = await resizeRegion(image, all, size.width, size.height);
  const cellWidth = (image.width / size.width) * spec.stride;
  const cellHeight = (image.height / size.height) * spec.stride;
  const mapWidth = Math.ceil(size.width / spec.stride);
  const mapHeight = Math.ceil(size.height / spec.stride);
  const saliency = new Float32Array(mapWidth * mapHeight);
  const centres = new Float32Array(mapWidth * mapHeight);
  for (const tile of tilesOf(size.width, size.height)) {
    const width = Math.ceil(tile.outer.width / spec.multipleOf) * spec.multipleOf;
    const height = Math.ceil(tile.outer.height / spec.multipleOf) * spec.multipleOf;
    const output = await run({ kind: 'field', width, height, rgb: padTile(field, tile.outer, width, height) });
    paste(output, output.saliency, tile, spec.stride, saliency, mapWidth, mapHeight);
    paste(output, output.centres, tile, spec.stride, centres, mapWidth, mapHeight);
    release(output.saliency, output.centres);
    await nextTurn();
  }
  const map = { width: mapWidth, height: mapHeight, cellWidth, cellHeight };
  const radiusPx = spec.minDistanceUm / micronsPerPixel;
  // A peak in the padding's last map cell may lie just outside.
  const inside = ({ x, y }: Candidate): boolean => x < image.width && y < image.height;
  const peaks = findPeaks({ ...map, data: centres }, spec.centreThreshold / 2, radiusPx).filter(inside);
  release(centres);
  const regionCells = SMALLEST_REGION_UM2 / (cellWidth * cellHeight * micronsPerPixel ** 2);
  const candidates = chooseCandidates(peaks, { ...map, data: saliency }, spec.centreThreshold, regionCells);
  return {
    candidates,
    saliency: { ...map, data: saliency },
    field,
    fieldMicronsPerPixel: (micronsPerPixel * image.width) / size.width,
  };
}

/** Where to look again when the scale could only be guessed: µm per pixel to the guess. */
const OTHER_SCALES = [Math.SQRT2, Math.SQRT1_2, 2, 0.5] as const;
/** An estimate as sure as this is believed even where nothing is found at it: most such fields hold no white cell. */
const SURE_OF_SCALE = 0.5;

/**
 * Finds the cells at the scale of the image. Where that is a mere guess, or hardly more, and nothing is found at it, the guess may be
 * what is wrong: then at scales around it, and the one with the clearest cell is worked with. The scale is unknown then.
 */
export async function locateAround(
  image: RgbImage,
  guess: ImageScale,
  spec: SaliencyManifest,
  run: RunField,
): Promise<{ readonly scale: ImageScale; readonly located: Located }> {
  const locate = (micronsPerPixel: number) => locateCells(image, micronsPerPixel, spec, run);
  let best = { scale: guess, located: await locate(guess.workingMicronsPerPixel) };
  if (guess.confidence >= SURE_OF_SCALE || best.located.candidates.length > 0) return best;
  let clearest = 0;
  for (const factor of OTHER_SCALES) {
    const workingMicronsPerPixel = guess.workingMicronsPerPixel * factor;
    const { min, max } = MICRONS_PER_PIXEL_RANGE;
    if (workingMicronsPerPixel < min || workingMicronsPerPixel > max) continue;
    const located = await locate(workingMicronsPerPixel);
    const score = located.candidates[0]?.score ?? 0;
    if (score <= clearest) continue;
    clearest = score;
    best = { scale: { ...guess, micronsPerPixel: null, source: 'unknown', workingMicronsPerPixel }, located };
  }
  return best;
}

/**
 * Peaks (best first) above the threshold, and lower ones that are the only one of a salient region as large as a cell: what the
 * image's border cuts has its centre outside, so the centre map only murmurs there. `regionCells`: places of the map that a
 * region must cover.
 */
export function chooseCandidates(
  peaks: readonly Candidate[],
  saliency: FieldMap,
  threshold: number,
  regionCells: number,
): Candidate[] {
  const { width, height, data, cellWidth, cellHeight } = saliency;
  const place = ({ x, y }: Candidate): number =>
    Math.min(height - 1, Math.floor(y / cellHeight)) * width + Math.min(width - 1, Math.floor(x / cellWidth));
  const salient = new Uint8Array(data.length);
  for (let i = 0; i < data.length; i++) if ((data[i] ?? 0) >= SALIENT_FROM) salient[i] = 1;
  const seen = new Uint8Array(data.length);
  return peaks.filter((peak) => {
    const region = flood(width, height, [place(peak)], salient, true, seen);
    return peak.score >= threshold || region.length >= regionCells;
  });
}

interface Tile {
  /** The part whose result is kept. */
  readonly core: Box;
  /** The part that the network sees. */
  readonly outer: Box;
}

/** Tiles with cores that cover the field once. Positions are even, so that strides of two fit. */
export function tilesOf(width: number, height: number): Tile[] {
  const spans = (length: number): { at: number; size: number; outerAt: number; outerSize: number }[] => {
    if (length <= TILE_CORE + 2 * TILE_HALO) return [{ at: 0, size: length, outerAt: 0, outerSize: length }];
    const count = Math.ceil(length / TILE_CORE);
    return Array.from({ length: count }, (_, i) => {
      const at = i * TILE_CORE;
      const size = Math.min(TILE_CORE, length - at);
      const outerAt = Math.max(0, at - TILE_HALO);
      return { at, size, outerAt, outerSize: Math.min(length, at + size + TILE_HALO) - outerAt };
    });
  };
  const columns = spans(width);
  return spans(height).flatMap((row) =>
    columns.map((column) => ({
      core: { x: column.at, y: row.at, width: column.size, height: row.size },
      outer: { x: column.outerAt, y: row.outerAt, width: column.outerSize, height: row.outerSize },
    })),
  );
}

function paste(
  output: FieldOutput,
  values: Float32Array,
  tile: Tile,
  stride: number,
  target: Float32Array,
  mapWidth: number,
  mapHeight: number,
): void {
  const x0 = tile.core.x / stride;
  const y0 = tile.core.y / stride;
  const x1 = Math.min(mapWidth, Math.ceil((tile.core.x + tile.core.width) / stride));
  const y1 = Math.min(mapHeight, Math.ceil((tile.core.y + tile.core.height) / stride));
  const offsetX = tile.outer.x / stride;
  const offsetY = tile.outer.y / stride;
  for (let y = y0; y < y1; y++) {
    const from = (y - offsetY) * output.width - offsetX;
    target.set(values.subarray(from + x0, from + x1), y * mapWidth + x0);
  }
}

/**
 * Local maxima (3×3) above the threshold, refined below the map's resolution, thinned greedily: of two closer than
 * `minDistancePx` the higher stays. Positions in pixels of the posted image, best first.
 */
export function findPeaks(map: FieldMap, threshold: number, minDistancePx: number): Candidate[] {
  const { width, height, data } = map;
  const at = (x: number, y: number): number =>
    x < 0 || y < 0 || x >= width || y >= height ? Number.NEGATIVE_INFINITY : (data[y * width + x] ?? 0);
  const peaks: Candidate[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = at(x, y);
      if (value < threshold || !isPeak(at, x, y, value)) continue;
      peaks.push({
        x: (x + 0.5 + vertex(at(x - 1, y), value, at(x + 1, y))) * map.cellWidth,
        y: (y + 0.5 + vertex(at(x, y - 1), value, at(x, y + 1))) * map.cellHeight,
        score: value,
      });
    }
  }
  peaks.sort((a, b) => b.score - a.score || a.y - b.y || a.x - b.x);
  return thin(peaks, minDistancePx);
}

/** Strictly above the neighbours that come first, so that a plateau gives one peak. */
function isPeak(at: (x: number, y: number) => number, x: number, y: number, value: number): boolean {
  for (let dy = -1; dy <= 1; dy++) {
    for (let dx = -1; dx <= 1; dx++) {
      if (dx === 0 && dy === 0) continue;
      const other = at(x + dx, y + dy);
      const earlier = dy < 0 || (dy === 0 && dx < 0);
      if (earlier ? other >= value : other > value) return false;
    }
  }
  return true;
}

/** Offset of a parabola's vertex through three samples, within ±0.5; 0 at the border. */
function vertex(before: number, value: number, after: number): number {
  const curvature = before - 2 * value + after;
  if (!Number.isFinite(curvature) || curvature >= 0) return 0;
  return Math.min(0.5, Math.max(-0.5, (before - after) / (2 * curvature)));
}

/** Greedy thinning over a grid of buckets: linear in the number of peaks. */
function thin(peaks: readonly Candidate[], minDistance: number): Candidate[] {
  const side = Math.max(minDistance, 1e-6);
  const buckets = new Map<string, Candidate[]>();
  const kept: Candidate[] = [];
  for (const peak of peaks) {
    const bx = Math.floor(peak.x / side);
    const by = Math.floor(peak.y / side);
    let free = true;
    for (let dy = -1; dy <= 1 && free; dy++) {
      for (let dx = -1; dx <= 1 && free; dx++) {
        for (const other of buckets.get(`${bx + dx},${by + dy}`) ?? []) {
          if (Math.hypot(other.x - peak.x, other.y - peak.y) < minDistance) free = false;
        }
      }
    }
    if (!free) continue;
    kept.push(peak);
    const key = `${bx},${by}`;
    const bucket = buckets.get(key);
    if (bucket) bucket.push(peak);
    else buckets.set(key, [peak]);
  }
  return kept;
}
