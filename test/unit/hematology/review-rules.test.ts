import { describe, expect, test } from 'vitest';
import { type CellType, WBC_CLASSES } from '../../../src/hematology/cell-types.js';
import { differential } from '../../../src/hematology/differential.js';
import {
  REVIEW_CODES,
  type Review,
  type ReviewCell,
  type ReviewCode,
  type ReviewImage,
  reviewRules,
} from '../../../src/hematology/review-rules.js';

interface Case {
  counts?: Partial<Record<CellType, number>>;
  cells?: readonly Partial<ReviewCell>[];
  images?: readonly Partial<ReviewImage>[];
  targetCells?: number;
  wbcCount?: number;
}

/** A result that no rule objects to, changed by what the case says. */
const NORMAL: Partial<Record<CellType, number>> = {
  neutrophil: 60,
  lymphocyte: 28,
  monocyte: 8,
  eosinophil: 3,
  basophil: 1,
};

function review({ counts = NORMAL, cells = [], images = [{}], targetCells = 1, wbcCount }: Case = {}): Review {
  const plain: Omit<ReviewCell, 'class'> = { counted: true, confidence: 0.97, flags: [], image: 0 };
  const all: ReviewCell[] = [
    ...Object.entries(counts).flatMap(([type, count]) =>
      Array.from({ length: count }, () => ({ ...plain, class: type as CellType })),
    ),
    ...cells.map((cell) => ({ ...plain, class: 'neutrophil' as const, ...cell })),
  ];
  return reviewRules({
    differential: differential(all, { targetCells, ...(wbcCount === undefined ? {} : { wbcCount }) }),
    cells: all,
    images: images.map((image, index) => ({ index, failed: false, qualityFlags: [], repeatOf: null, ...image })),
  });
}

function codes(result: Review): ReviewCode[] {
  return result.reasons.map((reason) => reason.code);
}

function repeat(count: number, cell: Partial<ReviewCell>): Partial<ReviewCell>[] {
  return Array.from({ length: count }, () => cell);
}

test('a normal differential needs no attention', () => {
  expect(review({ targetCells: 100 })).toEqual({ required: false, reasons: [] });
});

/** Each rule at its limit: the last input that passes and the first that does not. */
const CASES: { code: ReviewCode; passes: Case; fails: Case; value: number | null; images?: number[] }[] = [
  {
    code: 'no_wbc_found',
    passes: { counts: { neutrophil: 1 } },
    fails: { counts: { platelet: 30 } },
    value: 0,
  },
  {
    code: 'blasts_present',
    passes: {},
    fails: { cells: [{ class: 'blast', image: 3 }] },
    value: 1,
    images: [3],
  },
  {
    // Cut by a border that does not count: not in the differential, but not to be overlooked either.
    code: 'blasts_present',
    passes: { cells: [{ class: 'monocyte', counted: false }] },
    fails: {
      cells: [
        { class: 'blast', counted: false, image: 2 },
        { class: 'blast', image: 0 },
        { class: 'blast', image: 2 },
      ],
    },
    value: 3,
    images: [0, 2],
  },
  {
    code: 'immature_granulocytes_present',
    passes: { counts: { neutrophil: 120, lymphocyte: 80, immature_granulocyte: 1 } },
    fails: { counts: { neutrophil: 119, lymphocyte: 79, immature_granulocyte: 2 } },
    value: 1,
    images: [0],
  },
  {
    code: 'erythroblasts_present',
    passes: {},
    fails: { cells: [{ class: 'erythroblast', counted: false }] },
    value: 1,
    images: [0],
  },
  {
    code: 'unidentified_cells',
    passes: { cells: [{ class: 'artefact' }] },
    fails: { cells: [{ class: 'unidentified', image: 1 }] },
    value: 1,
    images: [1],
  },
  {
    code: 'below_target',
    passes: { targetCells: 100 },
    fails: { targetCells: 101 },
    value: 100,
  },
  {
    code: 'low_mean_confidence',
    passes: { counts: {}, cells: [{ confidence: 0.7 }, { confidence: 0.9 }, { class: 'platelet', confidence: 0 }] },
    fails: { counts: {}, cells: [{ confidence: 0.7 }, { confidence: 0.89 }, { class: 'platelet', confidence: 1 }] },
    value: 0.795,
  },
  {
    code: 'many_low_confidence_cells',
    passes: { counts: { neutrophil: 8 }, cells: repeat(2, { flags: ['low_confidence'] }) },
    fails: { counts: { neutrophil: 7 }, cells: repeat(3, { flags: ['border', 'low_confidence'], image: 4 }) },
    value: 0.3,
    images: [4],
  },
  {
    code: 'low_saliency_consistency',
    passes: {
      counts: { neutrophil: 8 },
      cells: [
        ...repeat(2, { flags: ['low_consistency'] }),
        ...repeat(9, { class: 'artefact', flags: ['low_consistency'] }),
      ],
    },
    fails: { counts: { neutrophil: 7 }, cells: repeat(3, { flags: ['low_consistency'], image: 5 }) },
    value: 0.3,
    images: [5],
  },
  {
    code: 'implausible_distribution',
    passes: { counts: { neutrophil: 65, lymphocyte: 30, basophil: 5 } },
    fails: { counts: { neutrophil: 64, lymphocyte: 30, basophil: 6 } },
    value: null,
  },
  {
    code: 'many_smudge_cells',
    passes: { counts: { ...NORMAL, smudge: 19 } },
    fails: { counts: { ...NORMAL, smudge: 20 } },
    value: 20,
  },
  {
    code: 'image_failed',
    passes: { images: [{}, {}] },
    fails: { images: [{}, { failed: true }] },
    value: 1,
    images: [1],
  },
  {
    code: 'image_out_of_focus',
    passes: { images: [{ qualityFlags: ['blank'] }] },
    fails: { images: [{ qualityFlags: ['out_of_focus'] }, {}, { qualityFlags: ['out_of_focus'] }] },
    value: 2,
    images: [0, 2],
  },
  {
    code: 'image_poor_exposure',
    passes: {},
    fails: { images: [{ qualityFlags: ['too_dark'] }, { qualityFlags: ['too_bright'] }] },
    value: 2,
    images: [0, 1],
  },
  {
    code: 'scale_unknown',
    passes: {},
    fails: { images: [{}, { qualityFlags: ['scale_unknown'] }] },
    value: 1,
    images: [1],
  },
  {
    code: 'image_repeated',
    passes: { images: [{}, {}, {}] },
    fails: { images: [{}, { repeatOf: 0 }, { repeatOf: 0 }] },
    value: 2,
    images: [1, 2],
  },
];

