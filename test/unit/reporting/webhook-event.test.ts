import { describe, expect, it } from 'vitest';
import { analysisEvent, type FinishedAnalysis } from '../../../src/reporting/webhook-event.js';

const completed: FinishedAnalysis = {
  id: '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e',
  status: 'completed',
  accessionNumber: 'H-26-001',
  specimenId: 'S1',
  orderId: null,
  completedAt: '2026-11-20T10:00:00.000Z',
  differential: { totalWbc: 104 },
  review: { required: true },
};

describe('analysisEvent', () => {
  it('tells a completed analysis in the form of Standard Webhooks', () => {
    expect(analysisEvent(completed, 'https://lab.test/leukodiff/')).toEqual({
      type: 'analysis.completed',
      timestamp: '2026-11-20T10:00:00.000Z',
      data: {
        id: completed.id,
        status: 'completed',
        accessionNumber: 'H-26-001',
        specimenId: 'S1',
        orderId: null,
        totalWbc: 104,
        reviewRequired: true,
        links: {
          self: `https://lab.test/leukodiff/analyses/${completed.id}`,
          cells: `https://lab.test/leukodiff/analyses/${completed.id}/cells`,
        },
      },
    });
  });

  it('tells a failed analysis without a count', () => {
    const event = analysisEvent({ ...completed, status: 'failed', differential: null, review: null });
    expect(event.type).toBe('analysis.failed');
    expect(event.data).toMatchObject({ status: 'failed', totalWbc: null, reviewRequired: null });
    expect(event.data.links.self).toBe(`/analyses/${completed.id}`);
  });

  it('gives the same bytes for the same analysis, so that retries are signed over one body', () => {
    expect(JSON.stringify(analysisEvent(completed))).toBe(JSON.stringify(analysisEvent({ ...completed })));
  });

  it.each(['queued', 'processing'])('refuses an analysis that is %s', (status) => {
    expect(() => analysisEvent({ ...completed, status })).toThrow(RangeError);
  });

  it('refuses a finished analysis without a time', () => {
    expect(() => analysisEvent({ ...completed, completedAt: null })).toThrow(RangeError);
  });
});
