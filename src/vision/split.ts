/**
 * Cells that touch come out of a segmentation as one blob with a waist. A watershed on the distance to the blob's edge
 * takes them apart: seeds are the places farthest from the edge, and two stay apart where the way between them narrows.
 */

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
  const order = pixelsByHeight(foreground, distance);
  // Union-find over basins; each basin is named by its peak pixel.
  const basin = new Int32Array(side * side).fill(-1);
  const cells = new Map<number, number>();
  const blobs = new Map<number, number>();
  const rootOf = (peak: number): number => rootIn(cells, peak);
  const height = (peak: number): number => distance[peak] ?? 0;
  for (const pixel of order) {
    let best = -1;
    const met: number[] = [];
    for (const near of neighbours(pixel, side)) {
      const name = basin[near] ?? -1;
      if (name < 0) continue;
      if (best < 0 || height(near) > height(best)) best = near;
      const root = rootOf(name);
      if (!met.includes(root)) met.push(root);
    }
    if (best < 0) {
      basin[pixel] = pixel;
      continue;
    }
    basin[pixel] = rootOf(basin[best] ?? pixel);
    met.sort((a, b) => height(b) - height(a) || a - b);
    for (let i = 1; i < met.length; i++) {
      const lower = met[i] ?? -1;
      const [blob, other] = [rootIn(blobs, met[0] ?? -1), rootIn(blobs, lower)];
      if (blob !== other) blobs.set(other, blob);
      // Joined to the highest basin from which no waist separates it.
      const into = met
        .slice(0, i)
        .find((higher) => !isWaist(height(pixel), height(lower), height(rootOf(higher)), minRadius, waistBelow));
      if (into !== undefined) cells.set(lower, rootOf(into));
    }
  }
  return collect(foreground, basin, rootOf, (peak) => rootIn(blobs, peak), distance, side);
}

/** Follows the joins of a union-find from a peak to the peak that stands for it. */
function rootIn(joins: ReadonlyMap<number, number>, peak: number): number {
  let root = peak;
  for (let up = joins.get(root); up !== undefined; up = joins.get(root)) root = up;
  return root;
}

/**
 * Morphological opening with a disc: removes spurs and threads thinner than twice the radius and leaves the rest as it is.
 * Where nothing thick enough is left, the input comes back.
 */
export function withoutSpurs(foreground: Uint8Array, side: number, radius: number): Uint8Array {
  const fromEdge = edgeDistance(foreground, side);
  const core = Uint8Array.from(fromEdge, (distance) => (distance > radius ? 0 : 1));
  if (core.every((value) => value === 1)) return foreground;
  // Distance to the core; outside of the grid counts as core, so a cell cut by the window keeps its edge.
  const fromCore = edgeDistance(core, side);
  return foreground.map((value, i) => (value !== 0 && (fromCore[i] ?? 0) <= radius ? 1 : 0));
}

const isWaist = (waist: number, lower: number, higher: number, minRadius: number, waistBelow: number): boolean =>
  lower >= minRadius && lower >= SMALLEST_PART * higher && waist < waistBelow * lower;

function* neighbours(pixel: number, side: number): Generator<number> {
  const x = pixel % side;
  const y = (pixel - x) / side;
  for (let dy = -1; dy <= 1; dy++) {
    for (let dx = -1; dx <= 1; dx++) {
      if (dx === 0 && dy === 0) continue;
      if (x + dx >= 0 && y + dy >= 0 && x + dx < side && y + dy < side) yield pixel + dy * side + dx;
    }
  }
}

/** Distance of each foreground pixel to the nearest background pixel, by two sweeps with steps of 1 and √2. */
function edgeDistance(foreground: Uint8Array, side: number): Float32Array {
  const distance = Float32Array.from(foreground, (value) => (value === 0 ? 0 : Number.POSITIVE_INFINITY));
  const at = (x: number, y: number): number =>
    x < 0 || y < 0 || x >= side || y >= side ? 0 : (distance[y * side + x] ?? 0);
  const sweep = (x: number, y: number, step: 1 | -1): void => {
    const i = y * side + x;
    if (foreground[i] === 0) return;
    distance[i] = Math.min(
      distance[i] ?? 0,
      at(x - step, y) + 1,
      at(x, y - step) + 1,
      at(x - step, y - step) + Math.SQRT2,
      at(x + step, y - step) + Math.SQRT2,
    );
  };
  for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) sweep(x, y, 1);
  for (let y = side - 1; y >= 0; y--) for (let x = side - 1; x >= 0; x--) sweep(x, y, -1);
  return distance;
}

function pixelsByHeight(foreground: Uint8Array, distance: Float32Array): number[] {
  const pixels: number[] = [];
  for (let i = 0; i < foreground.length; i++) if (foreground[i] !== 0) pixels.push(i);
  return pixels.sort((a, b) => (distance[b] ?? 0) - (distance[a] ?? 0) || a - b);
}

function collect(
  foreground: Uint8Array,
  basin: Int32Array,
  rootOf: (peak: number) => number,
  blobOf: (peak: number) => number,
  distance: Float32Array,
  side: number,
): Split {
  const labels = new Uint16Array(side * side);
  const index = new Map<number, number>();
  const areas: number[] = [];
  for (let i = 0; i < foreground.length; i++) {
    if (foreground[i] === 0) continue;
    const root = rootOf(basin[i] ?? i);
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
    blob: blobOf(root),
  }));
  return { labels, parts };
}
