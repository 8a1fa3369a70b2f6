import { describe, expect, test } from 'vitest';
import {
  CELL_TYPES,
  type CellType,
  isWbcClass,
  OTHER_CLASSES,
  WBC_CLASSES,
} from '../../../src/hematology/cell-types.js';
import { type CountableCell, correctWbcCount, differential } from '../../../src/hematology/differential.js';
import { createRandom } from '../../support/random.js';

function cells(counts: Partial<Record<CellType, number>>, counted = true): CountableCell[] {
  return Object.entries(counts).flatMap(([type, count]) =>
    Array.from({ length: count }, () => ({ class: type as CellType, counted })),
  );
}

function line(result: ReturnType<typeof differential>, type: CellType) {
  const found = result.classes.find((one) => one.class === type);
  if (found === undefined) throw new Error(`${type} is not in the differential`);
  return found;
}

describe('a hundred cells', () => {
  const result = differential(
    cells({ neutrophil: 58, lymphocyte: 28, monocyte: 9, eosinophil: 4, basophil: 1, platelet: 40, erythroblast: 3 }),
    { targetCells: 100, wbcCount: 7.2 },
  );

  test('counts, percentages and their intervals', () => {
    expect(result.totalWbc).toBe(100);
    expect(result.denominator).toBe('totalWbc');
    expect(result.targetReached).toBe(true);
    expect(line(result, 'monocyte')).toMatchObject({ count: 9, percent: 9, ci95: { low: 4.2, high: 16.4 } });
    expect(line(result, 'blast')).toMatchObject({ count: 0, percent: 0, ci95: { low: 0, high: 3.62 } });
  });

  test('erythroblasts and platelets stand beside the total', () => {
    expect(result.others).toContainEqual({ class: 'erythroblast', count: 3 });
    expect(result.others).toContainEqual({ class: 'platelet', count: 40 });
    expect(result.nrbcPer100Wbc).toBe(3);
  });

  test('absolute counts rest on the corrected WBC count', () => {
    expect(result.wbcCount).toBe(7.2);
    expect(result.wbcCountCorrected).toBe(6.99); // 7.2 × 100 / 103
    expect(line(result, 'neutrophil').absoluteCount).toBe(4.054); // 6.990291… × 0.58
    expect(line(result, 'blast').absoluteCount).toBe(0);
  });
});

describe('what counts', () => {
  test.each([...WBC_CLASSES])('%s belongs to the total', (type) => {
    const result = differential(cells({ [type]: 1 }), { targetCells: 1 });
    expect(result.totalWbc).toBe(1);
    expect(line(result, type).percent).toBe(100);
    expect(result.others.every((one) => one.count === 0)).toBe(true);
  });

  test.each([...OTHER_CLASSES])('%s does not', (type) => {
    const result = differential(cells({ [type]: 1, neutrophil: 1 }), { targetCells: 1 });
    expect(result.totalWbc).toBe(1);
    expect(line(result, 'neutrophil').percent).toBe(100);
    expect(result.others.find((one) => one.class === type)?.count).toBe(1);
  });

  test('cells that the border rule leaves out are in no count but their own', () => {
    const result = differential([...cells({ neutrophil: 3 }), ...cells({ neutrophil: 2, erythroblast: 1 }, false)], {
      targetCells: 4,
    });
    expect(result.totalWbc).toBe(3);
    expect(result.notCounted).toBe(3);
    expect(result.targetReached).toBe(false);
    expect(result.nrbcPer100Wbc).toBe(0);
    expect(result.countingRule).toMatch(/right or bottom/);
  });
});

test('without white cells there is no percentage, no interval and no ratio, rather than a zero', () => {
  for (const found of [cells({}), cells({ erythroblast: 4, unidentified: 2, platelet: 9 })]) {
    const result = differential(found, { targetCells: 100, wbcCount: 6 });
    expect(result.totalWbc).toBe(0);
    expect(result.targetReached).toBe(false);
    expect(result.nrbcPer100Wbc).toBeNull();
    expect(result.wbcCountCorrected).toBeNull();
    expect(result.classes).toHaveLength(WBC_CLASSES.length);
    for (const one of result.classes) {
      expect(one).toMatchObject({ count: 0, percent: null, ci95: null, absoluteCount: null });
    }
  }
});

