import { describe, expect, it } from 'vitest';
import {
  type CellShape,
  cellFlags,
  classify,
  type Instance,
  resolveOverlaps,
  shapesOfCrop,
  touching,
} from '../../../src/vision/instances.js';
import { parseManifest } from '../../../src/vision/manifest.js';
import type { Box } from '../../../src/vision/types.js';
import { manifestJson } from '../../support/model-manifest.js';

const manifest = parseManifest(JSON.stringify(manifestJson())).cells;
const SIDE = 80;

/** A segmentation as the network gives it: which of the three classes each of 80 × 80 places is, with soft edges. */
function segmentation(part: (u: number, v: number) => 0 | 1 | 2): Float32Array {
  const out = new Float32Array(3 * SIDE * SIDE).fill(0.02);
  for (let v = 0; v < SIDE; v++) {
    for (let u = 0; u < SIDE; u++) out[part(u + 0.5, v + 0.5) * SIDE * SIDE + v * SIDE + u] = 0.96;
  }
  return out;
}

/** A round cell with a round nucleus; places and radii in parts of the crop's 80. */
const cell =
  (x: number, y: number, r: number, nucleus: number) =>
  (u: number, v: number): 0 | 1 | 2 => {
    const d = Math.hypot(u - x, v - y);
    return d < nucleus ? 2 : d < r ? 1 : 0;
  };

function labelAt(shape: CellShape, x: number, y: number): number {
  const { box } = shape;
  const inside = x >= box.x && y >= box.y && x < box.x + box.width && y < box.y + box.height;
  return inside ? (shape.labels[(y - box.y) * box.width + x - box.x] ?? 0) : 0;
}

function must<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('expected a value');
  return value;
}

