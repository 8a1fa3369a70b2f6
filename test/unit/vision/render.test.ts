import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { CELL_TYPES } from '../../../src/hematology/cell-types.js';
import { dotAt, GLYPH_HEIGHT, GLYPH_WIDTH } from '../../../src/vision/bitmap-font.js';
import { decodeGreyPng, encodeGreyPng, encodeRgbPng } from '../../../src/vision/png.js';
import { type LabelledCell, renderCam, renderMask, renderOverlay, renderSaliency } from '../../../src/vision/render.js';

/** A square cell with a square nucleus. */
function square(x: number, y: number, side: number, over: Partial<LabelledCell> = {}): LabelledCell {
  const data = new Uint8Array(side * side).fill(128);
  for (let i = 0; i < data.length; i++) {
    const [u, v] = [i % side, Math.floor(i / side)];
    if (Math.min(u, v, side - 1 - u, side - 1 - v) >= side / 4) data[i] = 255;
  }
  const box = { x, y, width: side, height: side };
  return { box, mask: { width: side, height: side, data }, class: 'neutrophil', confidence: 0.93, ...over };
}

async function rgb(png: Uint8Array) {
  const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
  return {
    width: info.width,
    height: info.height,
    channels: info.channels,
    at: (x: number, y: number) => [
      ...data.subarray((y * info.width + x) * info.channels, (y * info.width + x + 1) * info.channels),
    ],
  };
}

const white = (width: number, height: number) =>
  encodeRgbPng({ width, height, data: new Uint8Array(width * height * 3).fill(230) });

describe('renderMask', () => {
  it('holds 0, 128 and 255 at the posted size, from rasters and from stored PNG alike', async () => {
    const cells = [square(10, 20, 12), square(16, 26, 8)];
    const stored = await Promise.all(
      cells.map(async (cell) => ({
        ...cell,
        mask: await encodeGreyPng(cell.mask as { width: number; height: number; data: Uint8Array }),
      })),
    );
    const png = await renderMask(60, 50, cells);
    expect(Buffer.compare(png, await renderMask(60, 50, stored))).toBe(0);
    const mask = await decodeGreyPng(png);
    expect([mask.width, mask.height]).toEqual([60, 50]);
    expect([mask.data[0], mask.data[20 * 60 + 10], mask.data[25 * 60 + 15]]).toEqual([0, 128, 255]);
    // The background of a later cell's box does not erase an earlier cell.
    expect(new Set(mask.data)).toEqual(new Set([0, 128, 255]));
  });

  it('is black without cells', async () => {
    const mask = await decodeGreyPng(await renderMask(9, 4, []));
    expect([mask.data.length, new Set(mask.data)]).toEqual([36, new Set([0])]);
  });
});

describe('renderOverlay', () => {
  it('draws on the posted image at its size: outline in the class colour, nucleus white, inside untouched', async () => {
    const overlay = await rgb(await renderOverlay(await white(400, 300), [square(100, 100, 100)]));
    expect([overlay.width, overlay.height]).toEqual([400, 300]);
    const [r = 0, , b = 0] = overlay.at(100, 150);
    expect(b - r).toBeGreaterThan(80);
    expect(overlay.at(125, 150).every((v) => v > 245)).toBe(true);
    expect(overlay.at(110, 150)).toEqual([230, 230, 230]);
    expect(overlay.at(150, 150)).toEqual([230, 230, 230]);
    expect(overlay.at(300, 250)).toEqual([230, 230, 230]);
  });

  it('writes a label of class and confidence beside each cell', async () => {
    const background = await white(400, 300);
    const at = (confidence: number) => renderOverlay(background, [square(100, 100, 100, { confidence })]);
    expect(Buffer.compare(await at(0.93), await at(0.39))).not.toBe(0);
    const lymphocyte = await renderOverlay(background, [square(100, 100, 100, { class: 'lymphocyte' })]);
    expect(Buffer.compare(lymphocyte, await at(0.93))).not.toBe(0);
    // Label above the cell.
    const overlay = await rgb(await at(0.93));
    const row = Array.from({ length: 100 }, (_, i) => overlay.at(100 + i, 90).join());
    expect(new Set(row).size).toBeGreaterThan(1);
  });

  it('draws every class, at every border, and in pictures smaller than a label', async () => {
    for (const type of CELL_TYPES) {
      for (const [x, y] of [
        [0, 0],
        [30, 0],
        [0, 30],
        [30, 30],
      ] as const) {
        const overlay = await rgb(await renderOverlay(await white(60, 60), [square(x, y, 30, { class: type })]));
        expect([overlay.width, overlay.height]).toEqual([60, 60]);
      }
    }
    const tiny = await rgb(await renderOverlay(await white(8, 6), [square(0, 0, 5)]));
    expect([tiny.width, tiny.height]).toEqual([8, 6]);
  });

  it('gives every class a colour or a line of its own', async () => {
    const pictures = new Set<string>();
    for (const type of CELL_TYPES) {
      const png = await renderOverlay(await white(200, 200), [square(60, 60, 90, { class: type, confidence: 0.5 })]);
      pictures.add(png.toString('base64'));
    }
    expect(pictures.size).toBe(CELL_TYPES.length);
  });

  it('refuses what is not an image', async () => {
    await expect(renderOverlay(Buffer.from('%PDF-1.4'), [])).rejects.toMatchObject({
      code: 'unsupported-image-format',
    });
  });
});

describe('the font', () => {
  it('has a picture of its own for every letter that a label can hold', () => {
    const pictures = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%?. '].map((letter) =>
      Array.from({ length: GLYPH_WIDTH * GLYPH_HEIGHT }, (_, i) =>
        dotAt(letter, i % GLYPH_WIDTH, Math.floor(i / GLYPH_WIDTH)) ? '#' : '.',
      ).join(''),
    );
    expect(new Set(pictures).size).toBe(pictures.length);
  });
  it('shows a question mark for others', () => {
    expect(dotAt('ü', 1, 0)).toBe(dotAt('?', 1, 0));
  });
});

describe('renderSaliency and renderCam', () => {
  const map = { width: 4, height: 3, data: Uint8Array.of(0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0, 0) };
  it('enlarges to the posted size, as grey or as heat', async () => {
    const png = await renderSaliency(map, 80, 60);
    expect((await sharp(png).metadata()).channels).toBe(1);
    const grey = await rgb(png);
    expect([grey.width, grey.height]).toEqual([80, 60]);
    expect(grey.at(40, 30)[0]).toBeGreaterThan(230);
    expect(grey.at(3, 3)[0]).toBeLessThan(20);
    const heat = await rgb(await renderSaliency(await encodeGreyPng(map), 80, 60, 'heat'));
    expect([heat.width, heat.height, heat.channels]).toEqual([80, 60, 3]);
    expect((heat.at(40, 30)[0] ?? 0) - (heat.at(3, 3)[0] ?? 0)).toBeGreaterThan(150);
  });

  it('lays the class activation over the crop', async () => {
    const crop = { width: 40, height: 40, data: new Uint8Array(4800).fill(100) };
    const cam = await rgb(await renderCam(await encodeRgbPng(crop), map));
    expect([cam.width, cam.height]).toEqual([40, 40]);
    expect((cam.at(20, 20)[0] ?? 0) - (cam.at(1, 1)[0] ?? 0)).toBeGreaterThan(60);
    expect(
      Buffer.compare(await renderCam(crop, map), await renderCam(await encodeRgbPng(crop), await encodeGreyPng(map))),
    ).toBe(0);
  });
});
