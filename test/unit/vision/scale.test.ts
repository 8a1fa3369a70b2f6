import { describe, expect, it } from 'vitest';
import type { FieldInput, FieldOutput } from '../../../src/vision/infer-messages.js';
import { parseManifest } from '../../../src/vision/manifest.js';
import { estimateScale, logProbabilityAt, octaveGrid, peakOf } from '../../../src/vision/scale.js';
import type { RgbImage } from '../../../src/vision/types.js';
import { manifestJson } from '../../support/model-manifest.js';

const spec = parseManifest(JSON.stringify(manifestJson())).saliency;

describe('logProbabilityAt', () => {
  const bins = Array.from({ length: 17 }, (_, i) => -i);
  it('hits bins, interpolates between them and holds the outermost beyond the ends', () => {
    expect(logProbabilityAt(bins, spec.scaleBins, -2)).toBe(-0);
    expect(logProbabilityAt(bins, spec.scaleBins, -1.75)).toBeCloseTo(-1);
    expect(logProbabilityAt(bins, spec.scaleBins, -1.625)).toBeCloseTo(-1.5);
    expect(logProbabilityAt(bins, spec.scaleBins, 2)).toBeCloseTo(-16);
    expect(logProbabilityAt(bins, spec.scaleBins, 9)).toBeCloseTo(-16);
    expect(logProbabilityAt(bins, spec.scaleBins, -9)).toBeCloseTo(0);
  });
});

describe('peakOf', () => {
  const grid = octaveGrid();
  it('finds a maximum between grid points', () => {
    for (const truth of [-3.02, -1.4, -0.97, 0.61]) {
      const { octave, confidence } = peakOf(
        grid,
        grid.map((o) => -40 * (o - truth) ** 2),
      );
      expect(octave).toBeCloseTo(truth, 3);
      expect(confidence).toBeGreaterThan(0.95);
    }
  });

  it('is confident only as far as the mass is near the maximum', () => {
    const flat = peakOf(grid, new Float64Array(grid.length));
    expect(flat.confidence).toBeLessThan(0.15);
    const two = peakOf(
      grid,
      grid.map((o) => Math.max(-60 * (o + 2) ** 2, -60 * o ** 2 - 0.01)),
    );
    expect(two.octave).toBeCloseTo(-2, 2);
    expect(two.confidence).toBeCloseTo(0.5, 1);
  });

  it('stays at the ends of the axis', () => {
    const { octave } = peakOf(
      grid,
      grid.map((o) => o),
    );
    expect(octave).toBe(grid.at(-1));
  });
});

/**
 * An observer with perfect sight in the network's place: it measures the period of a striped field, knows that the
 * stripes are 7.2 µm apart, and answers with log-probabilities like the network. Blind where stripes are too fine.
 */
function observer(periodUm: number, noise: number) {
  return async (input: FieldInput): Promise<FieldOutput> => {
    const row = Math.floor(input.height / 2);
    let crossings = 0;
    let first = -1;
    let last = -1;
    for (let x = 1; x < input.width; x++) {
      const a = input.rgb[(row * input.width + x - 1) * 3] ?? 0;
      const b = input.rgb[(row * input.width + x) * 3] ?? 0;
      if (a < 128 && b >= 128) {
        if (first < 0) first = x;
        else crossings++;
        last = x;
      }
    }
    const scale = new Float32Array(17).fill(Math.log(1 / 17));
    if (crossings > 0) {
      const period = (last - first) / crossings;
      const octave = Math.log2(periodUm / period / 0.48);
      const logits = Array.from(
        { length: 17 },
        (_, i) => -(((-2 + i * 0.25 - Math.min(2, Math.max(-2, octave))) / noise) ** 2) / 2,
      );
      const sum = Math.log(logits.reduce((total, l) => total + Math.exp(l), 0));
      logits.forEach((l, i) => {
        scale[i] = l - sum;
      });
    }
    const maps = new Float32Array((input.width * input.height) / 4);
    return { kind: 'field', width: input.width / 2, height: input.height / 2, saliency: maps, centres: maps, scale };
  };
}

function stripes(width: number, height: number, periodPx: number): RgbImage {
  const data = new Uint8Array(width * height * 3);
  for (let p = 0; p < width * height; p++) {
    const value = 128 + 110 * Math.sin((2 * Math.PI * ((p % width) + 0.5)) / periodPx);
    data.fill(value, p * 3, p * 3 + 3);
  }
  return { width, height, data };
}

describe('estimateScale', () => {
  it.each([
    [640, 480, 0.072],
    [640, 480, 0.15],
    [640, 480, 0.24],
    [640, 480, 0.33],
    [2592, 1944, 0.1],
    [120, 120, 0.2],
    [360, 363, 0.09],
    [1300, 200, 0.5],
  ])('a field of %i × %i at %f µm per pixel', async (width, height, micronsPerPixel) => {
    const estimate = await estimateScale(stripes(width, height, 7.2 / micronsPerPixel), spec, observer(7.2, 0.3));
    expect(Math.abs(Math.log2(estimate.micronsPerPixel / micronsPerPixel))).toBeLessThan(0.11);
    // An observer with a standard deviation of 0.3 octaves has 79 % of its mass within 0.375.
    expect(estimate.confidence).toBeGreaterThan(0.75);
  });

  it('is not confident where nothing can be measured', async () => {
    const grey = { width: 300, height: 200, data: new Uint8Array(300 * 200 * 3).fill(200) };
    const estimate = await estimateScale(grey, spec, observer(7.2, 0.3));
    expect(estimate.confidence).toBeLessThan(spec.scaleConfidence);
    expect(Number.isFinite(estimate.micronsPerPixel)).toBe(true);
  });

  it.each([
    [1, 1],
    [1, 700],
    [3, 2],
    [5000, 4],
  ])('survives %i × %i', async (width, height) => {
    const estimate = await estimateScale(stripes(width, height, 30), spec, observer(7.2, 0.3));
    expect(estimate.micronsPerPixel).toBeGreaterThan(0.01);
    expect(estimate.micronsPerPixel).toBeLessThan(1);
  });
});