describe('shapesOfCrop', () => {
  // The crop shows 25.6 µm; the cell in its middle is 12.8 µm wide at any magnification.
  it.each([
    ['finer than the network', 320],
    ['as fine', 160],
    ['coarser', 50.3],
    ['much coarser', 27],
  ])('puts the cell on posted pixels: %s', (_name, side) => {
    const window = { x: 100.4, y: 60.2, width: side, height: side };
    const shape = must(shapeOfCrop(segmentation(cell(40, 40, 20, 10)), SIDE, window, 1000, 800));
    const radius = side / 4;
    const area = Math.PI * radius ** 2;
    expect(Math.abs(shape.areaPx - area) / area).toBeLessThan(0.06);
    expect(Math.abs(shape.box.x + shape.box.width / 2 - (100.4 + side / 2))).toBeLessThan(0.9);
    expect(Math.abs(shape.box.y + shape.box.height / 2 - (60.2 + side / 2))).toBeLessThan(0.9);
    const nucleus = shape.labels.filter((label) => label === 255).length;
    expect(Math.abs(nucleus - area / 4) / area).toBeLessThan(0.06);
    expect(labelAt(shape, Math.floor(100.4 + side / 2), Math.floor(60.2 + side / 2))).toBe(255);
    expect(new Set(shape.labels)).toEqual(new Set([0, 128, 255]));
  });

  it('takes the component at the centre and leaves the neighbour', () => {
    const both = segmentation((u, v) => (cell(40, 40, 12, 5)(u, v) || cell(70, 40, 9, 4)(u, v)) as 0 | 1 | 2);
    const shape = must(shapeOfCrop(both, SIDE, { x: 0, y: 0, width: 80, height: 80 }, 200, 200));
    expect(shape.box).toEqual({ x: 28, y: 28, width: 24, height: 24 });
  });

  it('takes touching cells apart and says where the others are', () => {
    const pair = segmentation((u, v) => (cell(36, 40, 12, 8)(u, v) || cell(59, 40, 12, 8)(u, v)) as 0 | 1 | 2);
    const window = { x: 100, y: 50, width: 160, height: 160 };
    const shapes = must(shapesOfCrop(pair, SIDE, window, 400, 400, 0.32));
    const { box, areaPx } = shapes.central;
    expect(Math.abs(box.x + box.width / 2 - (100 + 36 * 2))).toBeLessThan(3);
    expect(Math.abs(areaPx - Math.PI * 24 ** 2) / areaPx).toBeLessThan(0.08);
    expect(shapes.neighbours).toHaveLength(1);
    expect(Math.hypot((shapes.neighbours[0]?.x ?? 0) - 218, (shapes.neighbours[0]?.y ?? 0) - 130)).toBeLessThan(4);
    // A cell apart from it has its own peak in the centre map.
    const apart = segmentation((u, v) => (cell(36, 40, 10, 5)(u, v) || cell(65, 40, 10, 5)(u, v)) as 0 | 1 | 2);
    expect(must(shapesOfCrop(apart, SIDE, window, 400, 400, 0.32)).neighbours).toEqual([]);
  });

  it('takes a blob that is too large for one cell apart at faint waists, and a smaller one not', () => {
    // Centres 1.1 radii apart: the waist is five sixths of a diameter.
    const close = (r: number) =>
      segmentation((u, v) => (cell(34, 40, r, 8)(u, v) || cell(34 + 1.1 * r, 40, r, 8)(u, v)) as 0 | 1 | 2);
    const window = { x: 0, y: 0, width: 160, height: 160 };
    expect(must(shapesOfCrop(close(25), SIDE, window, 400, 400, 0.32)).neighbours).toHaveLength(1);
    expect(must(shapesOfCrop(close(17), SIDE, window, 400, 400, 0.32)).neighbours).toEqual([]);
  });

  it('takes the nearest where nothing is at the centre', () => {
    const off = segmentation((u, v) => (cell(15, 40, 8, 3)(u, v) || cell(62, 40, 8, 3)(u, v)) as 0 | 1 | 2);
    const shape = must(shapeOfCrop(off, SIDE, { x: 0, y: 0, width: 80, height: 80 }, 200, 200));
    expect(shape.box.x).toBeGreaterThan(50);
  });

  it('fills holes: nucleus inside nucleus, cytoplasm inside cytoplasm', () => {
    const holes = segmentation((u, v) => {
      if (Math.hypot(u - 40, v - 40) < 2.2 || Math.hypot(u - 40, v - 56) < 2.2) return 0;
      return cell(40, 40, 24, 10)(u, v);
    });
    const shape = must(shapeOfCrop(holes, SIDE, { x: 0, y: 0, width: 160, height: 160 }, 200, 200));
    expect(labelAt(shape, 80, 80)).toBe(255);
    expect(labelAt(shape, 80, 112)).toBe(128);
  });

  it('does not fill a bay that opens to the outside', () => {
    const bay = segmentation((u, v) => (u > 38 && u < 44 && v < 40 ? 0 : cell(40, 40, 24, 0)(u, v)));
    const shape = must(shapeOfCrop(bay, SIDE, { x: 0, y: 0, width: 80, height: 80 }, 200, 200));
    expect(labelAt(shape, 41, 30)).toBe(0);
  });

  it('is cut at the image border, and undefined where the crop is empty or its cell lies outside', () => {
    const centred = segmentation(cell(40, 40, 20, 10));
    const cut = must(shapeOfCrop(centred, SIDE, { x: -40, y: 20, width: 80, height: 80 }, 200, 200));
    expect(cut.box).toMatchObject({ x: 0, width: 20, y: 40, height: 40 });
    expect(
      shapeOfCrop(
        segmentation(() => 0),
        SIDE,
        { x: 0, y: 0, width: 80, height: 80 },
        99,
        99,
      ),
    ).toBeUndefined();
    expect(shapeOfCrop(centred, SIDE, { x: 300, y: 0, width: 80, height: 80 }, 200, 200)).toBeUndefined();
  });

  it('a pixel is cell when it is more cell than background, although neither part has half', () => {
    const plane = SIDE * SIDE;
    const soft = new Float32Array(3 * plane);
    soft.fill(0.4, 0, plane);
    soft.fill(0.35, plane, 2 * plane);
    soft.fill(0.25, 2 * plane);
    const shape = must(shapeOfCrop(soft, SIDE, { x: 0, y: 0, width: 20, height: 20 }, 20, 20));
    expect([shape.areaPx, new Set(shape.labels)]).toEqual([400, new Set([128])]);
  });
});

