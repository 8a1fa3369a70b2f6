import { describe, expect, it } from 'vitest';
import type { ProblemCause } from '../../../../src/http/problems.js';
import { refusalOf } from '../../../../src/http/upload/refusal.js';

const cause = (code: string, field = 'images[0]'): ProblemCause => ({ field, code, detail: `${code}.` });

describe('refusalOf', () => {
  it('finds nothing to refuse without causes', () => {
    expect(refusalOf([])).toBeUndefined();
  });

  it.each([
    ['unknown-field', 'unknown-field', 400],
    ['image-too-large', 'image-too-large', 413],
    ['unsupported-image-format', 'unsupported-image-format', 415],
    ['invalid-field', 'invalid-fields', 422],
    ['image-empty', 'invalid-image', 422],
    ['image-truncated', 'invalid-image', 422],
    ['image-corrupt', 'invalid-image', 422],
  ])('answers %s with %s (%i)', (code, slug, status) => {
    expect(refusalOf([cause(code)])).toMatchObject({ slug, statusCode: status, errors: [cause(code)] });
  });

  it('lets the most basic mistake decide, and lists all', () => {
    const causes = [cause('image-empty'), cause('unsupported-image-format', 'images[1]'), cause('unknown-field', 'x')];
    const refusal = refusalOf(causes);
    expect(refusal?.slug).toBe('unknown-field');
    expect(refusal?.errors).toEqual(causes);
  });

  it('says the first cause in full in the detail', () => {
    const refusal = refusalOf([{ ...cause('image-empty'), filename: 'a.jpg' }, cause('image-empty', 'images[4]')]);
    expect(refusal?.detail).toBe('images[0] (a.jpg): image-empty. 1 more under errors. Nothing was stored.');
  });
});
