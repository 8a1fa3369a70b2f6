/** Pictures of a result: label mask, overlay, saliency, class activation. All return PNG bytes. */
import sharp from 'sharp';
import type { CellType } from '../hematology/cell-types.js';
import { dotAt, GLYPH_ADVANCE, GLYPH_HEIGHT, GLYPH_WIDTH, textWidth } from './bitmap-font.js';
import { decodeImage } from './decode.js';
import { decodeGreyPng, encodeGreyPng, encodeRgbPng, PNG } from './png.js';
import { nextTurn } from './raster.js';
import type { Box, GreyImage, RgbImage } from './types.js';

/** What drawing a cell needs. `mask` may be the PNG that was stored for it. */
export interface RenderableCell {
  readonly box: Box;
  readonly mask: GreyImage | Uint8Array;
}

export interface LabelledCell extends RenderableCell {
  readonly class: CellType;
  /** 0–1. */
  readonly confidence: number;
}

type Colour = readonly [red: number, green: number, blue: number];

interface ClassStyle {
  readonly label: string;
  readonly colour: Colour;
  readonly dashed: boolean;
}

/**
 * After the Okabe–Ito palette, which stays apart for colour-blind readers; what has to be looked at (precursors,
 * unidentified) is dashed, and the label says the class in any case.
 */
const STYLES: Readonly<Record<CellType, ClassStyle>> = {
  neutrophil: { label: 'NEU', colour: [0, 114, 178], dashed: false },
  lymphocyte: { label: 'LYM', colour: [0, 158, 115], dashed: false },
  monocyte: { label: 'MON', colour: [230, 159, 0], dashed: false },
  eosinophil: { label: 'EOS', colour: [213, 94, 0], dashed: false },
  basophil: { label: 'BAS', colour: [86, 180, 233], dashed: false },
  immature_granulocyte: { label: 'IG', colour: [240, 228, 66], dashed: true },
  blast: { label: 'BLAST', colour: [204, 0, 60], dashed: true },
  erythroblast: { label: 'NRBC', colour: [0, 0, 0], dashed: true },
  platelet: { label: 'PLT', colour: [120, 120, 120], dashed: true },
  smudge: { label: 'SMU', colour: [120, 120, 120], dashed: true },
  artefact: { label: 'ART', colour: [120, 120, 120], dashed: true },
  unidentified: { label: '?', colour: [255, 255, 255], dashed: true },
};

/** Rendering draws what was accepted once already, so only the format's own bounds apply. */
const NO_LIMITS = { maxBytes: Number.MAX_SAFE_INTEGER, maxPixels: Number.MAX_SAFE_INTEGER };

const isRaster = (value: GreyImage | RgbImage | Uint8Array): value is GreyImage | RgbImage =>
  !(value instanceof Uint8Array);
const greyOf = async (value: GreyImage | Uint8Array): Promise<GreyImage> =>
  isRaster(value) ? value : decodeGreyPng(value);

/** Label mask of the whole image as grey PNG: 0 background, 128 cytoplasm, 255 nucleus. */
export async function renderMask(width: number, height: number, cells: readonly RenderableCell[]): Promise<Buffer> {
  const canvas = new Uint8Array(width * height);
  for (const { box, mask } of cells) {
    const { data } = await greyOf(mask);
    for (let y = 0; y < box.height; y++) {
      for (let x = 0; x < box.width; x++) {
        const label = data[y * box.width + x] ?? 0;
        if (label !== 0) canvas[(box.y + y) * width + box.x + x] = label;
      }
    }
  }
  return encodeGreyPng({ width, height, data: canvas });
}

/**
 * The posted image with the outlines of cells (coloured by class) and nuclei (white), and at each cell a label with the
 * short class name and the confidence in percent. Throws UndecodableImageError.
 */
export async function renderOverlay(imageBytes: Uint8Array, cells: readonly LabelledCell[]): Promise<Buffer> {
  const { image } = await decodeImage(imageBytes, NO_LIMITS);
  const canvas: RgbImage = { width: image.width, height: image.height, data: new Uint8Array(image.data) };
  const { stroke, fontSize } = strokeAndFont(canvas, cells);
  const taken: Box[] = [];
  for (const cell of cells) {
    const mask = await greyOf(cell.mask);
    const style = STYLES[cell.class];
    drawOutline(canvas, cell.box, mask, (label) => label === 255, Math.max(1, stroke * 0.75), [255, 255, 255], false);
    drawOutline(canvas, cell.box, mask, (label) => label !== 0, stroke + 1.6, [0, 0, 0], false, 0.45);
    drawOutline(canvas, cell.box, mask, (label) => label !== 0, stroke, style.colour, style.dashed);
    await nextTurn();
  }
  for (const cell of cells) {
    const style = STYLES[cell.class];
    drawLabel(canvas, cell.box, `${style.label} ${Math.round(cell.confidence * 100)}%`, style.colour, fontSize, taken);
  }
  return encodeRgbPng(canvas);
}

