import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type CellFinding,
  createVision,
  type ImageAnalysis,
  UndecodableImageError,
  type Vision,
} from '../../src/vision/index.js';
import { isWhiteCell } from '../../src/vision/instances.js';
import { MODEL_DIR } from '../support/model-dir.js';
import {
  CREAM_STAIN,
  drawSmear,
  NEUTRAL_STAIN,
  PINK_STAIN,
  type Smear,
  type SmearOptions,
  type TruthCell,
} from '../support/smear.js';

const ALL = { neutrophil: 2, lymphocyte: 2, monocyte: 1, eosinophil: 1, basophil: 1 };

let vision: Vision;
beforeAll(async () => {
  vision = await createVision({ modelDir: MODEL_DIR, executionProvider: 'cpu', threads: 2 });
});
afterAll(async () => {
  await vision.close();
});

const smear = (over: Partial<SmearOptions> = {}): Smear =>
  drawSmear({ seed: 21, width: 640, height: 480, micronsPerPixel: 0.15, cells: ALL, ...over });
const png = (image: { width: number; height: number; data: Uint8Array }): Promise<Buffer> =>
  sharp(image.data, { raw: { width: image.width, height: image.height, channels: 3 } })
    .png({ compressionLevel: 1 })
    .toBuffer();
const flat = (width: number, height: number, value: number) =>
  png({ width, height, data: new Uint8Array(width * height * 3).fill(value) });
const whiteCells = (analysis: ImageAnalysis): CellFinding[] => analysis.cells.filter((cell) => isWhiteCell(cell.class));

/** Intersection over union of a found and a true mask, whole cells. */
function maskIou(found: CellFinding, truth: TruthCell): number {
  let shared = 0;
  let area = 0;
  truth.mask.forEach((label, i) => {
    if (label === 0) return;
    area++;
    const x = truth.box.x + (i % truth.box.width) - found.box.x;
    const y = truth.box.y + Math.floor(i / truth.box.width) - found.box.y;
    const inside = x >= 0 && y >= 0 && x < found.box.width && y < found.box.height;
    if (inside && found.mask.data[y * found.box.width + x] !== 0) shared++;
  });
  return shared / (area + found.areaPx - shared);
}

/** The best found cell for each true one. */
const matches = (analysis: ImageAnalysis, truth: readonly TruthCell[]) =>
  truth.map((cell) => {
    const [best] = whiteCells(analysis)
      .map((found) => ({ found, iou: maskIou(found, cell) }))
      .sort((a, b) => b.iou - a.iou);
    return { truth: cell, found: best?.found, iou: best?.iou ?? 0 };
  });

