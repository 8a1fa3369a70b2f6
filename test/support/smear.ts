/**
 * A synthetic blood smear with known cells. The scene is laid out in micrometres and only then drawn at the asked µm per
 * pixel, so one seed gives the same field at any magnification. Colours come from optical densities of the dyes
 * (Beer–Lambert), so that overlapping cells darken and another stain is another mixture, as on a slide.
 */
import { createRandom, fractalNoise, type Random, valueNoise } from './random.js';

export type DrawnCell = 'neutrophil' | 'lymphocyte' | 'monocyte' | 'eosinophil' | 'basophil';
type Colour = readonly [number, number, number];

export interface Stain {
  /** Clear glass, 8-bit RGB. */
  readonly background: Colour;
  /** Strength of the pink dye; 1 is usual. */
  readonly eosin: number;
  /** Strength of the violet and blue dyes; 1 is usual. */
  readonly azure: number;
}

/** Wright–Giemsa as a slide scanner renders it: cream glass, grey-pink red cells. */
export const CREAM_STAIN: Stain = { background: [254, 233, 207], eosin: 1, azure: 1 };
/** The same stain under a daylight-balanced camera: grey-white glass. */
export const NEUTRAL_STAIN: Stain = { background: [226, 224, 226], eosin: 1.05, azure: 0.92 };
/** Strong, pinkish stain. */
export const PINK_STAIN: Stain = { background: [243, 224, 226], eosin: 1.3, azure: 1.1 };

export interface SmearOptions {
  readonly seed: number;
  readonly width: number;
  readonly height: number;
  readonly micronsPerPixel: number;
  /** How many of each white cell; placed at random without overlap, whole cells inside the field. */
  readonly cells?: Partial<Record<DrawnCell, number>>;
  /** White cells at fixed places, in micrometres from the top left. May be cut by the border. */
  readonly placed?: readonly { readonly class: DrawnCell; readonly xUm: number; readonly yUm: number }[];
  /** Share of the glass that red cells cover, 0–0.6; default 0.38. */
  readonly redCellCover?: number;
  /** Red cells may overlap each other; default true. */
  readonly overlap?: boolean;
  /** Platelets per red cell; default 0.06. */
  readonly platelets?: number;
  readonly stain?: Stain;
  /** Loss of light in the corners, 0–1; default 0.06. */
  readonly vignette?: number;
  /** Standard deviation of the camera's noise in grey levels; default 1.5. */
  readonly noise?: number;
  /** Standard deviation of the optical blur in µm; default 0.12. */
  readonly blurUm?: number;
}

export interface TruthCell {
  readonly class: DrawnCell;
  /** Centre and mean radius in pixels. */
  readonly x: number;
  readonly y: number;
  readonly radius: number;
  readonly box: { readonly x: number; readonly y: number; readonly width: number; readonly height: number };
  /** Of the box: 0 background, 128 cytoplasm, 255 nucleus. */
  readonly mask: Uint8Array;
}

export interface Smear {
  readonly width: number;
  readonly height: number;
  /** Interleaved RGB. */
  readonly data: Uint8Array;
  readonly micronsPerPixel: number;
  readonly cells: readonly TruthCell[];
  readonly redCells: number;
}

/** Mean diameters in µm as read from smears (they are wider there than in suspension). */
export const DIAMETER_UM: Readonly<Record<DrawnCell | 'red', number>> = {
  red: 7.2,
  neutrophil: 13,
  lymphocyte: 9.8,
  monocyte: 17,
  eosinophil: 14,
  basophil: 12.5,
};

// Optical densities (red, green, blue) at full strength, measured by eye against published smears.
const RED_CELL: Colour = [0.1, 0.165, 0.115];
const NUCLEUS: Colour = [0.54, 0.74, 0.26];
const PINK: Colour = [0.07, 0.13, 0.075];
const ORANGE: Colour = [0.1, 0.36, 0.33];
const BLUE: Colour = [0.29, 0.27, 0.06];
const GREY_BLUE: Colour = [0.25, 0.25, 0.1];
const VIOLET: Colour = [0.42, 0.6, 0.24];
const DARK_VIOLET: Colour = [0.75, 0.98, 0.45];