test('without a WBC count there are no absolute counts', () => {
  for (const wbcCount of [undefined, null]) {
    const result = differential(cells({ neutrophil: 2 }), {
      targetCells: 100,
      ...(wbcCount === undefined ? {} : { wbcCount }),
    });
    expect(result.wbcCount).toBeNull();
    expect(result.wbcCountCorrected).toBeNull();
    for (const one of result.classes) expect(one.absoluteCount).toBeNull();
  }
});

test('a WBC count of zero is a count', () => {
  const result = differential(cells({ neutrophil: 2 }), { targetCells: 100, wbcCount: 0 });
  expect(result.wbcCountCorrected).toBe(0);
  expect(line(result, 'neutrophil').absoluteCount).toBe(0);
});

test('correction for erythroblasts', () => {
  expect(correctWbcCount(12, 0)).toBe(12);
  expect(correctWbcCount(12, 100)).toBe(6);
  expect(correctWbcCount(17.4, 8)).toBeCloseTo(16.111, 3);
});

test('decimals are rounded half up, not cut', () => {
  const third = differential(cells({ neutrophil: 1, lymphocyte: 2 }), { targetCells: 3 });
  expect(third.classes.map((one) => one.percent)).toEqual([33.33, 66.67, 0, 0, 0, 0, 0]);
  // 1 of 800 is 0.125 %, 23 of 160 is 14.375 %: both end on the half.
  expect(line(differential(cells({ neutrophil: 799, blast: 1 }), { targetCells: 1 }), 'blast').percent).toBe(0.13);
  expect(line(differential(cells({ neutrophil: 137, blast: 23 }), { targetCells: 1 }), 'blast').percent).toBe(14.38);
});

test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('a target of %d is refused', (targetCells) => {
  expect(() => differential([], { targetCells })).toThrow(/targetCells must be/);
});

test.each([-0.1, Number.NaN, Number.POSITIVE_INFINITY])('a WBC count of %d is refused', (wbcCount) => {
  expect(() => differential([], { targetCells: 100, wbcCount })).toThrow(/wbcCount must be/);
});

test('invariants hold for any mixture of cells', () => {
  const { next: random } = createRandom(57_782);
  for (let run = 0; run < 400; run += 1) {
    const size = Math.floor(random() ** 3 * 600);
    const found: CountableCell[] = Array.from({ length: size }, () => ({
      class: CELL_TYPES[Math.floor(random() * CELL_TYPES.length)] ?? 'artefact',
      counted: random() > 0.1,
    }));
    const wbcCount = random() > 0.5 ? random() * 100 : null;
    const result = differential(found, { targetCells: 1 + Math.floor(random() * 200), wbcCount });

    // Every cell is somewhere, once.
    const listed = [...result.classes, ...result.others].reduce((sum, one) => sum + one.count, 0);
    expect(listed + result.notCounted).toBe(size);
    expect(result.classes.reduce((sum, one) => sum + one.count, 0)).toBe(result.totalWbc);
    expect(result.totalWbc).toBe(found.filter((cell) => cell.counted && isWbcClass(cell.class)).length);
    expect(result.targetReached).toBe(result.totalWbc >= result.targetCells);

    // The order of the cells is of no meaning.
    expect(differential(found.toReversed(), { targetCells: result.targetCells, wbcCount })).toEqual(result);

    if (result.totalWbc === 0) continue;
    const percentages = result.classes.reduce((sum, one) => sum + (one.percent ?? Number.NaN), 0);
    expect(Math.abs(percentages - 100)).toBeLessThanOrEqual(0.005 * WBC_CLASSES.length + 1e-9);
    for (const { percent, ci95 } of result.classes) {
      expect(ci95?.low).toBeLessThanOrEqual(percent ?? Number.NaN);
      expect(ci95?.high).toBeGreaterThanOrEqual(percent ?? Number.NaN);
      expect(ci95?.low).toBeGreaterThanOrEqual(0);
      expect(ci95?.high).toBeLessThanOrEqual(100);
    }
    if (wbcCount === null) continue;
    expect(result.wbcCountCorrected).toBeLessThanOrEqual(wbcCount + 0.0005);
    const absolute = result.classes.reduce((sum, one) => sum + (one.absoluteCount ?? Number.NaN), 0);
    expect(Math.abs(absolute - (result.wbcCountCorrected ?? Number.NaN))).toBeLessThan(0.005);
  }
});
