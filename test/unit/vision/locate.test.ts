import { describe, expect, it } from 'vitest';
import type { FieldInput, FieldOutput } from '../../../src/vision/infer-messages.js';
import {
  chooseCandidates,
  fieldSize,
  findPeaks,
  locateAround,
  locateCells,
  tilesOf,
} from '../../../src/vision/locate.js';
import { parseManifest } from '../../../src/vision/manifest.js';
import type { FieldMap } from '../../../src/vision/raster.js';
import type { RgbImage } from '../../../src/vision/types.js';
import { manifestJson } from '../../support/model-manifest.js';

const spec = parseManifest(JSON.stringify(manifestJson())).saliency;

function mapOf(
  width: number,
  height: number,
  bumps: readonly (readonly [number, number, number])[],
  cell = 1,
): FieldMap {
  const data = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (const [bx, by, score] of bumps) {
        const value = score * Math.exp(-((x + 0.5 - bx) ** 2 + (y + 0.5 - by) ** 2) / 8);
        data[y * width + x] = Math.max(data[y * width + x] ?? 0, value);
      }
    }
  }
  return { width, height, data, cellWidth: cell, cellHeight: cell };
}

describe('chooseCandidates', () => {
  const region = (x0: number, x1: number): FieldMap => {
    const data = new Float32Array(40 * 20).map((_, i) => (i % 40 >= x0 && i % 40 < x1 && i < 200 ? 0.9 : 0));
    return { width: 40, height: 20, data, cellWidth: 2, cellHeight: 2 };
  };
  const murmur = { x: 3, y: 5, score: 0.2 };

  it('takes a low peak that a whole salient region stands behind', () => {
    expect(chooseCandidates([murmur], region(0, 8), 0.3, 30)).toEqual([murmur]);
  });

  it('leaves it where the region is too small for a cell, or where nothing is salient', () => {
    expect(chooseCandidates([murmur], region(0, 2), 0.3, 30)).toEqual([]);
    expect(chooseCandidates([murmur], region(20, 30), 0.3, 30)).toEqual([]);
  });

  it('leaves it where a higher peak stands in the same region; every peak above the threshold stays', () => {
    const high = { x: 9, y: 5, score: 0.8 };
    const second = { x: 13, y: 5, score: 0.31 };
    expect(chooseCandidates([high, second, murmur], region(0, 8), 0.3, 30)).toEqual([high, second]);
  });
});

describe('findPeaks', () => {
  it('finds maxima below the resolution of the map, in pixels of the image', () => {
    const [peak, ...others] = findPeaks(mapOf(40, 30, [[12.3, 17.8, 0.9]], 4), 0.3, 20);
    expect(others).toEqual([]);
    expect(peak?.x).toBeCloseTo(12.3 * 4, 0);
    expect(peak?.y).toBeCloseTo(17.8 * 4, 0);
  });

  it('of two too near the higher stays, also across buckets; far ones both stay', () => {
    const bumps = [
      [10, 10, 0.8],
      [16, 10, 0.9],
      [30, 10, 0.5],
    ] as const;
    expect(findPeaks(mapOf(40, 20, bumps), 0.3, 8).map(({ x }) => Math.round(x))).toEqual([16, 30]);
    expect(findPeaks(mapOf(40, 20, bumps), 0.3, 5).map(({ x }) => Math.round(x))).toEqual([16, 10, 30]);
    expect(findPeaks(mapOf(40, 20, bumps), 0.6, 5)).toHaveLength(2);
  });

  it('gives one peak for a plateau, none for an empty map, and finds those in corners', () => {
    const plateau = mapOf(10, 10, []);
    for (const at of [44, 45, 54, 55]) plateau.data[at] = 0.7;
    expect(findPeaks(plateau, 0.3, 2)).toHaveLength(1);
    expect(findPeaks(mapOf(10, 10, []), 0.3, 2)).toEqual([]);
    const corners = mapOf(20, 20, [
      [0.5, 0.5, 0.9],
      [19.5, 19.5, 0.9],
    ]);
    expect(findPeaks(corners, 0.3, 3)).toHaveLength(2);
    expect(findPeaks({ ...plateau, width: 1, height: 1, data: Float32Array.of(1) }, 0.3, 3)).toHaveLength(1);
  });

  it('is independent of the order in which equal peaks are met', () => {
    const once = findPeaks(
      mapOf(60, 60, [
        [10.5, 50.5, 0.8],
        [50.5, 10.5, 0.8],
      ]),
      0.3,
      3,
    );
    expect(once.map(({ y }) => Math.round(y))).toEqual([11, 51]);
  });
});

