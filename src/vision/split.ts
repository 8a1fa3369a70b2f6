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
  // Union-find over basins; each basin is named by its peak pixel. −1: in no basin yet, joined to no other.
  const basin = new Int32Array(side * side).fill(-1);
  const cells = new Int32Array(side * side).fill(-1);
  const blobs = new Int32Array(side * side).fill(-1);
  const height = (peak: number): number => distance[peak] ?? 0;
  for (const pixel of pixelsByHeight(foreground, distance)) {
    const { highest, roots } = basinsAround(pixel, side, basin, cells, distance);
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
  return collect(foreground, basin, cells, blobs, distance, side);
}

/** The basins that a pixel touches, by their roots, and its highest neighbour in one (−1: there is none). */
function basinsAround(
  pixel: number,
  side: number,
  basin: Int32Array,
  cells: Int32Array,
  distance: Float32Array,
): { readonly highest: number; readonly roots: number[] } {
  const x = pixel % side;
  const y = (pixel - x) / side;
  const roots: number[] = [];
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
  return { highest, roots };
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
  const fromEdge = edgeDistance(foreground, side);
  const outsideCore = new Uint8Array(foreground.length);
  let any = false;
  for (let i = 0; i < outsideCore.length; i++) {
    if ((fromEdge[i] ?? 0) > radius) any = true;
    else outsideCore[i] = 1;
  }
  if (!any) return foreground;
  // Distance to the core; outside of the grid counts as core, so a cell cut by the window keeps its edge.
  const fromCore = edgeDistance(outsideCore, side);
  const opened = new Uint8Array(foreground.length);
  for (let i = 0; i < opened.length; i++) {
    if (foreground[i] !== 0 && (fromCore[i] ?? 0) <= radius) opened[i] = 1;
  }
  return opened;
}

const isWaist = (waist: number, lower: number, higher: number, minRadius: number, waistBelow: number): boolean =>
  lower >= minRadius && lower >= SMALLEST_PART * higher && waist < waistBelow * lower;

/** Distance of each foreground pixel to the nearest background pixel, by two sweeps with steps of 1 and √2. */
function edgeDistance(foreground: Uint8Array, side: number): Float32Array {
  // A frame of background around the grid: no sweep has to ask where it ends.
  const stride = side + 2;
  const framed = new Float32Array(stride * stride);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      if (foreground[y * side + x] !== 0) framed[(y + 1) * stride + x + 1] = Number.POSITIVE_INFINITY;
    }
  }
  // A sweep looks at the place before it, and at the three of the row before it.
  const sweep = (i: number, step: 1 | -1): void => {
    const row = i - step * stride;
    const straight = Math.min(framed[i - step] ?? 0, framed[row] ?? 0) + 1;
    const diagonal = Math.min(framed[row - 1] ?? 0, framed[row + 1] ?? 0) + Math.SQRT2;
    framed[i] = Math.min(framed[i] ?? 0, straight, diagonal);
  };
  const last = (side + 1) * stride - 2;
  for (let i = stride + 1; i <= last; i++) if (framed[i] !== 0) sweep(i, 1);
  for (let i = last; i > stride; i--) if (framed[i] !== 0) sweep(i, -1);
  const distance = new Float32Array(side * side);
  for (let y = 0; y < side; y++) {
    const from = (y + 1) * stride + 1;
    distance.set(framed.subarray(from, from + side), y * side);
  }
  return distance;
}

/** The foreground, highest pixels first, those of one height in reading order. */
function pixelsByHeight(foreground: Uint8Array, distance: Float32Array): Uint32Array {
  const places = foreground.length;
  const count = foreground.reduce((sum, value) => sum + (value === 0 ? 0 : 1), 0);
  // One number for height and place, which the engine sorts without asking back: the bits of floats ≥ 0 order as they do.
  const bits = new Uint32Array(distance.buffer, distance.byteOffset, places);
  const keys = new Float64Array(count);
  let at = 0;
  for (let i = 0; i < places; i++) if (foreground[i] !== 0) keys[at++] = (0xffffffff - (bits[i] ?? 0)) * places + i;
  keys.sort();
  return Uint32Array.from(keys, (key) => key % places);
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
