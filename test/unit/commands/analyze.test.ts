import { describe, expect, it } from 'vitest';
import { type AnalyzeReport, folderNames, table, toReport } from '../../../src/commands/analyze.js';
import { differential } from '../../../src/hematology/differential.js';
import { TEST_MODEL } from '../../support/findings.js';

describe('the folders of results', () => {
  it('are named after their files, and told apart', () => {
    expect(folderNames(['a/one.png', 'b/one.jpg', 'One.tif', 'two'])).toEqual(['one', 'one-2', 'One-3', 'two']);
  });
});

describe('the table', () => {
  it('shows files, classes with their intervals, and why a person must look', () => {
    const nothing = {
      error: null,
      sha256: null,
      repeatOf: null,
      width: 1,
      height: 1,
      scaleSource: null,
      quality: null,
      saliencyConsistency: null,
      timingsMs: null,
    };
    const cell = { class: 'neutrophil', counted: true } as AnalyzeReport['images'][number]['cells'][number];
    const report: AnalyzeReport = {
      model: TEST_MODEL,
      images: [
        { ...nothing, index: 0, file: 'a.png', status: 'completed', micronsPerPixel: 0.25, cells: [cell, cell] },
        {
          ...nothing,
          index: 1,
          file: 'b.png',
          status: 'failed',
          error: 'There is no such file.',
          micronsPerPixel: null,
          cells: [],
        },
      ],
      differential: differential([cell, cell], { targetCells: 100 }),
      review: {
        required: true,
        reasons: [{ code: 'below_target', message: 'Send more fields.', value: 2, threshold: 100, images: [] }],
      },
    };
    const text = table(report);
    expect(text).toMatch(/a\.png\s+2\s+0\.250\s+2 neutrophil/);
    expect(text).toMatch(/b\.png\s+0\s+-\s+failed: There is no such file\./);
    expect(text).toMatch(/neutrophil\s+2\s+100\.0\s+15\.8 to 100\.0/);
    expect(text).toMatch(/white cells counted\s+2/);
    expect(text).toContain('  - Send more fields.');
  });
});

describe('the result', () => {
  it('counts a file that is named twice once, and says so', () => {
    const file = (index: number, sha256: string): AnalyzeReport['images'][number] => ({
      index,
      file: `${index}.png`,
      status: 'completed',
      error: null,
      sha256,
      repeatOf: null,
      width: 1,
      height: 1,
      micronsPerPixel: 0.25,
      scaleSource: 'given',
      quality: null,
      saliencyConsistency: null,
      timingsMs: null,
      cells: [{ class: 'neutrophil', image: index, counted: true, confidence: 1, flags: [] }] as never,
    });
    const {
      images,
      differential: counted,
      review,
    } = toReport(TEST_MODEL, [file(0, 'a'), file(1, 'a'), file(2, 'b')], 2);
    expect(counted.totalWbc).toBe(2);
    expect(images.map(({ repeatOf, cells }) => [repeatOf, cells[0]?.counted])).toEqual([
      [null, true],
      [0, false],
      [null, true],
    ]);
    expect(review.reasons.map(({ code }) => code)).toEqual(['image_repeated']);
  });
});