/** Line width in pixels and dot size of the font: from the picture's size, but never coarse against the cells. */
function strokeAndFont(image: RgbImage, cells: readonly LabelledCell[]): { stroke: number; fontSize: number } {
  const diameters = cells.map(({ box }) => Math.max(box.width, box.height)).sort((a, b) => a - b);
  const typical = diameters[Math.floor(diameters.length / 2)] ?? 100;
  const longest = Math.max(image.width, image.height);
  return {
    stroke: Math.max(1, Math.min(longest / 420, typical / 28)),
    fontSize: Math.max(1, Math.round(Math.min(longest / 400, (typical * 1.2) / textWidth('NEU 100%')))),
  };
}

function blend(image: RgbImage, x: number, y: number, colour: Colour, alpha: number): void {
  if (x < 0 || y < 0 || x >= image.width || y >= image.height) return;
  const at = (y * image.width + x) * 3;
  for (let c = 0; c < 3; c++) {
    image.data[at + c] = Math.round((image.data[at + c] ?? 0) * (1 - alpha) + (colour[c] ?? 0) * alpha);
  }
}

/** A line along the border of the mask's pixels that `inside` accepts, anti-aliased; dashes go by the angle. */
function drawOutline(
  image: RgbImage,
  box: Box,
  mask: GreyImage,
  inside: (label: number) => boolean,
  stroke: number,
  colour: Colour,
  dashed: boolean,
  opacity = 1,
): void {
  const reach = Math.ceil(stroke / 2 + 1);
  const width = box.width + 2 * reach;
  const height = box.height + 2 * reach;
  const coverage = new Float32Array(width * height);
  const isInside = (x: number, y: number): boolean =>
    x >= 0 && y >= 0 && x < box.width && y < box.height && inside(mask.data[y * box.width + x] ?? 0);
  for (let y = 0; y < box.height; y++) {
    for (let x = 0; x < box.width; x++) {
      if (!isInside(x, y)) continue;
      const edge = !isInside(x - 1, y) || !isInside(x + 1, y) || !isInside(x, y - 1) || !isInside(x, y + 1);
      if (!edge || (dashed && isGap(x - box.width / 2, y - box.height / 2))) continue;
      for (let dy = -reach; dy <= reach; dy++) {
        for (let dx = -reach; dx <= reach; dx++) {
          const value = Math.min(1, stroke / 2 + 0.5 - Math.hypot(dx, dy));
          const at = (y + dy + reach) * width + x + dx + reach;
          if (value > (coverage[at] ?? 0)) coverage[at] = value;
        }
      }
    }
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const alpha = (coverage[y * width + x] ?? 0) * opacity;
      if (alpha > 0) blend(image, box.x + x - reach, box.y + y - reach, colour, alpha);
    }
  }
}

const DASHES = 18;
const isGap = (x: number, y: number): boolean => {
  const turn = (Math.atan2(y, x) / (2 * Math.PI) + 1) * DASHES;
  return turn - Math.floor(turn) > 0.6;
};

