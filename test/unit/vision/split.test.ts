import { describe, expect, it } from 'vitest';
import { splitCells, withoutSpurs } from '../../../src/vision/split.js';

const SIDE = 80;

function grid(inside: (x: number, y: number) => boolean): Uint8Array {
  return Uint8Array.from({ length: SIDE * SIDE }, (_, i) =>
    inside((i % SIDE) + 0.5, Math.floor(i / SIDE) + 0.5) ? 1 : 0,
  );
}
const disc = (cx: number, cy: number, r: number) => (x: number, y: number) => Math.hypot(x - cx, y - cy) < r;
const any =
  (...shapes: ((x: number, y: number) => boolean)[]) =>
  (x: number, y: number) =>
    shapes.some((shape) => shape(x, y));

describe('splitCells', () => {
  it('leaves a round, an oval and a bean-shaped cell whole', () => {
    const oval = (x: number, y: number) => ((x - 40) / 28) ** 2 + ((y - 40) / 15) ** 2 < 1;
    const bean = (x: number, y: number) => disc(40, 40, 22)(x, y) && !disc(40, 12, 14)(x, y);
    for (const shape of [disc(40, 40, 16), oval, bean, disc(2, 3, 20)]) {
      expect(splitCells(grid(shape), SIDE, 7).parts).toHaveLength(1);
    }
  });

  it('takes two touching cells apart in the middle between them', () => {
    const { labels, parts } = splitCells(grid(any(disc(26, 40, 14), disc(52, 40, 14))), SIDE, 7);
    expect(parts).toHaveLength(2);
    expect(parts.map(({ x }) => Math.round(x)).sort((a, b) => a - b)).toEqual([26, 52]);
    const [left, right] = [labels[40 * SIDE + 20], labels[40 * SIDE + 58]];
    expect(left).not.toBe(right);
    expect(labels[40 * SIDE + 37]).toBe(left);
    expect(labels[40 * SIDE + 41]).toBe(right);
    // Half of the blob each.
    const [a, b] = parts.map(({ area }) => area);
    expect((a ?? 0) / (b ?? 1)).toBeGreaterThan(0.93);
    expect((a ?? 0) / (b ?? 1)).toBeLessThan(1.07);
  });

  it('takes cells of different sizes and clusters of four apart', () => {
    expect(splitCells(grid(any(disc(28, 40, 18), disc(55, 40, 12))), SIDE, 7).parts).toHaveLength(2);
    const four = any(disc(27, 27, 14), disc(53, 27, 14), disc(27, 53, 14), disc(53, 53, 14));
    expect(splitCells(grid(four), SIDE, 7).parts).toHaveLength(4);
  });

  it('does not split off bulges and ragged edges', () => {
    expect(splitCells(grid(any(disc(38, 40, 18), disc(58, 40, 6))), SIDE, 7).parts).toHaveLength(1);
    const ragged = (x: number, y: number) =>
      Math.hypot(x - 40, y - 40) < 18 + 2.5 * Math.sin(9 * Math.atan2(y - 40, x - 40));
    expect(splitCells(grid(ragged), SIDE, 7).parts).toHaveLength(1);
  });

  it('does not split cells that overlap so far that they might be one', () => {
    expect(splitCells(grid(any(disc(34, 40, 16), disc(46, 40, 16))), SIDE, 7).parts).toHaveLength(1);
  });

  it('labels separate blobs apart, all pixels, and nothing where there is nothing', () => {
    const two = grid(any(disc(15, 15, 9), disc(60, 60, 3)));
    const { labels, parts } = splitCells(two, SIDE, 7);
    expect(parts).toHaveLength(2);
    expect(labels.every((label, i) => (label !== 0) === (two[i] === 1))).toBe(true);
    expect(parts.reduce((sum, { area }) => sum + area, 0)).toBe(two.reduce((sum, value) => sum + value, 0));
    expect(splitCells(new Uint8Array(SIDE * SIDE), SIDE, 7).parts).toEqual([]);
    expect(splitCells(new Uint8Array(SIDE * SIDE).fill(1), SIDE, 7).parts).toHaveLength(1);
  });
});

describe('withoutSpurs', () => {
  const area = (mask: Uint8Array): number => mask.reduce((sum, value) => sum + value, 0);

  it('removes threads and keeps the cell', () => {
    const thread = (x: number, y: number) => x > 40 && x < 78 && Math.abs(y - 40) < 1.5;
    const opened = withoutSpurs(grid(any(disc(40, 40, 16), thread)), SIDE, 2);
    expect(opened[40 * SIDE + 70]).toBe(0);
    expect(Math.abs(area(opened) - area(grid(disc(40, 40, 16))))).toBeLessThan(25);
  });

  it('leaves round cells, cells cut by the window, and what is thin altogether', () => {
    for (const shape of [disc(40, 40, 9), disc(0, 40, 20)]) {
      expect(area(withoutSpurs(grid(shape), SIDE, 2)) / area(grid(shape))).toBeGreaterThan(0.97);
    }
    const thin = grid((_x, y) => Math.abs(y - 40) < 1);
    expect(withoutSpurs(thin, SIDE, 2)).toEqual(thin);
  });
});
