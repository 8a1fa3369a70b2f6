/** From the network's answers for each crop to cells of the image: masks on posted pixels, one owner for each pixel. */
import type { CellType } from '../hematology/cell-types.js';
import { flood } from './flood.js';
import { bytesAt, kernels, layOut, put, room, zeroedRoom } from './kernels.js';
import type { CellsManifest } from './manifest.js';
import { putSamples, samplesAlong } from './raster.js';
import { release } from './release.js';
import { type Part, splitCells, withoutSpurs } from './split.js';
import type { Box, CellFlag, GreyImage } from './types.js';

export const BACKGROUND = 0;
export const NUCLEUS = 255;

/** Less is a platelet, a fragment or dirt: the smallest white cell covers some 35 µm², a bare small nucleus 25. */
const MIN_AREA_UM2 = 9;
/** Two masks that share more than this of the smaller one, or of their union, are the same cell. */
const DUPLICATE_ABOVE = 0.5;
/** Half of the smallest white cell's diameter: less is not split off a blob as a cell of its own. */
export const SMALLEST_RADIUS_UM = 2.2;
/** What is thinner than twice this is no part of a cell. */
const SPUR_UM = 0.6;
/** Only the largest monocytes cover more. A larger blob is several cells although its waists are hardly to be seen. */
const LARGEST_AREA_UM2 = 260;
const FAINT_WAIST = 0.93;
/** Masks closer than this touch. */
const TOUCHING_UM = 0.35;
const NOT_WHITE_CELLS: readonly CellType[] = ['platelet', 'smudge', 'artefact'];

/** A cell's mask on posted pixels. */
export interface CellShape {
  readonly box: Box;
  /** box.width × box.height: BACKGROUND, NUCLEUS, or 128 for cytoplasm. */
  readonly labels: Uint8Array;
  /** Foreground probability of the same pixels, 0–255. */
  readonly foreground: Uint8Array;
  readonly areaPx: number;
}

/** A shape with what decides between overlapping ones. */
export interface Instance {
  readonly shape: CellShape;
  readonly class: CellType;
  readonly confidence: number;
  /** Centre of the crop in posted pixels. */
  readonly centre: { readonly x: number; readonly y: number };
}

/** What a crop's segmentation shows. */
export interface CropShapes {
  /** The cell in the middle. */
  readonly central: CellShape;
  /** Places, in posted pixels, of cells that touch it and came out of the segmentation together with it. */
  readonly neighbours: readonly { readonly x: number; readonly y: number }[];
}

/**
 * The central cell of a crop. `segmentation` holds 3 × side × side probabilities (background, cytoplasm, nucleus) over
 * `window`; they are interpolated at the posted pixels inside the image. A blob of touching cells is taken apart (`gridUm`:
 * µm per place of the segmentation); the part that contains or comes nearest to the window's
 * centre is the cell, and its holes are filled. Undefined where there is none.
 */
export function shapesOfCrop(
  segmentation: Float32Array,
  side: number,
  window: Box,
  imageWidth: number,
  imageHeight: number,
  gridUm: number,
): CropShapes | undefined {
  const { parts, own } = isolateCentralPart(segmentation, side, gridUm);
  const neighbours = neighboursOf(parts, own, SMALLEST_RADIUS_UM / gridUm).map(({ x, y }) => ({
    x: window.x + (x * window.width) / side,
    y: window.y + (y * window.height) / side,
  }));
  const region = foregroundRegion(own.probabilities, side, window, imageWidth, imageHeight);
  const shape = region && cellIn(own.probabilities, side, window, region);
  release(own.probabilities);
  return shape === undefined ? undefined : { central: shape, neighbours };
}