describe('a synthetic field', () => {
  it.each([
    ['cream', CREAM_STAIN],
    ['neutral', NEUTRAL_STAIN],
    ['pink', PINK_STAIN],
  ])('every white cell is found and outlined, nothing else counted: %s stain', async (_name, stain) => {
    const field = smear({ stain });
    const analysis = await vision.analyze(await png(field), { micronsPerPixel: 0.15 });
    const found = matches(analysis, field.cells);
    expect(found.filter(({ iou }) => iou > 0.6)).toHaveLength(field.cells.length);
    expect(whiteCells(analysis)).toHaveLength(field.cells.length);
    const mean = found.reduce((sum, { iou }) => sum + iou, 0) / found.length;
    expect(mean).toBeGreaterThan(0.85);
  });

  it('its cells say what they are in a form that fits together', async () => {
    const field = smear();
    const analysis = await vision.analyze(await png(field), { micronsPerPixel: 0.15 });
    expect(analysis).toMatchObject({
      width: 640,
      height: 480,
      scale: { micronsPerPixel: 0.15, source: 'given', workingMicronsPerPixel: 0.15, confidence: 1 },
    });
    expect(analysis.cells.length).toBeGreaterThan(0);
    for (const cell of analysis.cells) {
      const { box, mask } = cell;
      expect([mask.width, mask.height, mask.data.length]).toEqual([box.width, box.height, box.width * box.height]);
      expect(mask.data.filter((label) => label !== 0)).toHaveLength(cell.areaPx);
      expect([...new Set(mask.data)].every((label) => [0, 128, 255].includes(label))).toBe(true);
      expect(box.x >= 0 && box.y >= 0 && box.x + box.width <= 640 && box.y + box.height <= 480).toBe(true);
      expect(cell.areaUm2).toBeCloseTo(cell.areaPx * 0.15 ** 2, 6);
      const values = Object.values(cell.probabilities);
      expect(values.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 3);
      // No drawn cell is unlike what was learnt from; a cell that is says less than its most probable class.
      expect(cell.flags).not.toContain('out_of_distribution');
      expect(cell.rejectScore).toBeLessThan(0.5);
      expect(cell.confidence).toBeCloseTo(Math.max(...values), 5);
      if (isWhiteCell(cell.class) && cell.class !== 'unidentified') {
        expect(cell.morphology?.nuclearAreaRatio).toBeGreaterThan(0);
        for (const { value, probability } of Object.values(cell.morphology?.attributes ?? {})) {
          expect(value).not.toBe('');
          expect(probability).toBeGreaterThan(0);
          expect(probability).toBeLessThanOrEqual(1);
        }
      }
      expect(cell.subtype === null).toBe(!['neutrophil', 'immature_granulocyte'].includes(cell.class));
      expect(cell.saliencyConsistency).toBeGreaterThanOrEqual(0);
      expect(cell.saliencyConsistency).toBeLessThanOrEqual(1);
      expect([cell.crop.width, cell.crop.height, cell.crop.data.length]).toEqual([160, 160, 76_800]);
      expect([cell.cam.width, cell.cam.height]).toEqual([20, 20]);
      expect(cell.window.width).toBeCloseTo(25.6 / 0.15, 6);
    }
    for (const stage of ['decode', 'scale', 'locate', 'infer']) expect(analysis.timingsMs[stage]).toBeGreaterThan(0);
    // In reading order.
    const tops = analysis.cells.map(({ box }) => box.y * 1e6 + box.x);
    expect(tops).toEqual([...tops].sort((a, b) => a - b));
  });

  it('most cells are named what they are drawn as, every neutrophil and eosinophil among them', async () => {
    const cells = { neutrophil: 4, lymphocyte: 4, monocyte: 2, eosinophil: 3, basophil: 3 };
    const named: { drawn: string; found: string | undefined }[] = [];
    for (const stain of [CREAM_STAIN, NEUTRAL_STAIN, PINK_STAIN]) {
      const field = smear({ seed: 2, width: 1000, height: 800, cells, stain });
      const analysis = await vision.analyze(await png(field));
      for (const { truth, found } of matches(analysis, field.cells)) {
        named.push({ drawn: truth.class, found: found?.class });
      }
    }
    const right = named.filter(({ drawn, found }) => drawn === found);
    // 134 of 144 over three seeds with version 1.0.0, which never saw a drawn cell; lymphocytes pass for erythroblasts.
    expect(right.length / named.length).toBeGreaterThan(0.85);
    const sure = named.filter(({ drawn }) => drawn === 'neutrophil' || drawn === 'eosinophil');
    expect(sure.filter(({ drawn, found }) => drawn !== found)).toEqual([]);
  });

  it('the scale is estimated when it is not given, and said to be', async () => {
    for (const micronsPerPixel of [0.08, 0.15, 0.3]) {
      const field = smear({ width: 96 / micronsPerPixel, height: 72 / micronsPerPixel, micronsPerPixel });
      const { scale, cells } = await vision.analyze(await png(field));
      expect(scale.source).toBe('estimated');
      expect(scale.confidence).toBeLessThan(1);
      expect(Math.abs(Math.log2((scale.micronsPerPixel ?? 0) / micronsPerPixel))).toBeLessThan(0.35);
      for (const cell of cells) expect(cell.areaUm2).toBeCloseTo(cell.areaPx * (scale.micronsPerPixel ?? 0) ** 2, 6);
    }
  });

  it('the same field rescaled ×0.5 to ×2 gives the same cells and a scale that differs by the factor', async () => {
    const field = smear({ seed: 4, width: 900, height: 680, micronsPerPixel: 0.14 });
    const original = await png(field);
    const base = await vision.analyze(original);
    // The drawn monocyte resembles no real one enough to be named for sure, and may fall into pieces.
    const monocytes = field.cells.filter(({ class: name }) => name === 'monocyte');
    const drawnMonocyte = ({ box }: CellFinding): boolean =>
      monocytes.some(({ x, y, radius }) => Math.hypot(box.x + box.width / 2 - x, box.y + box.height / 2 - y) < radius);
    let cells = 0;
    let found = 0;
    let sameClass = 0;
    let extra = 0;
    for (const factor of [0.5, 0.75, 1.4, 2]) {
      const [width, height] = [Math.round(900 * factor), Math.round(680 * factor)];
      const scaled = await vision.analyze(
        await sharp(original).resize(width, height, { fit: 'fill' }).png().toBuffer(),
      );
      const ratio = (scaled.scale.workingMicronsPerPixel * factor) / base.scale.workingMicronsPerPixel;
      expect(Math.abs(ratio - 1)).toBeLessThan(0.08);
      for (const cell of whiteCells(base).filter((one) => !drawnMonocyte(one))) {
        cells++;
        const [x, y] = [cell.box.x + cell.box.width / 2, cell.box.y + cell.box.height / 2];
        const match = whiteCells(scaled).find(
          ({ box }) => Math.hypot((box.x + box.width / 2) / factor - x, (box.y + box.height / 2) / factor - y) < 15,
        );
        if (match) found++;
        if (match?.class === cell.class) sameClass++;
      }
      extra += Math.max(0, whiteCells(scaled).length - whiteCells(base).length);
    }
    expect(cells).toBeGreaterThan(20);
    expect(found / cells).toBeGreaterThanOrEqual(0.98);
    expect(sameClass / cells).toBeGreaterThanOrEqual(0.95);
    expect(extra).toBeLessThanOrEqual(1);
  });

  it('a cell cut by the border is flagged', async () => {
    const field = smear({ cells: {}, placed: [{ class: 'monocyte', xUm: 3, yUm: 36 }] });
    const analysis = await vision.analyze(await png(field), { micronsPerPixel: 0.15 });
    expect(whiteCells(analysis).map(({ flags }) => flags.includes('border'))).toEqual([true]);
  });

  it('is found in a file of any format', async () => {
    const field = smear();
    const image = sharp(field.data, { raw: { width: 640, height: 480, channels: 3 } });
    const wide = Uint16Array.from(field.data, (value) => value * 257);
    const files = [
      await image.clone().jpeg({ quality: 85 }).toBuffer(),
      await image.clone().webp({ quality: 85 }).toBuffer(),
      await image.clone().tiff({ compression: 'lzw' }).toBuffer(),
      await sharp(wide, { raw: { width: 640, height: 480, channels: 3 } })
        .toColourspace('rgb16')
        .png()
        .toBuffer(),
    ];
    for (const bytes of files) {
      const analysis = await vision.analyze(bytes, { micronsPerPixel: 0.15 });
      expect(matches(analysis, field.cells).filter(({ iou }) => iou > 0.4)).toHaveLength(field.cells.length);
    }
  });

  it('two analyses of the same bytes are equal, also beside others', async () => {
    const bytes = await png(smear());
    const others = await Promise.all(
      [1, 2, 3].map((seed) => png(smear({ seed, width: 400, height: 300, cells: { neutrophil: 1, lymphocyte: 1 } }))),
    );
    const alone = await vision.analyze(bytes);
    const [first, second] = await Promise.all([
      vision.analyze(bytes),
      vision.analyze(bytes),
      ...others.map((other) => vision.analyze(other)),
    ]);
    // Names, probabilities, outlines and Grad-CAM to the last bit. The consistency goes through exponentials, which the runtime computes
    // by another way for the last crops of a run: within some 1e-7.
    const about = (value: number) => expect.closeTo(value, 6) as number;
    const same = {
      ...alone,
      timingsMs: expect.anything() as ImageAnalysis['timingsMs'],
      saliencyConsistency: about(alone.saliencyConsistency ?? Number.NaN),
      cells: alone.cells.map((cell) => ({ ...cell, saliencyConsistency: about(cell.saliencyConsistency) })),
    };
    expect(first).toEqual(same);
    expect(second).toEqual(same);
  });
});

