import { describe, expect, it } from 'vitest';
import { padTile, resizeRegion, sampleMap, sampleWindow, toGrey } from '../../../src/vision/raster.js';
import type { RgbImage } from '../../../src/vision/types.js';

/** Brightness is a plane over the picture, so every resampling with right geometry gives that plane again. */
function plane(width: number, height: number, dx: number, dy: number, offset: number): RgbImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++)
      data.fill(offset + dx * (x + 0.5) + dy * (y + 0.5), (y * width + x) * 3, (y * width + x) * 3 + 3);
  }
  return { width, height, data };
}

/** A soft white spot on black. */
function spot(width: number, height: number, cx: number, cy: number, sigma: number): RgbImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = 250 * Math.exp(-((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2) / (2 * sigma ** 2));
      data.fill(Math.round(value), (y * width + x) * 3, (y * width + x) * 3 + 3);
    }
  }
  return { width, height, data };
}

/** Centre of brightness in pixels. */
function centroid({ width, data }: RgbImage): [number, number] {
  let sum = 0;
  let sumX = 0;
  let sumY = 0;
  for (let p = 0; p < data.length / 3; p++) {
    const value = data[p * 3 + 1] ?? 0;
    sum += value;
    sumX += value * ((p % width) + 0.5);
    sumY += value * (Math.floor(p / width) + 0.5);
  }
  return [sumX / sum, sumY / sum];
}

describe('resizeRegion', () => {
  const image = plane(200, 120, 0.6, 0.5, 20);
  it.each([
    [200, 120],
    [100, 60],
    [67, 41],
    [31, 19],
    [260, 150],
    [400, 240],
    [401, 80],
  ])('keeps things in their place at %i × %i', async (width, height) => {
    for (const [cx, cy] of [
      [50, 40],
      [120.3, 70.7],
    ] as const) {
      const from = spot(200, 120, cx, cy, 9);
      const resized = await resizeRegion(from, { x: 0, y: 0, width: 200, height: 120 }, width, height);
      expect([resized.width, resized.height, resized.data.length]).toEqual([width, height, width * height * 3]);
      const [x, y] = centroid(resized);
      // In source pixels; aligned corners instead of centres would be off by 0.2 to 0.5 when enlarging.
      expect(Math.abs((x * 200) / width - cx)).toBeLessThan(0.12);
      expect(Math.abs((y * 120) / height - cy)).toBeLessThan(0.12);
    }
  });

  it('cuts the region it is asked for', async () => {
    const cut = await resizeRegion(image, { x: 50, y: 30, width: 40, height: 20 }, 40, 20);
    expect(cut.data[0]).toBe(image.data[(30 * 200 + 50) * 3]);
    const half = await resizeRegion(image, { x: 50, y: 30, width: 40, height: 20 }, 20, 10);
    expect(Math.abs((half.data[(5 * 20 + 10) * 3] ?? 0) - (20 + 0.6 * 71 + 0.5 * 41))).toBeLessThan(1.5);
  });

  it('averages when it shrinks: a fine chequerboard turns grey', async () => {
    const data = Uint8Array.from(
      { length: 128 * 128 * 3 },
      (_, i) => ((Math.floor(i / 3) + Math.floor(i / 384)) % 2) * 255,
    );
    const small = await resizeRegion(
      { width: 128, height: 128, data },
      { x: 0, y: 0, width: 128, height: 128 },
      20,
      20,
    );
    for (const value of small.data) expect(Math.abs(value - 127.5)).toBeLessThan(25);
  });
});

describe('shrinking', () => {
  it.each([
    [640, 480, 133, 100],
    // More than the kernels' memory holds at first, and more than one turn of the event loop.
    [2400, 1700, 500, 354],
    [50, 40, 49, 11],
  ])('%i × %i to %i × %i is the mean over the area of each pixel', async (width, height, to, down) => {
    let state = 7;
    const data = Uint8Array.from({ length: width * height * 3 }, () => {
      state = (state * 48_271) % 2_147_483_647;
      return state % 256;
    });
    const small = await resizeRegion({ width, height, data }, { x: 0, y: 0, width, height }, to, down);
    /** Source pixels under an output pixel, each with how much of it lies there. */
    const under = (at: number, size: number, length: number): [number, number][] => {
      const [from, end] = [(at * length) / size, ((at + 1) * length) / size];
      const first = Math.floor(from);
      return Array.from({ length: Math.ceil(end) - first }, (_, i) => [
        first + i,
        Math.min(first + i + 1, end) - Math.max(first + i, from),
      ]);
    };
    for (const [x, y] of [
      [0, 0],
      [to - 1, down - 1],
      [Math.floor(to / 3), Math.floor(down / 2)],
    ] as const) {
      let [sum, weight] = [0, 0];
      for (const [v, high] of under(y, down, height)) {
        for (const [u, wide] of under(x, to, width)) {
          sum += high * wide * (data[(v * width + u) * 3 + 2] ?? 0);
          weight += high * wide;
        }
      }
      expect(Math.abs((small.data[(y * to + x) * 3 + 2] ?? 0) - sum / weight)).toBeLessThan(0.51);
    }
  });
});