/** The cell in a region of a window: interpolated, without what is not connected to it, its holes filled. */
function cellIn(probabilities: Float32Array, side: number, window: Box, region: Box): CellShape | undefined {
  const { width, height } = region;
  const pixels = width * height;
  layOut();
  const labels = room(pixels);
  const foreground = room(pixels);
  const columns = samplesAlong(region.x - window.x, width, side / window.width, side);
  const rows = samplesAlong(region.y - window.y, height, side / window.height, side);
  const samples = putSamples(rows, columns);
  const line = room(side * Float32Array.BYTES_PER_ELEMENT);
  const planes = room(3 * pixels * Float32Array.BYTES_PER_ELEMENT);
  kernels.interpolate(put(probabilities), side, ...samples, line, planes, width, height, labels, foreground);
  const centreX = window.x + window.width / 2 - region.x - 0.5;
  const centreY = window.y + window.height / 2 - region.y - 0.5;
  const queue = room(pixels * Int32Array.BYTES_PER_ELEMENT);
  if (!kernels.keepNearest(labels, width, height, centreX, centreY, zeroedRoom(pixels), queue)) return undefined;
  kernels.fillHoles(labels, width, height, zeroedRoom(pixels), queue);
  return trim({ box: region, labels: bytesAt(labels, pixels), foreground: bytesAt(foreground, pixels) });
}

interface Isolated {
  /** Index of the central part in the split; −1 where there is no foreground. */
  readonly index: number;
  /** The segmentation with every other part made background. */
  readonly probabilities: Float32Array;
}

function isolateCentralPart(
  segmentation: Float32Array,
  side: number,
  gridUm: number,
): { readonly parts: readonly Part[]; readonly own: Isolated } {
  const plane = side * side;
  const above = new Uint8Array(plane);
  for (let i = 0; i < plane; i++) if ((segmentation[i] ?? 1) < 0.5) above[i] = 1;
  const solid = withoutSpurs(above, side, SPUR_UM / gridUm);
  const minRadius = SMALLEST_RADIUS_UM / gridUm;
  let { labels, parts } = splitCells(solid, side, minRadius);
  let index = centralPart(labels, side);
  if ((parts[index]?.area ?? 0) * gridUm ** 2 > LARGEST_AREA_UM2) {
    ({ labels, parts } = splitCells(solid, side, minRadius, FAINT_WAIST));
    index = centralPart(labels, side);
  }
  const probabilities = segmentation.slice();
  for (let i = 0; i < plane; i++) {
    if (above[i] === 0 || labels[i] === index + 1) continue;
    probabilities[i] = 1;
    probabilities[plane + i] = 0;
    probabilities[2 * plane + i] = 0;
  }
  return { parts, own: { index, probabilities } };
}

/** Index of the part that contains or comes nearest to the centre; −1 where there is none. */
function centralPart(labels: Uint16Array, side: number): number {
  let index = -1;
  let nearest = Number.POSITIVE_INFINITY;
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const label = labels[y * side + x] ?? 0;
      if (label === 0) continue;
      const distance = (x + 0.5 - side / 2) ** 2 + (y + 0.5 - side / 2) ** 2;
      if (distance < nearest) {
        nearest = distance;
        index = label - 1;
      }
    }
  }
  return index;
}

/** Parts of the central cell's own blob that are large enough to be cells. */
function neighboursOf(parts: readonly Part[], own: Isolated, minRadius: number): Part[] {
  const central = parts[own.index];
  return parts.filter(
    (part, i) => i !== own.index && central !== undefined && part.blob === central.blob && part.radius >= minRadius,
  );
}

