/**
 * Cells that touch come out of a segmentation as one blob with a waist. A watershed on the distance to the blob's edge
 * takes them apart: seeds are the places farthest from the edge, and two stay apart where the way between them narrows.
 */
import { bytesAt, floatsAt, kernels, layOut, put, room, zeroedRoom } from './kernels.js';
import { release } from './release.js';

/** One cell of a blob, in pixels of the grid. */
export interface Part {
  /** The place farthest from the blob's edge, and how far that is. */
  readonly x: number;
  readonly y: number;
  readonly radius: number;
  readonly area: number;
  /** Parts of one blob have the same number. */
  readonly blob: number;
}

export interface Split {
  /** 0 outside, else 1 + index in `parts`. */
  readonly labels: Uint16Array;
  readonly parts: readonly Part[];
}

/** The waist between two cells is narrower than this share of the smaller one's radius. */
const WAIST_BELOW = 0.8;
/** A bulge whose radius is less than this share of the blob's largest is part of the cell, not a neighbour. */
const SMALLEST_PART = 0.55;

/**
 * Labels every foreground pixel of a square grid with its cell; separate blobs are separate cells. Parts of a smaller
 * radius than `minRadius` (in pixels) are not split off.
 */
export function splitCells(foreground: Uint8Array, side: number, minRadius: number, waistBelow = WAIST_BELOW): Split {
  const distance = edgeDistance(foreground, side);
  // Union-find over basins; each basin is named by its peak pixel. −1: in no basin yet, joined to no other.
  const basin = new Int32Array(side * side).fill(-1);
  const cells = new Int32Array(side * side).fill(-1);
  const blobs = new Int32Array(side * side).fill(-1);
  const height = (peak: number): number => distance[peak] ?? 0;
  const roots: number[] = [];
  for (const pixel of pixelsByHeight(foreground, distance)) {
    const highest = basinsAround(pixel, side, basin, cells, distance, roots);
    if (highest < 0) {
      basin[pixel] = pixel;
      continue;
    }
    basin[pixel] = rootIn(cells, basin[highest] ?? pixel);
    if (roots.length < 2) continue;
    roots.sort((a, b) => height(b) - height(a) || a - b);
    for (let i = 1; i < roots.length; i++) {
      const lower = roots[i] ?? -1;
      const [blob, other] = [rootIn(blobs, roots[0] ?? -1), rootIn(blobs, lower)];
      if (blob !== other) blobs[other] = blob;
      // Joined to the highest basin from which no waist separates it.
      const into = roots
        .slice(0, i)
        .find((higher) => !isWaist(height(pixel), height(lower), height(rootIn(cells, higher)), minRadius, waistBelow));
      if (into !== undefined) cells[lower] = rootIn(cells, into);
    }
  }
  const split = collect(foreground, basin, cells, blobs, distance, side);
  release(distance, basin, cells, blobs);
  return split;
}

/** A pixel's highest neighbour that is in a basin (−1: there is none); the basins it touches, by their roots, go to `roots`. */
function basinsAround(
  pixel: number,
  side: number,
  basin: Int32Array,
  cells: Int32Array,
  distance: Float32Array,
  roots: number[],
): number {
  const x = pixel % side;
  const y = (pixel - x) / side;
  roots.length = 0;
  let highest = -1;
  let last = -1;
  for (let v = Math.max(0, y - 1); v <= Math.min(side - 1, y + 1); v++) {
    for (let u = Math.max(0, x - 1); u <= Math.min(side - 1, x + 1); u++) {
      const near = v * side + u;
      const name = basin[near] ?? -1;
      // The pixel itself is in no basin yet.
      if (name < 0) continue;
      if (highest < 0 || (distance[near] ?? 0) > (distance[highest] ?? 0)) highest = near;
      const root = rootIn(cells, name);
      // Neighbours are nearly always of one basin.
      if (root === last) continue;
      last = root;
      if (!roots.includes(root)) roots.push(root);
    }
  }
  return highest;
}

/** Follows the joins of a union-find (−1: none) from a peak to the peak that stands for it. */
function rootIn(joins: Int32Array, peak: number): number {
  let root = peak;
  for (let up = joins[root] ?? -1; up >= 0; up = joins[root] ?? -1) root = up;
  return root;
}

/**
 * Morphological opening with a disc: removes spurs and threads thinner than twice the radius and leaves the rest as it is.
 * Where nothing thick enough is left, the input comes back.
 */
export function withoutSpurs(foreground: Uint8Array, side: number, radius: number): Uint8Array {
  const places = side * side;
  const framed = (side + 2) ** 2 * Float32Array.BYTES_PER_ELEMENT;
  layOut();
  const opened = put(foreground);
  const distance = room(places * Float32Array.BYTES_PER_ELEMENT);
  kernels.open(opened, side, radius, zeroedRoom(framed), zeroedRoom(framed), distance, room(places));
  return bytesAt(opened, places).slice();
}

const isWaist = (waist: number, lower: number, higher: number, minRadius: number, waistBelow: number): boolean =>
  lower >= minRadius && lower >= SMALLEST_PART * higher && waist < waistBelow * lower;

/** Distance of each foreground pixel to the nearest background pixel; what lies outside of the grid is background. */
function edgeDistance(foreground: Uint8Array, side: number): Float32Array {
  layOut();
  const framed = zeroedRoom((side + 2) ** 2 * Float32Array.BYTES_PER_ELEMENT);
  const out = room(side * side * Float32Array.BYTES_PER_ELEMENT);
  kernels.edgeDistance(put(foreground), side, framed, out);
  return floatsAt(out, side * side).slice();
}

/** The foreground, highest pixels first, those of one height in reading order. */
function pixelsByHeight(foreground: Uint8Array, distance: Float32Array): Uint32Array {
  const places = foreground.length;
  let count = 0;
  for (const value of foreground) if (value !== 0) count++;
  // One number for height and place, which the engine sorts without asking back: the bits of floats ≥ 0 order as they do.
  const bits = new Uint32Array(distance.buffer, distance.byteOffset, places);
  const keys = new Float64Array(count);
  let at = 0;
  for (let i = 0; i < places; i++) if (foreground[i] !== 0) keys[at++] = (0xffffffff - (bits[i] ?? 0)) * places + i;
  keys.sort();
  const pixels = new Uint32Array(count);
  for (let i = 0; i < count; i++) pixels[i] = (keys[i] ?? 0) % places;
  return pixels;
}

function collect(
  foreground: Uint8Array,
  basin: Int32Array,
  cells: Int32Array,
  blobs: Int32Array,
  distance: Float32Array,
  side: number,
): Split {
  const labels = new Uint16Array(side * side);
  const index = new Map<number, number>();
  const areas: number[] = [];
  for (let i = 0; i < foreground.length; i++) {
    if (foreground[i] === 0) continue;
    const root = rootIn(cells, basin[i] ?? i);
    let label = index.get(root);
    if (label === undefined) {
      label = areas.length + 1;
      index.set(root, label);
      areas.push(0);
    }
    labels[i] = label;
    areas[label - 1] = (areas[label - 1] ?? 0) + 1;
  }
  const parts = [...index].map(([root, label]) => ({
    x: (root % side) + 0.5,
    y: Math.floor(root / side) + 0.5,
    radius: distance[root] ?? 0,
    area: areas[label - 1] ?? 0,
    blob: rootIn(blobs, root),
  }));
  return { labels, parts };
}
