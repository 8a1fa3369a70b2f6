import { describe, expect, it } from 'vitest';
import { measureRedCells } from '../../../src/vision/red-cells.js';
import { CREAM_STAIN, drawSmear, NEUTRAL_STAIN, PINK_STAIN, type SmearOptions } from '../../support/smear.js';

const field = (over: Partial<SmearOptions> = {}) =>
  drawSmear({
    seed: 9,
    width: 640,
    height: 480,
    micronsPerPixel: 0.15,
    redCellCover: 0.3,
    overlap: false,
    cells: { neutrophil: 2, lymphocyte: 2 },
    ...over,
  });

describe('measureRedCells', () => {
  it.each([
    ['cream', { stain: CREAM_STAIN }],
    ['neutral', { stain: NEUTRAL_STAIN }],
    ['pink', { stain: PINK_STAIN }],
    ['vignetted', { vignette: 0.4 }],
    ['noisy', { noise: 6 }],
    ['with overlaps', { overlap: true }],
  ] as const)('reads the scale from a field: %s', async (_name, over) => {
    const ruler = await measureRedCells(field(over), 0.15);
    expect(ruler?.count).toBeGreaterThanOrEqual(8);
    expect(Math.abs(Math.log2((ruler?.micronsPerPixel ?? 0) / 0.15))).toBeLessThan(0.1);
  });

  it.each([0.06, 0.1, 0.2, 0.33])('at %f µm per pixel', async (micronsPerPixel) => {
    const width = Math.round(96 / micronsPerPixel);
    const height = Math.round(72 / micronsPerPixel);
    const ruler = await measureRedCells(field({ width, height, micronsPerPixel }), micronsPerPixel);
    expect(Math.abs(Math.log2((ruler?.micronsPerPixel ?? 0) / micronsPerPixel))).toBeLessThan(0.1);
  });

  it('is not misled by a first guess that is off by half an octave', async () => {
    for (const guess of [0.15 / 1.4, 0.15 * 1.4]) {
      const ruler = await measureRedCells(field(), guess);
      expect(Math.abs(Math.log2((ruler?.micronsPerPixel ?? 0) / 0.15))).toBeLessThan(0.12);
    }
  });

  it('says nothing where there are no free red cells, few, or only white ones', async () => {
    expect(await measureRedCells(field({ redCellCover: 0 }), 0.15)).toBeUndefined();
    expect(await measureRedCells(field({ redCellCover: 0.02 }), 0.15)).toBeUndefined();
    expect(await measureRedCells(field({ width: 90, height: 90, cells: {} }), 0.15)).toBeUndefined();
    const grey = { width: 300, height: 300, data: new Uint8Array(270_000).fill(180) };
    expect(await measureRedCells(grey, 0.15)).toBeUndefined();
    const one = { width: 1, height: 1, data: Uint8Array.of(1, 2, 3) };
    expect(await measureRedCells(one, 0.15)).toBeUndefined();
  });
});