/** Posted pixels whose foreground could exceed one half; bilinear interpolation never exceeds its corners. */
function foregroundRegion(
  segmentation: Float32Array,
  side: number,
  window: Box,
  imageWidth: number,
  imageHeight: number,
): Box | undefined {
  let left = side;
  let right = -1;
  let top = side;
  let bottom = -1;
  for (let v = 0; v < side; v++) {
    for (let u = 0; u < side; u++) {
      if ((segmentation[v * side + u] ?? 1) >= 0.5) continue;
      if (u < left) left = u;
      if (u > right) right = u;
      if (v < top) top = v;
      if (v > bottom) bottom = v;
    }
  }
  if (right < 0) return undefined;
  const scaleX = window.width / side;
  const scaleY = window.height / side;
  const x0 = Math.max(0, Math.floor(window.x + (left - 1) * scaleX), Math.ceil(window.x));
  const y0 = Math.max(0, Math.floor(window.y + (top - 1) * scaleY), Math.ceil(window.y));
  const x1 = Math.min(imageWidth, Math.ceil(window.x + (right + 2) * scaleX), Math.floor(window.x + window.width));
  const y1 = Math.min(imageHeight, Math.ceil(window.y + (bottom + 2) * scaleY), Math.floor(window.y + window.height));
  return x1 > x0 && y1 > y0 ? { x: x0, y: y0, width: x1 - x0, height: y1 - y0 } : undefined;
}

/** Clears every 8-connected component but the largest: what is left over where another cell took its share. */
function keepLargestComponent(labels: Uint8Array, width: number, height: number): void {
  const seen = new Uint8Array(labels.length);
  let largest: number[] = [];
  for (let i = 0; i < labels.length; i++) {
    if (seen[i] === 1 || labels[i] === BACKGROUND) continue;
    const component = flood(width, height, [i], labels, true, seen);
    if (component.length > largest.length) largest = component;
  }
  const kept = new Uint8Array(labels.length);
  for (const at of largest) kept[at] = 1;
  for (let i = 0; i < labels.length; i++) if (kept[i] === 0) labels[i] = BACKGROUND;
}

/** Shrinks the box to the labelled pixels; undefined where none is left. */
export function trim({ box, labels, foreground }: Omit<CellShape, 'areaPx'>): CellShape | undefined {
  let left = box.width;
  let right = -1;
  let top = box.height;
  let bottom = -1;
  let areaPx = 0;
  for (let y = 0; y < box.height; y++) {
    for (let x = 0; x < box.width; x++) {
      if (labels[y * box.width + x] === BACKGROUND) continue;
      areaPx++;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
  }
  if (areaPx === 0) return undefined;
  const width = right - left + 1;
  const height = bottom - top + 1;
  const cut = (from: Uint8Array): Uint8Array => {
    const out = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) {
      const start = (top + y) * box.width + left;
      out.set(from.subarray(start, start + width), y * width);
    }
    return out;
  };
  return {
    box: { x: box.x + left, y: box.y + top, width, height },
    labels: cut(labels),
    foreground: cut(foreground),
    areaPx,
  };
}

export interface Verdict {
  readonly class: CellType;
  readonly confidence: number;
}

/**
 * The class to report. A model that is not sure declines (`unidentified`), unless it is sure that it is no white cell
 * and only wavers between the kinds of these.
 */
export function classify(
  probabilities: ArrayLike<number>,
  reject: number,
  manifest: Pick<CellsManifest, 'classes' | 'unidentifiedBelow' | 'rejectAbove'>,
): Verdict {
  let best = 0;
  let other = -1;
  let otherMass = 0;
  manifest.classes.forEach((name, i) => {
    const p = probabilities[i] ?? 0;
    if (p > (probabilities[best] ?? 0)) best = i;
    if (NOT_WHITE_CELLS.includes(name)) {
      otherMass += p;
      if (other < 0 || p > (probabilities[other] ?? 0)) other = i;
    }
  });
  // What is unlike all that was learnt from is declined, however sure the class output is of it; the confidence says so too.
  const known = reject > manifest.rejectAbove ? 1 - reject : 1;
  const confidence = Math.min(1, Math.max(0, probabilities[best] ?? 0)) * known;
  if (confidence >= manifest.unidentifiedBelow) return { class: manifest.classes[best] ?? 'unidentified', confidence };
  if (other >= 0 && otherMass > 0.5) return { class: manifest.classes[other] ?? 'unidentified', confidence };
  return { class: 'unidentified', confidence };
}

export const isWhiteCell = (type: CellType): boolean => !NOT_WHITE_CELLS.includes(type);