describe('fields without white cells', () => {
  it.each([
    ['one pixel', () => flat(1, 1, 120)],
    ['a black field', () => flat(640, 480, 0)],
    ['an empty white field', () => flat(640, 480, 255)],
    ['a line of pixels', () => flat(900, 1, 130)],
    ['red cells only', () => png(smear({ cells: {}, platelets: 0 }))],
  ])('%s', async (_name, make) => {
    const analysis = await vision.analyze(await make());
    expect(whiteCells(analysis)).toEqual([]);
    expect(analysis.saliencyConsistency).toBeNull();
    expect(Number.isFinite(analysis.scale.workingMicronsPerPixel)).toBe(true);
  });
});

/** `paint` gives the colour of each pixel, x and y in 0–1. */
function painted(width: number, height: number, paint: (x: number, y: number) => readonly number[]): Promise<Buffer> {
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) data.set(paint(x / width, y / height), (y * width + x) * 3);
  }
  return png({ width, height, data });
}

/** A small linear congruential generator: the same numbers in every run. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

describe('fields from nowhere give no confident cells', () => {
  const random = numbers(3);
  const hills = (x: number, y: number) => 0.5 + 0.12 * Math.sin(9 * x) + 0.05 * Math.sin(31 * x + 2) < y;
  it.each([
    ['noise', () => painted(640, 480, () => [random() * 255, random() * 255, random() * 255])],
    [
      'a landscape',
      () =>
        painted(640, 480, (x, y) =>
          hills(x, y) ? [60 + 40 * random(), 110 + 50 * random(), 40] : [120 + 60 * y, 170 + 40 * y, 235],
        ),
    ],
    [
      'a checked cloth',
      () =>
        painted(640, 480, (x, y) =>
          (Math.floor(x * 32) + Math.floor(y * 24)) % 2 === 0 ? [130, 60, 150] : [235, 215, 220],
        ),
    ],
    [
      'a smear in colours of no stain',
      async () =>
        sharp(await png(smear()))
          .negate({ alpha: false })
          .png()
          .toBuffer(),
    ],
    [
      'a smear far out of focus',
      async () =>
        sharp(await png(smear()))
          .blur(45)
          .png()
          .toBuffer(),
    ],
  ])('%s', async (_name, make) => {
    const analysis = await vision.analyze(await make());
    const sure = whiteCells(analysis).filter((cell) => cell.class !== 'unidentified' && cell.confidence >= 0.8);
    expect(sure.map((cell) => `${cell.class} ${cell.confidence.toFixed(2)}`)).toEqual([]);
  });
});

describe('what goes wrong', () => {
  it('bytes that are no image reject with a code', async () => {
    await expect(vision.analyze(Buffer.from('%PDF-1.7'))).rejects.toBeInstanceOf(UndecodableImageError);
    const whole = await png(smear());
    await expect(vision.analyze(whole.subarray(0, whole.length / 2))).rejects.toMatchObject({
      code: 'image-truncated',
    });
  });

  it('an implausible scale is refused', async () => {
    const bytes = await flat(10, 10, 9);
    for (const micronsPerPixel of [0, -1, 5, Number.NaN, 0.001]) {
      await expect(vision.analyze(bytes, { micronsPerPixel })).rejects.toBeInstanceOf(RangeError);
    }
  });

  it('an aborted analysis rejects with the reason and leaves the others alone', async () => {
    const bytes = await png(smear());
    const controller = new AbortController();
    const aborted = vision.analyze(bytes, { signal: controller.signal });
    const other = vision.analyze(bytes);
    setTimeout(() => controller.abort(new Error('deleted')), 30);
    await expect(aborted).rejects.toThrow('deleted');
    expect((await other).cells.length).toBeGreaterThan(0);
    await expect(vision.analyze(bytes, { signal: controller.signal })).rejects.toThrow('deleted');
  });
});

it('names its model', () => {
  expect(vision.model).toMatchObject({ name: 'sg-cldff', executionProvider: 'cpu' });
  expect(vision.model.sha256).toMatch(/^[0-9a-f]{64}$/);
});