/** Optical densities of the whole field, and the truth beside it. */
interface Canvas {
  readonly width: number;
  readonly height: number;
  readonly scale: number;
  readonly density: Float32Array;
  /** Half width of every edge in µm: never sharper than a pixel. */
  readonly edge: number;
}

const clamp01 = (value: number): number => Math.min(1, Math.max(0, value));
const smooth = (low: number, high: number, value: number): number => {
  const t = clamp01((value - low) / (high - low));
  return t * t * (3 - 2 * t);
};
/** Coverage from a signed distance in µm (negative inside). */
const cover = (distance: number, edge: number): number => 1 - smooth(-edge, edge, distance);

/** Visits the pixels within `reach` µm of a point, with offsets in µm from it. */
function visit(
  canvas: Canvas,
  xUm: number,
  yUm: number,
  reach: number,
  pixel: (at: number, dx: number, dy: number) => void,
): void {
  const { width, height, scale } = canvas;
  const x0 = Math.max(0, Math.floor((xUm - reach) / scale));
  const y0 = Math.max(0, Math.floor((yUm - reach) / scale));
  const x1 = Math.min(width, Math.ceil((xUm + reach) / scale));
  const y1 = Math.min(height, Math.ceil((yUm + reach) / scale));
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++) pixel(y * width + x, (x + 0.5) * scale - xUm, (y + 0.5) * scale - yUm);
  }
}

function mix(canvas: Canvas, at: number, colour: Colour, strength: number, alpha: number): void {
  const i = at * 3;
  for (let c = 0; c < 3; c++) {
    canvas.density[i + c] = (canvas.density[i + c] ?? 0) * (1 - alpha) + (colour[c] ?? 0) * strength * alpha;
  }
}

function add(canvas: Canvas, at: number, colour: Colour, strength: number): void {
  const i = at * 3;
  for (let c = 0; c < 3; c++) canvas.density[i + c] = (canvas.density[i + c] ?? 0) + (colour[c] ?? 0) * strength;
}

/** A closed outline: radius as a function of the angle, a circle with a few harmonics. */
function outline(random: Random, radius: number, wobble: number): (angle: number) => number {
  const waves = [2, 3, 4, 5].map((k) => ({ k, a: (random.normal() * wobble) / k, p: random.between(0, 2 * Math.PI) }));
  return (angle) => radius * (1 + waves.reduce((sum, { k, a, p }) => sum + a * Math.cos(k * angle + p), 0));
}

/** Disc with a paler middle; the profile follows the thickness of a biconcave cell. */
function drawRedCell(canvas: Canvas, random: Random, xUm: number, yUm: number, stain: Stain): void {
  const radius = (DIAMETER_UM.red / 2) * (1 + 0.05 * random.normal());
  const edgeOf = outline(random, radius, 0.035);
  const stretch = 1 + Math.abs(random.normal()) * 0.05;
  const turn = random.between(0, Math.PI);
  const pallor = random.between(0.3, 0.85);
  const pallorSize = random.between(0.34, 0.5) * radius;
  const strength = stain.eosin * random.between(0.9, 1.12);
  const offX = random.normal() * 0.12;
  const offY = random.normal() * 0.12;
  const cos = Math.cos(turn);
  const sin = Math.sin(turn);
  visit(canvas, xUm, yUm, radius * 1.4 + canvas.edge, (at, dx, dy) => {
    const u = (dx * cos + dy * sin) / stretch;
    const v = (-dx * sin + dy * cos) * stretch;
    const r = Math.hypot(u, v);
    const limit = edgeOf(Math.atan2(v, u));
    const alpha = cover(r - limit, canvas.edge + 0.1);
    // Just outside, the edge of a cell bends light towards the viewer: a faint bright line.
    const fringe = smooth(limit, limit + 0.25, r) * (1 - smooth(limit + 0.25, limit + 0.7, r));
    if (fringe > 0) add(canvas, at, [1, 1, 1], -0.008 * fringe);
    if (alpha <= 0) return;
    const middle = Math.hypot(u - offX, v - offY) / pallorSize;
    const rim = smooth(limit * 0.6, limit * 0.88, r) * 0.1;
    const thickness = 1 - pallor / (1 + middle ** 4) + rim;
    add(canvas, at, RED_CELL, strength * alpha * thickness);
  });
}