/**
 * One instance for each cell: of duplicates the more convincing stays, contested pixels go to the mask that is surer of
 * them, and what is left too small is dropped. The result keeps the order of reading: by y, then x.
 */
export function resolveOverlaps<T extends Instance>(
  instances: readonly T[],
  micronsPerPixel: number,
): { readonly instance: T; readonly shape: CellShape }[] {
  const minArea = Math.max(4, MIN_AREA_UM2 / micronsPerPixel ** 2);
  const ranked = instances
    .filter(({ shape }) => shape.areaPx >= minArea)
    .map((instance) => ({ instance, rank: rankOf(instance) }))
    .sort(
      (a, b) =>
        b.rank - a.rank || a.instance.centre.y - b.instance.centre.y || a.instance.centre.x - b.instance.centre.x,
    );
  const kept: { instance: T; shape: CellShape }[] = [];
  for (const { instance } of ranked) {
    if (!kept.some((other) => isDuplicate(other.instance.shape, instance.shape))) {
      kept.push({ instance, shape: { ...instance.shape, labels: instance.shape.labels.slice() } });
    }
  }
  const contested = new Set<CellShape>();
  for (let i = 0; i < kept.length; i++) {
    for (let j = i + 1; j < kept.length; j++) {
      const a = kept[i];
      const b = kept[j];
      if (a && b && settle(a.shape, b.shape)) contested.add(a.shape).add(b.shape);
    }
  }
  return kept
    .flatMap(({ instance, shape }) => {
      if (contested.has(shape)) keepLargestComponent(shape.labels, shape.box.width, shape.box.height);
      const settled = contested.has(shape) ? trim(shape) : shape;
      return settled !== undefined && settled.areaPx >= minArea ? [{ instance, shape: settled }] : [];
    })
    .sort((a, b) => a.shape.box.y - b.shape.box.y || a.shape.box.x - b.shape.box.x);
}

/** White cells before anything else; then sure and central ones: a crop shows its own cell best in the middle. */
function rankOf(instance: Instance): number {
  const { box } = instance.shape;
  const offset = Math.hypot(
    (box.x + box.width / 2 - instance.centre.x) / box.width,
    (box.y + box.height / 2 - instance.centre.y) / box.height,
  );
  return (isWhiteCell(instance.class) ? 1 : 0) + instance.confidence * Math.max(0, 1 - offset);
}

function overlapBox(a: Box, b: Box, margin = 0): Box | undefined {
  const x = Math.max(a.x, b.x) - margin;
  const y = Math.max(a.y, b.y) - margin;
  const width = Math.min(a.x + a.width, b.x + b.width) + margin - x;
  const height = Math.min(a.y + a.height, b.y + b.height) + margin - y;
  return width > 0 && height > 0 ? { x, y, width, height } : undefined;
}

const indexIn = (box: Box, x: number, y: number): number => (y - box.y) * box.width + (x - box.x);

function isDuplicate(a: CellShape, b: CellShape): boolean {
  const common = overlapBox(a.box, b.box);
  if (common === undefined) return false;
  let shared = 0;
  for (let y = common.y; y < common.y + common.height; y++) {
    for (let x = common.x; x < common.x + common.width; x++) {
      if (a.labels[indexIn(a.box, x, y)] !== BACKGROUND && b.labels[indexIn(b.box, x, y)] !== BACKGROUND) shared++;
    }
  }
  // Containment in the smaller mask is never less than the intersection over union.
  return shared / Math.min(a.areaPx, b.areaPx) > DUPLICATE_ABOVE;
}

/** Foreground probabilities (of 255) that differ by less do not decide whose a pixel is: borders would be ragged. */
const ABOUT_EQUAL = 25;

/**
 * Gives each contested pixel to the surer mask, or where both are about as sure to the nearer cell. In place; says whether
 * there was any.
 */
