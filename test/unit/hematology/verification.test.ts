import { describe, expect, it } from 'vitest';
import { mustBeLookedAt, sign } from '../../../src/hematology/verification.js';
import { cellsOf, HEALTHY, rename, resultOf, signedResult } from '../../support/reports.js';

const start = (counts: Parameters<typeof cellsOf>[0]) => {
  const cells = cellsOf(counts);
  return { cells, result: resultOf(cells) };
};
const refusal = ({ result, cells }: ReturnType<typeof start>) => {
  const outcome = sign(result, cells, { reviewer: 'x', at: '2026-11-20T09:00:00.000Z' });
  return 'refused' in outcome ? outcome.refused : null;
};
/** The `n`th cell of a class. */
const cellOf = ({ cells }: ReturnType<typeof start>, type: string): string =>
  cells.find((cell) => cell.class === type && cell.reviewedClass === null)?.id ?? '';

describe('which cells a person must look at', () => {
  it.each([
    ['neutrophil', [], false],
    ['neutrophil', ['border', 'touching'], false],
    ['neutrophil', ['low_confidence'], true],
    ['neutrophil', ['border', 'low_consistency'], true],
    ['platelet', [], false],
    ['blast', [], true],
    ['immature_granulocyte', [], true],
    ['erythroblast', [], true],
    ['unidentified', [], true],
  ] as const)('%s %j: %s', (type, flags, expected) => {
    expect(mustBeLookedAt({ class: type, flags })).toBe(expected);
  });
});

describe('recount', () => {
  it('counts anew over the names that stand, and keeps what the service had found', () => {
    const before = start(HEALTHY);
    const { result } = rename(before, cellOf(before, 'neutrophil'), 'blast');
    const percent = (of: typeof result.differential, type: string) =>
      of.classes.find((line) => line.class === type)?.percent;
    expect(percent(result.differential, 'neutrophil')).toBe(61);
    expect(percent(result.differential, 'blast')).toBe(1);
    expect(result.differential.classes.find((line) => line.class === 'blast')?.absoluteCount).toBe(0.072);
    expect(result.review.reasons.map((reason) => reason.code)).toEqual(['blasts_present']);
    expect(result.verification).toMatchObject({ status: 'preliminary', revision: 2, cellsToReview: 0 });
    expect(result.verification.before).toEqual({
      differential: before.result.differential,
      review: before.result.review,
    });
    // A second change does not move what was there before the first.
    const second = rename({ ...before, result }, cellOf(before, 'monocyte'), 'lymphocyte').result;
    expect(second.verification.before).toEqual(result.verification.before);
  });

  it('lets a named cell into the total', () => {
    const before = start({ ...HEALTHY, unidentified: 1 });
    expect(before.result.review.required).toBe(true);
    const { result } = rename(before, cellOf(before, 'unidentified'), 'monocyte');
    expect(result.differential.totalWbc).toBe(before.result.differential.totalWbc + 1);
    expect(result.review.reasons).toEqual([]);
    expect(result.verification).toMatchObject({ cellsToReview: 1, cellsLeft: 0 });
  });

  it('takes a person’s word as certain', () => {
    const cells = cellsOf(HEALTHY).map((cell, n) =>
      n < 30 ? { ...cell, confidence: 0.2, flags: ['low_confidence'] } : cell,
    );
    let state = { cells, result: resultOf(cells) };
    const codes = () => state.result.review.reasons.map((reason) => reason.code);
    expect(codes()).toEqual(['low_mean_confidence', 'many_low_confidence_cells']);
    for (let n = 0; n < 10; n += 1) state = rename(state, `0-${n}`, 'neutrophil');
    expect(codes()).toEqual([]);
    // The reasons are gone, and with them nothing of the duty to look at the others.
    expect(refusal(state)).toMatchObject({ code: 'cells_not_reviewed' });
    expect(refusal(state)?.cells).toHaveLength(20);
  });
});

describe('sign', () => {
  it('makes a result final that gives no reason to look', () => {
    const { result, cells } = start(HEALTHY);
    expect(signedResult(result, cells, 'mlopez').verification).toMatchObject({
      status: 'final',
      revision: 2,
      signedBy: 'mlopez',
      signedAt: '2026-11-20T08:12:40.000Z',
      before: null,
    });
  });

  it('refuses while a cell has no name', () => {
    const state = start({ ...HEALTHY, unidentified: 2 });
    expect(refusal(state)).toEqual({ code: 'unidentified_left', cells: ['0-103', '0-104'] });
    // Looking at it without naming it does not help.
    const looked = rename(state, '0-103', 'unidentified');
    expect(refusal(looked)?.code).toBe('unidentified_left');
    const named = rename(rename(looked, '0-103', 'smudge'), '0-104', 'artefact');
    expect(refusal(named)).toBeNull();
  });

  it('refuses while a flagged cell was not looked at, if review is required', () => {
    const state = start({ ...HEALTHY, blast: 2 });
    expect(refusal(state)).toEqual({ code: 'cells_not_reviewed', cells: ['0-103', '0-104'] });
    const confirmed = rename(rename(state, '0-103', 'blast'), '0-104', 'blast');
    expect(refusal(confirmed)).toBeNull();
    expect(confirmed.result.verification).toMatchObject({ status: 'preliminary', revision: 3, cellsLeft: 0 });
  });

  it('does not ask for flagged cells where no review is required', () => {
    const cells = cellsOf(HEALTHY).map((cell, n) => (n === 0 ? { ...cell, flags: ['low_consistency'] } : cell));
    const result = resultOf(cells);
    expect(result.review.required).toBe(false);
    expect(refusal({ cells, result })).toBeNull();
  });

  it('is refused to those who looked at cells, where the site asks for four eyes', () => {
    const { result, cells } = start(HEALTHY);
    const looks = [
      { cell: '0-4', reviewer: 'MLópez ' },
      { cell: '0-4', reviewer: 'mlópez' },
      { cell: '0-9', reviewer: 'mlo\u0301pez' },
      { cell: '0-5', reviewer: 'akim' },
    ];
    const signedBy = (reviewer: string) => sign(result, cells, { reviewer, at: '2026-11-20T09:00:00.000Z', looks });
    expect(signedBy('mlópez')).toEqual({ refused: { code: 'own_work', cells: ['0-4', '0-9'] } });
    expect(signedBy(' AKim')).toEqual({ refused: { code: 'own_work', cells: ['0-5'] } });
    expect(signedBy('mlopez2')).toMatchObject({ signed: { verification: { status: 'final', signedBy: 'mlopez2' } } });
  });

  it('refuses a second signature on the same result', () => {
    const { result, cells } = start(HEALTHY);
    expect(refusal({ cells, result: signedResult(result, cells) })).toEqual({ code: 'already_signed', cells: [] });
  });

  it('is undone by a change, and then corrects', () => {
    const state = start(HEALTHY);
    const final = { ...state, result: signedResult(state.result, state.cells) };
    const confirmed = rename(final, '0-1', 'neutrophil');
    expect(confirmed.result.verification.status).toBe('final');
    const amended = rename(confirmed, '0-0', 'monocyte');
    expect(amended.result.verification).toMatchObject({ status: 'amended', signedBy: 'mlopez' });
    const corrected = signedResult(amended.result, amended.cells, 'second');
    expect(corrected.verification).toMatchObject({ status: 'corrected', signedBy: 'second', revision: 5 });
    expect(refusal({ cells: amended.cells, result: corrected })?.code).toBe('already_signed');
    expect(rename({ cells: amended.cells, result: corrected }, '0-2', 'basophil').result.verification.status).toBe(
      'amended',
    );
  });
});