/** A small violet, granular speck. */
function drawPlatelet(canvas: Canvas, random: Random, xUm: number, yUm: number, stain: Stain): void {
  const radius = random.between(0.8, 1.5);
  const edgeOf = outline(random, radius, 0.2);
  const seed = random.integer(1, 1e6);
  visit(canvas, xUm, yUm, radius * 1.8, (at, dx, dy) => {
    const alpha = cover(Math.hypot(dx, dy) - edgeOf(Math.atan2(dy, dx)), canvas.edge + 0.15);
    const grain = 0.55 + 0.45 * fractalNoise(dx * 2.4, dy * 2.4, seed);
    if (alpha > 0) mix(canvas, at, VIOLET, stain.azure * (0.45 + 0.75 * grain), alpha * 0.85);
  });
}

/** Signed distance in µm to a nucleus, in coordinates of the cell. */
type NucleusShape = (x: number, y: number) => number;

/** Smooth union of two distances (polynomial smooth minimum). */
const union = (a: number, b: number, softness: number): number => {
  const h = clamp01(0.5 + (0.5 * (b - a)) / softness);
  return b * (1 - h) + a * h - softness * h * (1 - h);
};

interface Lobe {
  readonly x: number;
  readonly y: number;
  readonly r: number;
  readonly stretch: number;
  readonly angle: number;
}

function lobeDistance(lobe: Lobe, x: number, y: number): number {
  const dx = x - lobe.x;
  const dy = y - lobe.y;
  const u = (dx * Math.cos(lobe.angle) + dy * Math.sin(lobe.angle)) / lobe.stretch;
  const v = (-dx * Math.sin(lobe.angle) + dy * Math.cos(lobe.angle)) * lobe.stretch;
  return Math.hypot(u, v) - lobe.r;
}

function segmentDistance(ax: number, ay: number, bx: number, by: number, x: number, y: number): number {
  const lengthSquared = (bx - ax) ** 2 + (by - ay) ** 2 || 1e-9;
  const t = clamp01(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / lengthSquared);
  return Math.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay));
}

/** Lobes on an arc, joined by threads. */
function lobedNucleus(
  random: Random,
  count: number,
  lobeRadius: number,
  arcRadius: number,
  bridge: number,
): NucleusShape {
  const start = random.between(0, 2 * Math.PI);
  const spread = count === 2 ? random.between(2.1, 3) : random.between(1.25, 1.75);
  const lobes: Lobe[] = Array.from({ length: count }, (_, i) => {
    const angle = start + i * spread + random.normal() * 0.12;
    const distance = arcRadius * random.between(0.8, 1.1);
    return {
      x: Math.cos(angle) * distance,
      y: Math.sin(angle) * distance,
      r: lobeRadius * random.between(0.86, 1.14),
      stretch: random.between(1, 1.22),
      angle: angle + Math.PI / 2 + random.normal() * 0.3,
    };
  });
  return (x, y) => {
    let distance = Number.POSITIVE_INFINITY;
    lobes.forEach((lobe, i) => {
      distance =
        distance === Number.POSITIVE_INFINITY
          ? lobeDistance(lobe, x, y)
          : union(distance, lobeDistance(lobe, x, y), 0.35);
      const before = lobes[i - 1];
      if (before) distance = union(distance, segmentDistance(before.x, before.y, lobe.x, lobe.y, x, y) - bridge, 0.5);
    });
    return distance;
  };
}