function settle(a: CellShape, b: CellShape): boolean {
  const common = overlapBox(a.box, b.box);
  if (common === undefined) return false;
  let any = false;
  const nearer = nearness(a);
  const other = nearness(b);
  for (let y = common.y; y < common.y + common.height; y++) {
    for (let x = common.x; x < common.x + common.width; x++) {
      const i = indexIn(a.box, x, y);
      const j = indexIn(b.box, x, y);
      if (a.labels[i] === BACKGROUND || b.labels[j] === BACKGROUND) continue;
      any = true;
      const surer = (a.foreground[i] ?? 0) - (b.foreground[j] ?? 0);
      const toA = Math.abs(surer) > ABOUT_EQUAL ? surer > 0 : nearer(x, y) <= other(x, y);
      if (toA) b.labels[j] = BACKGROUND;
      else a.labels[i] = BACKGROUND;
    }
  }
  return any;
}

/** Distance from the middle of a cell's box in radii of the cell. */
function nearness({ box, areaPx }: CellShape): (x: number, y: number) => number {
  const radius = Math.sqrt(areaPx / Math.PI);
  const [cx, cy] = [box.x + (box.width - 1) / 2, box.y + (box.height - 1) / 2];
  return (x, y) => Math.hypot(x - cx, y - cy) / radius;
}

/** Indices of the shapes that touch another one. */
export function touching(shapes: readonly CellShape[], micronsPerPixel: number): Set<number> {
  const reach = Math.max(1, Math.round(TOUCHING_UM / micronsPerPixel));
  const found = new Set<number>();
  for (let i = 0; i < shapes.length; i++) {
    for (let j = i + 1; j < shapes.length; j++) {
      const a = shapes[i];
      const b = shapes[j];
      if (a && b && !(found.has(i) && found.has(j)) && shapesTouch(a, b, reach)) {
        found.add(i);
        found.add(j);
      }
    }
  }
  return found;
}

function shapesTouch(a: CellShape, b: CellShape, reach: number): boolean {
  const common = overlapBox(a.box, b.box, reach);
  if (common === undefined) return false;
  const inside = (shape: CellShape, x: number, y: number): boolean =>
    x >= shape.box.x &&
    y >= shape.box.y &&
    x < shape.box.x + shape.box.width &&
    y < shape.box.y + shape.box.height &&
    shape.labels[indexIn(shape.box, x, y)] !== BACKGROUND;
  for (let y = common.y; y < common.y + common.height; y++) {
    for (let x = common.x; x < common.x + common.width; x++) {
      if (!inside(a, x, y)) continue;
      for (let dy = -reach; dy <= reach; dy++) {
        for (let dx = -reach; dx <= reach; dx++) {
          if (dx * dx + dy * dy <= reach * reach + 1 && inside(b, x + dx, y + dy)) return true;
        }
      }
    }
  }
  return false;
}

export const touchesBorder = (box: Box, imageWidth: number, imageHeight: number): boolean =>
  box.x <= 0 || box.y <= 0 || box.x + box.width >= imageWidth || box.y + box.height >= imageHeight;

/** What a reader of the result should know about a cell before trusting it. */
export function cellFlags(cell: {
  readonly shape: CellShape;
  readonly imageWidth: number;
  readonly imageHeight: number;
  readonly confidence: number;
  readonly consistency: number;
  readonly reject: number;
  readonly touches: boolean;
  readonly scaleUnknown: boolean;
  readonly manifest: CellsManifest;
}): CellFlag[] {
  const flags: CellFlag[] = [];
  if (touchesBorder(cell.shape.box, cell.imageWidth, cell.imageHeight)) flags.push('border');
  if (cell.confidence < cell.manifest.lowConfidenceBelow) flags.push('low_confidence');
  if (cell.consistency < cell.manifest.lowConsistencyBelow) flags.push('low_consistency');
  if (cell.reject > cell.manifest.rejectAbove) flags.push('out_of_distribution');
  if (cell.touches) flags.push('touching');
  if (cell.scaleUnknown) flags.push('scale_unknown');
  return flags;
}

export const maskOf = (shape: CellShape): GreyImage => ({
  width: shape.box.width,
  height: shape.box.height,
  data: shape.labels,
});