/** Writes a label beside the cell: above it, else below, right, left, wherever no other label stands. */
function drawLabel(image: RgbImage, box: Box, text: string, colour: Colour, dot: number, taken: Box[]): void {
  const width = (textWidth(text) + 4) * dot;
  const height = (GLYPH_HEIGHT + 4) * dot;
  const gap = dot * 2;
  const centredX = box.x + (box.width - width) / 2;
  const places: (readonly [number, number])[] = [
    [centredX, box.y - height - gap],
    [centredX, box.y + box.height + gap],
    [box.x + box.width + gap, box.y + (box.height - height) / 2],
    [box.x - width - gap, box.y + (box.height - height) / 2],
    [centredX, box.y + gap],
  ];
  const fitted = places.map(([x, y]) => ({
    x: Math.round(Math.min(Math.max(x, 0), Math.max(0, image.width - width))),
    y: Math.round(Math.min(Math.max(y, 0), Math.max(0, image.height - height))),
    width,
    height,
  }));
  const shifted = (place: Box, i: number): number =>
    Math.abs(place.x - (places[i]?.[0] ?? 0)) + Math.abs(place.y - (places[i]?.[1] ?? 0));
  const free = fitted.find(
    (place, i) => shifted(place, i) <= width / 2 && !taken.some((other) => intersects(place, other)),
  );
  const place = free ?? fitted[0];
  if (place === undefined) return;
  taken.push(place);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) blend(image, place.x + x, place.y + y, colour, 0.88);
  }
  const light = colour[0] * 0.299 + colour[1] * 0.587 + colour[2] * 0.114 > 140;
  const ink: Colour = light ? [0, 0, 0] : [255, 255, 255];
  for (const [i, letter] of [...text].entries()) {
    for (let y = 0; y < GLYPH_HEIGHT * dot; y++) {
      for (let x = 0; x < GLYPH_WIDTH * dot; x++) {
        if (!dotAt(letter, Math.floor(x / dot), Math.floor(y / dot))) continue;
        blend(image, place.x + (2 + i * GLYPH_ADVANCE) * dot + x, place.y + 2 * dot + y, ink, 1);
      }
    }
  }
}

const intersects = (a: Box, b: Box): boolean =>
  a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

/** Black, violet, red, orange, pale yellow: luminance grows evenly, so it reads in grey as well. */
const HEAT: readonly Colour[] = [
  [0, 0, 8],
  [66, 14, 104],
  [150, 38, 100],
  [222, 78, 54],
  [250, 160, 30],
  [252, 250, 190],
];

function heat(value: number): Colour {
  const position = (Math.min(255, Math.max(0, value)) / 255) * (HEAT.length - 1);
  const low = HEAT[Math.floor(position)] ?? [0, 0, 0];
  const high = HEAT[Math.ceil(position)] ?? low;
  const f = position - Math.floor(position);
  return [low[0] + (high[0] - low[0]) * f, low[1] + (high[1] - low[1]) * f, low[2] + (high[2] - low[2]) * f];
}

function heatPixels(values: Uint8Array): Uint8Array {
  const table = Uint8Array.from({ length: 256 * 3 }, (_, i) => heat(Math.floor(i / 3))[i % 3] ?? 0);
  const out = new Uint8Array(values.length * 3);
  for (const [i, value] of values.entries()) out.set(table.subarray(value * 3, value * 3 + 3), i * 3);
  return out;
}

/** The saliency map (raster or stored PNG) enlarged to the posted size, as grey or as heat map. */
export async function renderSaliency(
  saliency: GreyImage | Uint8Array,
  width: number,
  height: number,
  style: 'grey' | 'heat' = 'grey',
): Promise<Buffer> {
  const map = await greyOf(saliency);
  const raster = { width: map.width, height: map.height };
  const size = { fit: 'fill', kernel: 'cubic' } as const;
  if (style === 'heat') {
    const coloured = sharp(heatPixels(map.data), { raw: { ...raster, channels: 3 }, limitInputPixels: false });
    return coloured.resize(width, height, size).png(PNG).toBuffer();
  }
  const grey = sharp(map.data, { raw: { ...raster, channels: 1 }, limitInputPixels: false });
  // One channel has to be asked for, or the PNG is written as RGB.
  return grey.resize(width, height, size).toColourspace('b-w').png(PNG).toBuffer();
}

/** Class activation (raster or stored PNG) as heat over the crop (raster or stored PNG), at the crop's size. */
export async function renderCam(crop: RgbImage | Uint8Array, cam: GreyImage | Uint8Array): Promise<Buffer> {
  const base = isRaster(crop) ? (crop as RgbImage) : (await decodeImage(crop, NO_LIMITS)).image;
  const map = await greyOf(cam);
  const { data, info } = await sharp(map.data, { raw: { width: map.width, height: map.height, channels: 1 } })
    .resize(base.width, base.height, { fit: 'fill', kernel: 'cubic' })
    .raw()
    .toBuffer({ resolveWithObject: true });
  const out: RgbImage = { width: base.width, height: base.height, data: new Uint8Array(base.data) };
  for (let p = 0; p < base.width * base.height; p++) {
    const value = data[p * info.channels] ?? 0;
    // What did not count stays visible as picture; what did count is covered by its heat.
    blend(out, p % base.width, Math.floor(p / base.width), heat(value), 0.15 + (0.5 * value) / 255);
  }
  return encodeRgbPng(out);
}