/** A large bean: an ellipse with a bite. */
function kidneyNucleus(random: Random, radius: number): NucleusShape {
  const angle = random.between(0, 2 * Math.PI);
  const body: Lobe = { x: 0, y: 0, r: radius, stretch: random.between(1.08, 1.2), angle: angle + Math.PI / 2 };
  const biteRadius = radius * random.between(0.5, 0.7);
  const biteAt = radius * random.between(1, 1.15);
  return (x, y) => {
    const bite = Math.hypot(x - Math.cos(angle) * biteAt, y - Math.sin(angle) * biteAt) - biteRadius;
    // Smooth subtraction: the intersection of the body with the outside of the bite.
    return -union(-lobeDistance(body, x, y), bite, 0.6);
  };
}

function roundNucleus(random: Random, radius: number, offset: number): NucleusShape {
  const angle = random.between(0, 2 * Math.PI);
  const lobe: Lobe = {
    x: Math.cos(angle) * offset,
    y: Math.sin(angle) * offset,
    r: radius,
    stretch: random.between(1, 1.07),
    angle: random.between(0, Math.PI),
  };
  return (x, y) => lobeDistance(lobe, x, y);
}

interface Granules {
  readonly colour: Colour;
  readonly count: number;
  readonly radius: readonly [number, number];
  readonly strength: number;
  readonly overNucleus: boolean;
  readonly alpha: number;
}

interface Recipe {
  readonly wobble: number;
  readonly cytoplasm: Colour;
  readonly cytoplasmStrength: number;
  /** How much the cytoplasm's density varies. */
  readonly mottle: number;
  readonly nucleus: (random: Random, radius: number) => NucleusShape;
  readonly nucleusStrength: number;
  /** Contrast of the chromatin's clumps, and how many there are per µm. */
  readonly clumps: number;
  readonly clumpsPerUm: number;
  readonly granules: readonly Granules[];
}

const RECIPES: Readonly<Record<DrawnCell, Recipe>> = {
  neutrophil: {
    wobble: 0.035,
    cytoplasm: PINK,
    cytoplasmStrength: 1.15,
    mottle: 0.25,
    nucleus: (random, radius) => lobedNucleus(random, random.integer(3, 4), radius * 0.33, radius * 0.46, 0.42),
    nucleusStrength: 1,
    clumps: 0.55,
    clumpsPerUm: 0.95,
    granules: [{ colour: VIOLET, count: 170, radius: [0.1, 0.2], strength: 0.8, overNucleus: false, alpha: 0.5 }],
  },
  lymphocyte: {
    wobble: 0.03,
    cytoplasm: BLUE,
    cytoplasmStrength: 1.1,
    mottle: 0.15,
    nucleus: (random, radius) => roundNucleus(random, radius * 0.83, radius * 0.08),
    nucleusStrength: 1,
    clumps: 0.42,
    clumpsPerUm: 0.7,
    granules: [],
  },
  monocyte: {
    wobble: 0.07,
    cytoplasm: GREY_BLUE,
    cytoplasmStrength: 1,
    mottle: 0.25,
    nucleus: (random, radius) => kidneyNucleus(random, radius * 0.62),
    nucleusStrength: 0.8,
    clumps: 0.45,
    clumpsPerUm: 0.8,
    granules: [{ colour: VIOLET, count: 160, radius: [0.08, 0.14], strength: 0.6, overNucleus: false, alpha: 0.35 }],
  },
  eosinophil: {
    wobble: 0.03,
    cytoplasm: PINK,
    cytoplasmStrength: 1.3,
    mottle: 0.2,
    nucleus: (random, radius) => lobedNucleus(random, 2, radius * 0.39, radius * 0.44, 0.5),
    nucleusStrength: 0.92,
    clumps: 0.5,
    clumpsPerUm: 0.9,
    granules: [{ colour: ORANGE, count: 420, radius: [0.3, 0.48], strength: 1, overNucleus: false, alpha: 0.85 }],
  },
  basophil: {
    wobble: 0.05,
    cytoplasm: VIOLET,
    cytoplasmStrength: 0.45,
    mottle: 0.35,
    nucleus: (random, radius) => lobedNucleus(random, 3, radius * 0.42, radius * 0.34, 1.2),
    nucleusStrength: 0.82,
    clumps: 0.3,
    clumpsPerUm: 0.8,
    granules: [
      { colour: DARK_VIOLET, count: 150, radius: [0.22, 0.42], strength: 0.9, overNucleus: true, alpha: 0.85 },
    ],
  },
};

