import { describe, expect, it } from 'vitest';
import { assessQuality } from '../../../src/vision/quality.js';
import { measureStain } from '../../../src/vision/stain.js';
import { drawSmear, NEUTRAL_STAIN } from '../../support/smear.js';

/** Half clear glass, half one colour. */
function halves(colour: readonly [number, number, number], glass = 240): Parameters<typeof measureStain>[0] {
  const data = Uint8Array.from({ length: 20 * 10 * 3 }, (_, i) => (i < 300 ? glass : (colour[i % 3] ?? 0)));
  return { width: 20, height: 10, data };
}

describe('the stain of a field', () => {
  it('is the optical density against the clear glass, and its red against its green', async () => {
    // A tenth of the light: density 1.
    const stain = await measureStain(halves([75.3, 23.1, 120], 240), 200);
    expect(stain?.density).toBeCloseTo(1, 1);
    expect(stain?.balance).toBeCloseTo(0.5, 1);
  });

  it('does not change with the lamp', async () => {
    const bright = await measureStain(halves([120, 80, 160], 240), 200);
    const dim = await measureStain(halves([59.5, 39.5, 79.5], 119), 100);
    expect(dim?.density).toBeCloseTo(bright?.density ?? 0, 1);
    expect(dim?.balance).toBeCloseTo(bright?.balance ?? 0, 1);
  });

  it('tells strong from weak, and pink from blue', async () => {
    const measured = async (eosin: number, azure: number) => {
      const stain = { ...NEUTRAL_STAIN, eosin, azure };
      const cells = { neutrophil: 3, lymphocyte: 2 };
      const smear = drawSmear({ seed: 5, width: 260, height: 200, micronsPerPixel: 0.48, cells, stain });
      return (await assessQuality(smear)).stain ?? { density: 0, balance: 0 };
    };
    const usual = await measured(1, 1);
    const strong = await measured(1.5, 1.5);
    expect(strong.density).toBeGreaterThan(usual.density * 1.2);
    const [pink, blue] = [await measured(1.2, 0.6), await measured(0.8, 1.4)];
    expect(blue.balance).toBeGreaterThan(pink.balance + 0.02);
  });

  it('is not told where nothing is stained', async () => {
    expect(await measureStain({ width: 10, height: 10, data: new Uint8Array(300).fill(230) }, 200)).toBeNull();
    expect(await measureStain({ width: 10, height: 10, data: new Uint8Array(300) }, 200)).toBeNull();
    expect((await assessQuality({ width: 100, height: 80, data: new Uint8Array(24_000).fill(220) })).stain).toBeNull();
  });
});
