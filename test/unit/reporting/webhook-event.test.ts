import { describe, expect, it } from 'vitest';
import { analysisEvent, endingEvents, type FinishedAnalysis, pingEvent } from '../../../src/reporting/webhook-event.js';

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

describe('the events of an analysis that ended', () => {
  it('tell a completed analysis in the form of Standard Webhooks, and that a person has to look', () => {
    const [ended, review, ...rest] = endingEvents(completed, 'https://lab.test/leukodiff/');
    expect(ended).toEqual({
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
    expect(review).toEqual({ ...ended, type: 'analysis.review_required' });
    expect(rest).toEqual([]);
  });

  it('ask nobody to look where review is not required', () => {
    const events = endingEvents({ ...completed, review: { required: false } });
    expect(events.map(({ type }) => type)).toEqual(['analysis.completed']);
  });

  it('tell a failed analysis without a count', () => {
    const [event, ...rest] = endingEvents({ ...completed, status: 'failed', differential: null, review: null });
    expect(event?.type).toBe('analysis.failed');
    expect(event?.data).toMatchObject({ status: 'failed', totalWbc: null, reviewRequired: null });
    expect(event?.data.links.self).toBe(`/analyses/${completed.id}`);
    expect(rest).toEqual([]);
  });

  it('give the same bytes for the same analysis, so that retries are signed over one body', () => {
    expect(JSON.stringify(endingEvents(completed))).toBe(JSON.stringify(endingEvents({ ...completed })));
  });

  it.each(['queued', 'processing'])('do not exist for an analysis that is %s', (status) => {
    expect(() => endingEvents({ ...completed, status })).toThrow(RangeError);
    expect(() => analysisEvent({ ...completed, status }, 'analysis.signed', '2026-11-20T10:00:00.000Z')).toThrow(
      RangeError,
    );
  });

  it('do not exist for a finished analysis without a time', () => {
    expect(() => endingEvents({ ...completed, completedAt: null })).toThrow(RangeError);
  });
});

describe('other events', () => {
  it('a signature has the time at which it was given', () => {
    const event = analysisEvent(completed, 'analysis.signed', '2026-11-20T11:30:00.000Z', 'https://lab.test');
    expect(event).toMatchObject({ type: 'analysis.signed', timestamp: '2026-11-20T11:30:00.000Z' });
    expect(event.data).toMatchObject({ id: completed.id, status: 'completed' });
  });

  it('a ping names its endpoint and nothing else', () => {
    expect(pingEvent('e-1', '2026-11-20T11:30:00.000Z')).toEqual({
      type: 'webhook.ping',
      timestamp: '2026-11-20T11:30:00.000Z',
      data: { endpointId: 'e-1' },
    });
  });
});