function drawWhiteCell(
  canvas: Canvas,
  random: Random,
  type: DrawnCell,
  xUm: number,
  yUm: number,
  stain: Stain,
): TruthCell | undefined {
  const recipe = RECIPES[type];
  const radius = (DIAMETER_UM[type] / 2) * (1 + 0.04 * random.normal());
  const edgeOf = outline(random, radius, recipe.wobble);
  const nucleus = recipe.nucleus(random, radius);
  const seed = random.integer(1, 1e6);
  const reach = radius * 1.35;
  const labels = new Map<number, number>();
  const warp = (x: number, y: number, axis: number): number => 0.45 * valueNoise(x * 0.45, y * 0.45, seed + 7 + axis);
  const nucleusAt = (dx: number, dy: number): number => nucleus(dx + warp(dx, dy, 0), dy + warp(dx, dy, 1));
  visit(canvas, xUm, yUm, reach, (at, dx, dy) => {
    const r = Math.hypot(dx, dy);
    const limit = edgeOf(Math.atan2(dy, dx));
    const alpha = cover(r - limit, canvas.edge + 0.2);
    if (alpha <= 0) return;
    const mottle = 1 + recipe.mottle * fractalNoise(dx * 0.7, dy * 0.7, seed);
    // The border of the cell is a little denser: it is seen edge on.
    const rim = 0.12 * smooth(limit - 1.2, limit - 0.1, r);
    mix(canvas, at, recipe.cytoplasm, stain.azure * recipe.cytoplasmStrength * (mottle + rim), alpha);
    if (alpha >= 0.5) labels.set(at, nucleusAt(dx, dy) < 0 ? 255 : 128);
  });
  const granules = recipe.granules;
  for (const kind of granules) if (!kind.overNucleus) scatter(canvas, random, kind, xUm, yUm, edgeOf, radius, stain);
  visit(canvas, xUm, yUm, reach, (at, dx, dy) => {
    const distance = nucleusAt(dx, dy);
    const alpha = cover(distance, canvas.edge + 0.16);
    if (alpha <= 0) return;
    const { clumpsPerUm: f } = recipe;
    const clumps = fractalNoise(dx * f, dy * f, seed + 20);
    const fine = valueNoise(dx * f * 3.1, dy * f * 3.1, seed + 30);
    const membrane = 0.1 * cover(Math.abs(distance + 0.25) - 0.25, 0.2);
    const density = 1 + recipe.clumps * (1.25 * clumps + 0.3 * fine) + membrane;
    mix(canvas, at, NUCLEUS, stain.azure * recipe.nucleusStrength * density, alpha);
  });
  for (const kind of granules) if (kind.overNucleus) scatter(canvas, random, kind, xUm, yUm, edgeOf, radius, stain);
  return truthOf(canvas, type, xUm, yUm, radius, labels);
}

/** Granules at random places inside the outline. */
function scatter(
  canvas: Canvas,
  random: Random,
  kind: Granules,
  xUm: number,
  yUm: number,
  edgeOf: (angle: number) => number,
  radius: number,
  stain: Stain,
): void {
  for (let i = 0; i < kind.count; i++) {
    const angle = random.between(0, 2 * Math.PI);
    const size = random.between(...kind.radius);
    const distance = Math.sqrt(random.next()) * (edgeOf(angle) - size * 0.9);
    const strength = kind.strength * random.between(0.75, 1.15) * (kind.colour === ORANGE ? stain.eosin : stain.azure);
    if (distance > radius * 1.3) continue;
    visit(canvas, xUm + Math.cos(angle) * distance, yUm + Math.sin(angle) * distance, size * 2, (at, dx, dy) => {
      const alpha = cover(Math.hypot(dx, dy) - size, canvas.edge * 0.6 + 0.1) * kind.alpha;
      if (alpha > 0) mix(canvas, at, kind.colour, strength, alpha);
    });
  }
}