describe('padTile', () => {
  it('repeats the last column and row', () => {
    const image = plane(6, 5, 10, 20, 0);
    const tile = padTile(image, { x: 2, y: 1, width: 3, height: 2 }, 5, 4);
    const value = (x: number, y: number): number => image.data[(y * 6 + x) * 3] ?? -1;
    const got = Array.from({ length: 20 }, (_, p) => tile[p * 3]);
    const columns = [2, 3, 4, 4, 4];
    const rows = [1, 2, 2, 2];
    expect(got).toEqual(rows.flatMap((y) => columns.map((x) => value(x, y))));
  });
});

describe('sampleWindow', () => {
  const image = plane(300, 300, 0.4, 0.3, 15);
  it.each([
    [40, 60, 160],
    [40.3, 59.6, 80],
    [100, 100, 37.5],
    [10, 20, 250],
  ])('samples a window at %f, %f of side %f', (x, y, side) => {
    const size = 64;
    const out = new Uint8Array(size * size * 3);
    sampleWindow(image, { x, y, width: side, height: side }, size, out);
    for (const [u, v] of [
      [5, 7],
      [32, 32],
      [60, 50],
    ] as const) {
      const wanted = 15 + 0.4 * (x + ((u + 0.5) * side) / size) + 0.3 * (y + ((v + 0.5) * side) / size);
      expect(Math.abs((out[(v * size + u) * 3] ?? 0) - wanted)).toBeLessThan(1.3);
    }
  });

  it('repeats the edge outside of the image', () => {
    const flat = { width: 4, height: 4, data: new Uint8Array(48).fill(77) };
    const out = new Uint8Array(32 * 32 * 3);
    sampleWindow(flat, { x: -50, y: -50, width: 100, height: 100 }, 32, out);
    expect(new Set(out)).toEqual(new Set([77]));
    sampleWindow(flat, { x: 60, y: -9, width: 3, height: 3 }, 32, out);
    expect(new Set(out)).toEqual(new Set([77]));
  });

  it('enlarging does not overflow at hard edges', () => {
    const edge = { width: 4, height: 1, data: Uint8Array.of(0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255) };
    const out = new Uint8Array(40 * 40 * 3);
    sampleWindow(edge, { x: 0, y: 0, width: 4, height: 4 }, 40, out);
    expect([out[0], out[39 * 3]]).toEqual([0, 255]);
    for (let x = 1; x < 40; x++) expect(out[x * 3] ?? 0).toBeGreaterThanOrEqual((out[(x - 1) * 3] ?? 0) - 25);
  });
});

describe('sampleMap', () => {
  it('interpolates between cell centres and holds the value beyond the edge', () => {
    // Two cells of 10 × 10 pixels: 0 left, 1 right; centres at x = 5 and 15.
    const map = { width: 2, height: 1, data: Float32Array.of(0, 1), cellWidth: 10, cellHeight: 10 };
    const out = new Float32Array(400);
    sampleMap(map, { x: 0, y: 0, width: 20, height: 20 }, 20, out);
    for (let x = 0; x < 20; x++) expect(out[x]).toBeCloseTo(Math.min(1, Math.max(0, (x + 0.5 - 5) / 10)), 5);
    sampleMap(map, { x: 100, y: 100, width: 20, height: 20 }, 20, out);
    expect(new Set(out)).toEqual(new Set([1]));
  });
});

it('toGrey rounds and clamps', () => {
  expect([...toGrey(2, 2, Float32Array.of(-1, 0.5, 1, 7)).data]).toEqual([0, 128, 255, 255]);
});