describe('classify', () => {
  const index = (name: string): number => manifest.classes.map(String).indexOf(name);
  const probabilities = (given: Record<string, number>): Float32Array => {
    const out = new Float32Array(manifest.classes.length);
    for (const [name, p] of Object.entries(given)) out[index(name)] = p;
    return out;
  };
  it.each([
    [{ monocyte: 0.9, lymphocyte: 0.1 }, 'monocyte'],
    [{ monocyte: 0.5, lymphocyte: 0.3, blast: 0.2 }, 'monocyte'],
    [{ monocyte: 0.49, lymphocyte: 0.31, blast: 0.2 }, 'unidentified'],
    [{ artefact: 0.95, neutrophil: 0.05 }, 'artefact'],
    [{ platelet: 0.4, artefact: 0.35, neutrophil: 0.25 }, 'platelet'],
    [{ neutrophil: 0.45, platelet: 0.25, artefact: 0.3 }, 'artefact'],
    [{ neutrophil: 0.45, artefact: 0.3, lymphocyte: 0.25 }, 'unidentified'],
  ])('%j is %s', (given, wanted) => {
    const verdict = classify(probabilities(given), 0, manifest);
    expect(verdict.class).toBe(wanted);
    expect(verdict.confidence).toBeCloseTo(Math.max(...Object.values(given)), 5);
  });
  it('declines a cell that is unlike all it learnt from, and says that it is not sure', () => {
    const sure = probabilities({ monocyte: 0.98, lymphocyte: 0.02 });
    expect(classify(sure, 0.5, manifest).class).toBe('monocyte');
    const declined = classify(sure, 0.9, manifest);
    expect(declined.class).toBe('unidentified');
    expect(declined.confidence).toBeCloseTo(0.098, 5);
    expect(classify(probabilities({ artefact: 0.95, neutrophil: 0.05 }), 0.9, manifest).class).toBe('artefact');
  });
});

const shapeOfCrop = (probabilities: Float32Array, side: number, window: Box, width: number, height: number) =>
  shapesOfCrop(probabilities, side, window, width, height, 0.32)?.central;

/** A filled disc as an instance; the nucleus is its inner half. */
function disc(x: number, y: number, r: number, over: Partial<Instance> = {}, sureness = 200): Instance {
  const box = { x: Math.floor(x - r), y: Math.floor(y - r), width: Math.ceil(2 * r) + 1, height: Math.ceil(2 * r) + 1 };
  const labels = new Uint8Array(box.width * box.height);
  const foreground = new Uint8Array(labels.length);
  let areaPx = 0;
  for (let i = 0; i < labels.length; i++) {
    const d = Math.hypot(box.x + (i % box.width) + 0.5 - x, box.y + Math.floor(i / box.width) + 0.5 - y);
    if (d >= r) continue;
    labels[i] = d < r / 2 ? 255 : 128;
    foreground[i] = Math.round(sureness * (1 - (0.4 * d) / r));
    areaPx++;
  }
  const shape = { box, labels, foreground, areaPx };
  return { shape, class: 'neutrophil', confidence: 0.9, centre: { x, y }, ...over };
}

