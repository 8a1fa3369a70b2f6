import { describe, expect, it } from 'vitest';
import { assessQuality } from '../../../src/vision/quality.js';
import type { RgbImage } from '../../../src/vision/types.js';
import { drawSmear, NEUTRAL_STAIN, PINK_STAIN, type SmearOptions } from '../../support/smear.js';

/** Fields as the saliency network sees them. */
const field = (over: Partial<SmearOptions> = {}): RgbImage =>
  drawSmear({
    seed: 5,
    width: 260,
    height: 200,
    micronsPerPixel: 0.48,
    cells: { neutrophil: 3, lymphocyte: 2 },
    ...over,
  });
const flat = (value: number): RgbImage => ({ width: 100, height: 80, data: new Uint8Array(24_000).fill(value) });
const scaled = (image: RgbImage, by: (value: number) => number): RgbImage => ({ ...image, data: image.data.map(by) });

describe('assessQuality', async () => {
  it('finds nothing wrong with good fields of three stains', async () => {
    for (const over of [{}, { stain: NEUTRAL_STAIN }, { stain: PINK_STAIN }, { vignette: 0.2 }]) {
      expect((await assessQuality(field(over))).flags).toEqual([]);
    }
  });

  it('flags blur of two micrometres', async () => {
    const blurred = await assessQuality(field({ blurUm: 2 }));
    expect(blurred.flags).toEqual(['out_of_focus']);
    expect(blurred.sharpness).toBeLessThan((await assessQuality(field())).sharpness / 10);
  });

  it('flags darkness, glare and clipping', async () => {
    expect((await assessQuality(scaled(field(), (v) => v * 0.15))).flags).toContain('too_dark');
    expect((await assessQuality(flat(254))).flags).toEqual(['blank', 'too_bright']);
    expect((await assessQuality(scaled(field(), (v) => Math.min(255, v * 1.6)))).flags).toContain('clipped');
  });

  it('flags a blank field, black or empty, and finds it neither blurred nor clipped', async () => {
    expect((await assessQuality(flat(0))).flags).toEqual(['blank', 'too_dark']);
    expect((await assessQuality(flat(220))).flags).toEqual(['blank']);
    expect((await assessQuality(field({ redCellCover: 0, cells: {}, platelets: 0 }))).flags).toEqual(['blank']);
  });

  it('measures the share of clear glass', async () => {
    const sparse = (await assessQuality(field({ redCellCover: 0.1 }))).background;
    const dense = (await assessQuality(field({ redCellCover: 0.5 }))).background;
    expect(sparse).toBeGreaterThan(0.8);
    expect(dense).toBeLessThan(0.65);
    expect(dense).toBeGreaterThan(0.25);
  });

  it('passes on what others found', async () => {
    expect((await assessQuality(field(), ['scale_unknown'])).flags).toEqual(['scale_unknown']);
  });

  it('one pixel has a quality', async () => {
    const quality = await assessQuality({ width: 1, height: 1, data: Uint8Array.of(9, 200, 30) });
    for (const value of [quality.sharpness, quality.brightness, quality.clipped, quality.background]) {
      expect(Number.isFinite(value)).toBe(true);
    }
  });
});