function truthOf(
  canvas: Canvas,
  type: DrawnCell,
  xUm: number,
  yUm: number,
  radius: number,
  labels: ReadonlyMap<number, number>,
): TruthCell | undefined {
  if (labels.size === 0) return undefined;
  const xs = [...labels.keys()].map((at) => at % canvas.width);
  const ys = [...labels.keys()].map((at) => Math.floor(at / canvas.width));
  const x = xs.reduce((a, b) => Math.min(a, b));
  const y = ys.reduce((a, b) => Math.min(a, b));
  const width = xs.reduce((a, b) => Math.max(a, b)) - x + 1;
  const height = ys.reduce((a, b) => Math.max(a, b)) - y + 1;
  const mask = new Uint8Array(width * height);
  for (const [at, label] of labels) {
    mask[(Math.floor(at / canvas.width) - y) * width + (at % canvas.width) - x] = label;
  }
  const { scale } = canvas;
  return { class: type, x: xUm / scale, y: yUm / scale, radius: radius / scale, box: { x, y, width, height }, mask };
}

interface Spot {
  readonly x: number;
  readonly y: number;
  readonly r: number;
}

/** Accepts points that keep their distance from earlier ones, in buckets so that large fields stay linear. */
class Spots {
  private readonly buckets = new Map<string, Spot[]>();
  private static readonly side = 20;

  free(spot: Spot, share: number): boolean {
    const bx = Math.floor(spot.x / Spots.side);
    const by = Math.floor(spot.y / Spots.side);
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        for (const other of this.buckets.get(`${bx + dx},${by + dy}`) ?? []) {
          if (Math.hypot(other.x - spot.x, other.y - spot.y) < (other.r + spot.r) * share) return false;
        }
      }
    }
    return true;
  }

  put(spot: Spot): void {
    const key = `${Math.floor(spot.x / Spots.side)},${Math.floor(spot.y / Spots.side)}`;
    const bucket = this.buckets.get(key);
    if (bucket) bucket.push(spot);
    else this.buckets.set(key, [spot]);
  }
}

/** Draws the field. The same seed with the same size in µm gives the same scene at any µm per pixel. */
export function drawSmear(options: SmearOptions): Smear {
  const { width, height, micronsPerPixel: scale, stain = CREAM_STAIN, overlap = true } = options;
  const layout = createRandom(options.seed);
  const widthUm = width * scale;
  const heightUm = height * scale;
  const white = new Spots();
  const planned: { type: DrawnCell; x: number; y: number; seed: number }[] = [];
  const plan = (type: DrawnCell, x: number, y: number): void => {
    white.put({ x, y, r: DIAMETER_UM[type] / 2 });
    planned.push({ type, x, y, seed: layout.integer(1, 2 ** 30) });
  };
  for (const { class: type, xUm, yUm } of options.placed ?? []) plan(type, xUm, yUm);
  for (const [type, count] of Object.entries(options.cells ?? {}) as [DrawnCell, number][]) {
    for (let i = 0; i < count; i++) {
      const r = DIAMETER_UM[type] / 2;
      const margin = r * 1.2;
      let tries = 0;
      let spot: Spot;
      do {
        if (++tries > 2000) throw new Error(`No room for ${count} ${type} in ${widthUm} × ${heightUm} µm`);
        spot = { x: layout.between(margin, widthUm - margin), y: layout.between(margin, heightUm - margin), r };
      } while (!white.free(spot, 1.15));
      plan(type, spot.x, spot.y);
    }
  }

  const canvas: Canvas = {
    width,
    height,
    scale,
    density: new Float32Array(width * height * 3),
    edge: Math.max(0.06, scale * 0.6),
  };
  // Red cells reach past the border, as in any field of view.
  const radius = DIAMETER_UM.red / 2;
  const wanted = Math.round(
    ((widthUm + 8) * (heightUm + 8) * (options.redCellCover ?? 0.38)) / (Math.PI * radius ** 2),
  );
  const red = new Spots();
  let redCells = 0;
  for (let tries = 0; redCells < wanted && tries < wanted * 30; tries++) {
    const spot = { x: layout.between(-4, widthUm + 4), y: layout.between(-4, heightUm + 4), r: radius };
    const seed = layout.integer(1, 2 ** 30);
    if (!red.free(spot, overlap ? 0.72 : 1.03) || !white.free(spot, 0.99)) continue;
    red.put(spot);
    redCells++;
    drawRedCell(canvas, createRandom(seed), spot.x, spot.y, stain);
  }
  for (let i = 0; i < redCells * (options.platelets ?? 0.06); i++) {
    const spot = { x: layout.between(0, widthUm), y: layout.between(0, heightUm), r: 1.2 };
    const seed = layout.integer(1, 2 ** 30);
    if (white.free(spot, 1.1) && red.free(spot, 0.95)) drawPlatelet(canvas, createRandom(seed), spot.x, spot.y, stain);
  }
  const cells: TruthCell[] = [];
  for (const { type, x, y, seed } of planned) {
    const truth = drawWhiteCell(canvas, createRandom(seed), type, x, y, stain);
    if (truth !== undefined) cells.push(truth);
  }
  cells.sort((a, b) => a.box.y - b.box.y || a.box.x - b.box.x);
  return { width, height, micronsPerPixel: scale, cells, redCells, data: expose(canvas, options, stain) };
}