describe('resolveOverlaps', () => {
  const um = 0.2;

  it('keeps apart what is apart, in reading order', () => {
    const kept = resolveOverlaps([disc(200, 50, 30), disc(60, 40, 30), disc(60, 150, 30)], um);
    expect(kept.map(({ shape }) => [shape.box.x, shape.box.y])).toEqual([
      [30, 10],
      [170, 20],
      [30, 120],
    ]);
  });

  it('of two masks of one cell the surer stays', () => {
    const kept = resolveOverlaps([disc(60, 60, 30, { confidence: 0.6 }), disc(63, 60, 30, { confidence: 0.95 })], um);
    expect(kept.map(({ instance }) => instance.confidence)).toEqual([0.95]);
  });

  it('of two equally sure the one whose crop is centred on it stays', () => {
    const kept = resolveOverlaps([disc(60, 60, 30, { centre: { x: 78, y: 60 } }), disc(62, 60, 30)], um);
    expect(kept.map(({ instance }) => instance.centre.x)).toEqual([62]);
  });

  it('a part inside of a cell is no second cell; a white cell wins over an artefact in the same place', () => {
    expect(resolveOverlaps([disc(60, 60, 40), disc(60, 45, 16, { confidence: 0.7 })], um)).toHaveLength(1);
    const kept = resolveOverlaps(
      [
        disc(60, 60, 30, { class: 'artefact', confidence: 0.99 }),
        disc(60, 60, 30, { class: 'monocyte', confidence: 0.55 }),
      ],
      um,
    );
    expect(kept.map(({ instance }) => instance.class)).toEqual(['monocyte']);
  });

  it('gives contested pixels to the surer mask, each pixel once', () => {
    const sure = disc(60, 60, 30, {}, 250);
    const unsure = disc(105, 60, 30, {}, 150);
    const kept = resolveOverlaps([sure, unsure], um);
    expect(kept).toHaveLength(2);
    const [left, right] = kept.map(({ shape }) => shape);
    let shared = 0;
    for (let y = 0; y < 120; y++) {
      for (let x = 0; x < 160; x++) {
        if (left && right && labelAt(left, x, y) !== 0 && labelAt(right, x, y) !== 0) shared++;
      }
    }
    expect(shared).toBe(0);
    expect(left?.areaPx).toBe(sure.shape.areaPx);
    expect(right?.areaPx).toBeLessThan(unsure.shape.areaPx);
    // The boxes fit what is left.
    expect(right?.box.x).toBeGreaterThan(unsure.shape.box.x);
  });

  it('what another cell cut off is not kept as an island', () => {
    // A narrow cell lies across a wide one and is surer of itself: the wide one keeps one side only.
    const wide = disc(100, 60, 40, {}, 120);
    const labels = new Uint8Array(16 * 100).fill(128);
    const bar: Instance = {
      shape: {
        box: { x: 105, y: 10, width: 16, height: 100 },
        labels,
        foreground: labels.map(() => 250),
        areaPx: 1600,
      },
      class: 'monocyte',
      confidence: 0.95,
      centre: { x: 113, y: 60 },
    };
    const kept = resolveOverlaps([wide, { ...bar, shape: { ...bar.shape, areaPx: 4000 } }], um);
    const rest = kept.find(({ instance }) => instance.class === 'neutrophil');
    expect(rest?.shape.box.x).toBe(wide.shape.box.x);
    expect((rest?.shape.box.x ?? 0) + (rest?.shape.box.width ?? 0)).toBe(105);
  });

  it('does not change the shapes it was given', () => {
    const a = disc(60, 60, 30, {}, 250);
    const b = disc(105, 60, 30, {}, 150);
    const before = b.shape.labels.slice();
    resolveOverlaps([a, b], um);
    expect(b.shape.labels).toEqual(before);
  });

  it('drops what is smaller than 9 µm²', () => {
    // Radius 1.6 µm is 8 µm², 1.8 µm is 10 µm².
    expect(resolveOverlaps([disc(60, 60, 8)], um)).toHaveLength(0);
    expect(resolveOverlaps([disc(60, 60, 9)], um)).toHaveLength(1);
  });

  it('does not depend on the order of what it is given', () => {
    const all = [disc(60, 60, 30), disc(63, 64, 30, { confidence: 0.95 }), disc(110, 60, 30), disc(112, 90, 25)];
    const describe = (list: readonly Instance[]) => resolveOverlaps(list, um).map(({ shape }) => shape);
    expect(describe([...all].reverse())).toEqual(describe(all));
  });
});

describe('touching', () => {
  const shapes = (gap: number): CellShape[] => [
    disc(60, 60, 20).shape,
    disc(100 + gap, 60, 20).shape,
    disc(300, 60, 20).shape,
  ];
  it('finds neighbours within a third of a micrometre, and no others', () => {
    expect(touching(shapes(0), 0.2)).toEqual(new Set([0, 1]));
    expect(touching(shapes(5), 0.2)).toEqual(new Set());
    expect(touching(shapes(5), 0.05)).toEqual(new Set([0, 1]));
  });
});

describe('cellFlags', () => {
  const flagsOf = (over: Partial<Parameters<typeof cellFlags>[0]>) =>
    cellFlags({
      shape: disc(60, 60, 20).shape,
      imageWidth: 200,
      imageHeight: 200,
      confidence: 0.9,
      consistency: 0.9,
      reject: 0.1,
      touches: false,
      scaleUnknown: false,
      manifest,
      ...over,
    });
  it('says nothing about a good cell', () => {
    expect(flagsOf({})).toEqual([]);
  });
  it('says each thing', () => {
    expect(flagsOf({ confidence: 0.79 })).toEqual(['low_confidence']);
    expect(flagsOf({ consistency: 0.39 })).toEqual(['low_consistency']);
    expect(flagsOf({ reject: 0.51 })).toEqual(['out_of_distribution']);
    expect(flagsOf({ touches: true, scaleUnknown: true })).toEqual(['touching', 'scale_unknown']);
  });
  it('knows all four borders', () => {
    const { box } = disc(60, 60, 20).shape;
    expect(flagsOf({ imageWidth: box.x + box.width })).toEqual(['border']);
    expect(flagsOf({ imageHeight: box.y + box.height })).toEqual(['border']);
    for (const moved of [{ x: 0 }, { y: 0 }]) {
      const { shape } = disc(60, 60, 20);
      expect(flagsOf({ shape: { ...shape, box: { ...box, ...moved } } })).toEqual(['border']);
    }
  });
});