describe.each(CASES)('$code', ({ code, passes, fails, value, images = [] }) => {
  test('passes below the limit', () => {
    expect(codes(review(passes))).not.toContain(code);
  });

  test('requires review from it, for this reason alone', () => {
    const result = review(fails);
    expect(codes(result)).toEqual([code]);
    expect(result.required).toBe(true);
    expect(result.reasons[0]).toMatchObject({ value, images });
    expect(result.reasons[0]?.message).toMatch(/^[A-Z0-9].*\.$/);
  });
});

test('every code has its case above', () => {
  expect(new Set(CASES.map((one) => one.code))).toEqual(new Set(REVIEW_CODES));
});

describe('implausible distribution', () => {
  test.each<[string, Partial<Record<CellType, number>>]>([
    ['neutrophils 96 %', { neutrophil: 96, lymphocyte: 4 }],
    ['neutrophils 9 %', { neutrophil: 9, lymphocyte: 71, monocyte: 20 }],
    ['lymphocytes 81 %', { neutrophil: 19, lymphocyte: 81 }],
    ['monocytes 26 %', { neutrophil: 74, monocyte: 26 }],
    ['eosinophils 26 %', { neutrophil: 74, eosinophil: 26 }],
    ['basophils 6 %', { neutrophil: 94, basophil: 6 }],
  ])('%s', (text, counts) => {
    const result = review({ counts });
    expect(codes(result)).toEqual(['implausible_distribution']);
    expect(result.reasons[0]?.message).toContain(text);
  });

  test('says nothing about fewer than 25 cells', () => {
    expect(codes(review({ counts: { eosinophil: 24 } }))).toEqual([]);
    expect(codes(review({ counts: { eosinophil: 25 } }))).toEqual(['implausible_distribution']);
  });
});

describe('no white cell: the likely cause is named', () => {
  test.each<[string, Case, RegExp]>([
    ['every image failed', { images: [{ failed: true }] }, /No image could be analysed/],
    ['unidentified only', { cells: [{ class: 'unidentified' }] }, /could not name/],
    ['cut cells only', { cells: [{ class: 'lymphocyte', counted: false }] }, /right or bottom border/],
    ['blank', { images: [{ qualityFlags: ['blank'] }, { failed: true }] }, /blank/],
    ['dark', { images: [{ qualityFlags: ['too_dark'] }] }, /too dark/],
    ['bright', { images: [{ qualityFlags: ['too_bright'] }] }, /too bright/],
    ['blurred', { images: [{ qualityFlags: ['out_of_focus'] }] }, /out of focus/],
    ['no scale', { images: [{ qualityFlags: ['scale_unknown'] }] }, /send micronsPerPixel/],
    ['one of two is blank', { images: [{ qualityFlags: ['blank'] }, {}] }, /may hold none/],
    ['platelets only', { cells: [{ class: 'platelet' }] }, /Only platelets/],
    ['nothing at all', {}, /may hold none/],
  ])('%s', (_, input, cause) => {
    const result = review({ counts: {}, ...input });
    expect(result.reasons[0]?.code).toBe('no_wbc_found');
    expect(result.reasons[0]?.message).toMatch(/^No white blood cell was counted\. /);
    expect(result.reasons[0]?.message).toMatch(cause);
    expect(codes(result)).not.toContain('below_target');
  });
});

test('singular and plural read as they should', () => {
  expect(review({ cells: [{ class: 'unidentified' }] }).reasons[0]?.message).toMatch(/^1 cell was not named/);
  expect(review({ cells: repeat(2, { class: 'unidentified' }) }).reasons[0]?.message).toMatch(
    /^2 cells were not named/,
  );
});

test('erythroblasts: the message says whether absolute counts were corrected', () => {
  const cells = [{ class: 'erythroblast' as const }];
  expect(review({ cells }).reasons[0]?.message).toMatch(/may include them/);
  expect(review({ cells, wbcCount: 8 }).reasons[0]?.message).toMatch(/were corrected/);
});

test('reasons come in the order of the codes, each once', () => {
  const result = review({
    counts: Object.fromEntries(WBC_CLASSES.map((type) => [type, 5])),
    images: [{ qualityFlags: ['scale_unknown', 'too_dark'] }, { failed: true }],
    targetCells: 200,
  });
  const order = codes(result).map((code) => REVIEW_CODES.indexOf(code));
  expect(order).toEqual(order.toSorted((a, b) => a - b));
  expect(new Set(order).size).toBe(order.length);
  expect(order.length).toBeGreaterThan(4);
});
