import { describe, expect, it } from 'vitest';
import { conclude } from '../../../src/jobs/finish-analysis.js';
import { allImagesFailed, IMAGE_INTERRUPTED } from '../../../src/jobs/problems.js';

const truncated = { code: 'image-truncated', title: 'The image cannot be read', detail: 'Export it again.' };

describe('an analysis without an image that could be analysed', () => {
  it('fails for the reason of its only image', () => {
    expect(allImagesFailed([{ index: 0, problem: truncated }])).toEqual(truncated);
  });

  it('fails with the reasons of all', () => {
    const problem = allImagesFailed([
      { index: 0, problem: truncated },
      { index: 1, problem: IMAGE_INTERRUPTED },
      { index: 2, problem: truncated },
    ]);
    expect(problem.code).toBe('all-images-failed');
    expect(problem.detail).toContain('All 3 images failed (image-truncated, image-interrupted)');
  });
});

describe('conclude', () => {
  const image = (index: number, failed: boolean) => ({
    index,
    failed,
    qualityFlags: [],
    repeatOf: null,
    problem: failed ? truncated : null,
  });

  it('completes as long as one image could be analysed', () => {
    const findings = {
      targetCells: 100,
      wbcCount: null,
      endedAt: '2026-11-24T12:00:00.000Z',
      cells: [],
      images: [image(0, true), image(1, false)],
    };
    expect(conclude(findings)).toMatchObject({ status: 'completed', differential: { totalWbc: 0 } });
  });

  it('fails otherwise', () => {
    const findings = {
      targetCells: 100,
      wbcCount: null,
      endedAt: '2026-11-24T12:00:00.000Z',
      cells: [],
      images: [image(0, true), image(1, true)],
    };
    expect(conclude(findings)).toMatchObject({ status: 'failed', problem: { code: 'all-images-failed' } });
  });
});