describe('tilesOf', () => {
  it.each([
    [10, 10],
    [1216, 1216],
    [1217, 900],
    [8660, 5773],
    [2049, 2048],
  ])('covers %i × %i exactly once, with even positions', (width, height) => {
    const tiles = tilesOf(width, height);
    let area = 0;
    for (const { core, outer } of tiles) {
      area += core.width * core.height;
      expect(outer.x).toBeLessThanOrEqual(core.x);
      expect(outer.x + outer.width).toBeGreaterThanOrEqual(core.x + core.width);
      expect(outer.x + outer.width).toBeLessThanOrEqual(width);
      expect([core.x % 2, core.y % 2, outer.x % 2, outer.y % 2]).toEqual([0, 0, 0, 0]);
      expect(outer.width * outer.height).toBeLessThanOrEqual(1216 * 1216);
    }
    expect(area).toBe(width * height);
    for (const a of tiles) {
      for (const b of tiles) {
        if (a === b) continue;
        const overlap =
          a.core.x < b.core.x + b.core.width &&
          b.core.x < a.core.x + a.core.width &&
          a.core.y < b.core.y + b.core.height &&
          b.core.y < a.core.y + a.core.height;
        expect(overlap).toBe(false);
      }
    }
  });
});

it('fieldSize follows the scale and is bounded', () => {
  expect(fieldSize(640, 480, 0.24, 0.48)).toEqual({ width: 320, height: 240 });
  expect(fieldSize(1, 1, 0.02, 0.48)).toEqual({ width: 1, height: 1 });
  const large = fieldSize(10_000, 10_000, 1, 0.48);
  expect(large.width * large.height).toBeLessThanOrEqual(80_000_000 * 1.001);
});

/** In the network's place: dark is salient, and its centre map is the saliency itself. */
const darkness = async (input: FieldInput): Promise<FieldOutput> => {
  expect([input.width % 16, input.height % 16]).toEqual([0, 0]);
  const width = input.width / 2;
  const height = input.height / 2;
  const saliency = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (const [dx, dy] of [
        [0, 0],
        [1, 0],
        [0, 1],
        [1, 1],
      ] as const) {
        sum += 255 - (input.rgb[((2 * y + dy) * input.width + 2 * x + dx) * 3] ?? 0);
      }
      saliency[y * width + x] = sum / 1020;
    }
  }
  return { kind: 'field', width, height, saliency, centres: saliency.slice(), scale: new Float32Array(17) };
};

