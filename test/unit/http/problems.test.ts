import { describe, expect, it } from 'vitest';
import { PROBLEMS, ProblemError, type ProblemSlug, problemDocument } from '../../../src/http/problems.js';

const request = { path: '/analyze', requestId: 'r1' };

describe('the table of problems', () => {
  it.each(Object.entries(PROBLEMS))('%s has a stable form and says what to do', (slug, { title, status, advice }) => {
    expect(slug).toMatch(/^[a-z]+(-[a-z]+)*$/);
    expect(title).toMatch(/^[A-Z].*[^.]$/);
    expect(status).toBeGreaterThanOrEqual(400);
    expect(status).toBeLessThan(600);
    expect(advice).toMatch(/[.]$|\/analyze$/);
  });
});

describe('problemDocument', () => {
  it('falls back to the advice of the table', () => {
    expect(problemDocument(new ProblemError('queue-full'), request)).toEqual({
      type: 'https://leukodiff.dev/problems/queue-full',
      title: PROBLEMS['queue-full'].title,
      status: 429,
      detail: PROBLEMS['queue-full'].advice,
      instance: '/analyze',
      requestId: 'r1',
    });
  });

  it('carries the causes', () => {
    const errors = [{ field: 'wbcCount', detail: 'Send a number.' }];
    expect(problemDocument(new ProblemError('invalid-fields', { detail: 'No.', errors }), request)).toMatchObject({
      detail: 'No.',
      errors,
    });
  });

  it('never shows what caused it', () => {
    const slugs = Object.keys(PROBLEMS) as ProblemSlug[];
    const documents = slugs.map((slug) =>
      problemDocument(new ProblemError(slug, { cause: new Error('password=hunter2') }), request),
    );
    expect(JSON.stringify(documents)).not.toContain('hunter2');
  });
});