/** From densities to pixels: blur, lamp, camera noise. */
function expose(canvas: Canvas, options: SmearOptions, stain: Stain): Uint8Array {
  const { width, height } = canvas;
  const light = new Float32Array(width * height * 3);
  for (let i = 0; i < light.length; i++) light[i] = 10 ** -(canvas.density[i] ?? 0);
  blur(light, width, height, (options.blurUm ?? 0.12) / canvas.scale);
  const random = createRandom(options.seed + 99);
  const noise = options.noise ?? 1.5;
  const vignette = options.vignette ?? 0.06;
  const lampX = 0.5 + random.normal() * 0.06;
  const lampY = 0.5 + random.normal() * 0.06;
  const out = new Uint8Array(light.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const fromLamp = ((x + 0.5) / width - lampX) ** 2 + ((y + 0.5) / height - lampY) ** 2;
      const unevenness = 0.008 * valueNoise((x * canvas.scale) / 25, (y * canvas.scale) / 25, options.seed);
      const lamp = 1 - vignette * 2 * fromLamp + unevenness;
      const at = (y * width + x) * 3;
      for (let c = 0; c < 3; c++) {
        const value = (light[at + c] ?? 0) * (stain.background[c] ?? 0) * lamp;
        out[at + c] = Math.round(Math.min(255, Math.max(0, value + (noise > 0 ? random.normal() * noise : 0))));
      }
    }
  }
  return out;
}

/** Separable Gaussian in place; sigma in pixels. */
function blur(data: Float32Array, width: number, height: number, sigma: number): void {
  if (sigma < 0.2) return;
  const reach = Math.ceil(sigma * 2.5);
  const kernel = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-((i - reach) ** 2) / (2 * sigma * sigma)));
  const total = kernel.reduce((a, b) => a + b, 0);
  const line = new Float32Array(Math.max(width, height));
  const pass = (count: number, length: number, start: (i: number) => number, step: number): void => {
    for (let i = 0; i < count; i++) {
      const from = start(i);
      for (let k = 0; k < length; k++) line[k] = data[from + k * step] ?? 0;
      for (let k = 0; k < length; k++) {
        let sum = 0;
        for (let t = -reach; t <= reach; t++) {
          sum += (kernel[t + reach] ?? 0) * (line[Math.min(length - 1, Math.max(0, k + t))] ?? 0);
        }
        data[from + k * step] = sum / total;
      }
    }
  };
  for (let c = 0; c < 3; c++) {
    pass(height, width, (y) => y * width * 3 + c, 3);
    pass(width, height, (x) => x * 3 + c, width * 3);
  }
}