function blobs(width: number, height: number, at: readonly (readonly [number, number])[], radius: number): RgbImage {
  const data = new Uint8Array(width * height * 3).fill(240);
  for (const [cx, cy] of at) {
    for (let y = Math.max(0, Math.floor(cy - 3 * radius)); y < Math.min(height, cy + 3 * radius); y++) {
      for (let x = Math.max(0, Math.floor(cx - 3 * radius)); x < Math.min(width, cx + 3 * radius); x++) {
        const dark = 200 * Math.exp(-((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2) / (2 * radius ** 2));
        const p = (y * width + x) * 3;
        data.fill(Math.min(data[p] ?? 0, 240 - dark), p, p + 3);
      }
    }
  }
  return { width, height, data };
}

describe('locateCells', () => {
  it.each([
    [0.12, 12],
    [0.24, 6],
    [0.48, 3],
    [0.96, 1.5],
  ])('puts centres on the posted pixels at %f µm per pixel', async (micronsPerPixel, radius) => {
    const truth = [
      [60.5, 70.5],
      [200, 90],
      [150.25, 210.75],
    ] as const;
    const { candidates } = await locateCells(blobs(301, 263, truth, radius), micronsPerPixel, spec, darkness);
    expect(candidates).toHaveLength(truth.length);
    for (const [x, y] of truth) {
      const nearest = Math.min(...candidates.map((c) => Math.hypot(c.x - x, c.y - y)));
      // A third of a micrometre.
      expect(nearest * micronsPerPixel).toBeLessThan(0.35);
    }
  });

  it('tiles a large field without losing, doubling or moving cells at the seams', async () => {
    const truth = [1020, 1024, 1027.5].flatMap((x, i) =>
      [30, 1020 + i * 40, 1500].map((y) => [x + i * 60, y] as const),
    );
    const image = blobs(2100, 1600, truth, 4);
    const { candidates, saliency } = await locateCells(image, 0.48, spec, darkness);
    expect([saliency.width, saliency.height]).toEqual([1050, 800]);
    expect(candidates).toHaveLength(truth.length);
    for (const [x, y] of truth) {
      expect(Math.min(...candidates.map((c) => Math.hypot(c.x - x, c.y - y)))).toBeLessThan(1);
    }
  });

  it('an image of one pixel has no cell', async () => {
    const { candidates } = await locateCells(blobs(1, 1, [], 1), 0.2, spec, darkness);
    expect(candidates).toEqual([]);
  });
});

describe('locateAround', () => {
  const field: RgbImage = { width: 192, height: 144, data: new Uint8Array(192 * 144 * 3).fill(200) };
  const guess = { micronsPerPixel: 0.48, source: 'estimated', workingMicronsPerPixel: 0.48, confidence: 0.4 } as const;

  /** A network that sees a cell in the middle where the field has this width, and counts how often it is asked. */
  function seesAt(width: number) {
    const asked: number[] = [];
    const run = async (input: FieldInput): Promise<FieldOutput> => {
      asked.push(input.width);
      const size = { width: input.width / 2, height: input.height / 2 };
      const map = mapOf(size.width, size.height, input.width === width ? [[20, 15, 0.9]] : []).data;
      const centres = new Float32Array(map);
      return { kind: 'field', ...size, saliency: new Float32Array(map), centres, scale: new Float32Array(17) };
    };
    return { run, asked };
  }

  it('looks at other scales where an estimate that is hardly sure shows nothing, and knows the scale no longer', async () => {
    const { run } = seesAt(96);
    const { scale, located } = await locateAround(field, guess, spec, run);
    expect(located.candidates).toHaveLength(1);
    expect(scale).toEqual({ ...guess, micronsPerPixel: null, source: 'unknown', workingMicronsPerPixel: 0.24 });
  });

  it('stays where nothing is found at any scale', async () => {
    const { run, asked } = seesAt(-1);
    expect((await locateAround(field, guess, spec, run)).scale).toEqual(guess);
    expect(asked).toHaveLength(5);
  });

  it.each([
    { confidence: 0.6, source: 'estimated' as const },
    { confidence: 1, source: 'given' as const },
  ])('does not doubt a scale that is $source with confidence $confidence', async (sure) => {
    const { run, asked } = seesAt(96);
    expect((await locateAround(field, { ...guess, ...sure }, spec, run)).located.candidates).toEqual([]);
    expect(asked).toHaveLength(1);
  });

  it('does not look further where something is found', async () => {
    const { run, asked } = seesAt(192);
    expect((await locateAround(field, guess, spec, run)).scale).toEqual(guess);
    expect(asked).toHaveLength(1);
  });
});
