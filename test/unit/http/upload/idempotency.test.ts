import { describe, expect, it } from 'vitest';
import { fingerprintOf, idempotencyKeyOf } from '../../../../src/http/upload/idempotency.js';
import { parseOrder } from '../../../../src/http/upload/order-fields.js';

describe('an Idempotency-Key', () => {
  it.each([
    ['"abc"', 'abc'],
    ['abc', 'abc'],
    ['  "a b"  ', 'a b'],
    [String.raw`"a\\b\"c"`, String.raw`a\b"c`],
    ['x'.repeat(255), 'x'.repeat(255)],
  ])('%j is %j', (header, key) => {
    expect(idempotencyKeyOf(header)).toBe(key);
  });

  it('may be absent', () => {
    expect(idempotencyKeyOf(undefined)).toBeNull();
  });

  it.each(['', '  ', '""', 'x'.repeat(256), 'k\u00e9y', 'a\tb'])('cannot be %j', (header) => {
    expect(() => idempotencyKeyOf(header)).toThrow();
  });
});

describe('a fingerprint', () => {
  const order = (fields: Record<string, string>) =>
    parseOrder(
      Object.entries(fields).map(([name, value]) => ({ name, value, truncated: false })),
      65_536,
    ).order;
  const [a, b] = [{ sha256: 'a'.repeat(64) }, { sha256: 'b'.repeat(64) }];
  const base = fingerprintOf(order({ accessionNumber: 'X', metadata: '{"p":{"q":1,"r":2},"s":[1,2]}' }), [a, b]);

  it('is the same for the same values', () => {
    const same = order({
      metadata: '{"s":[1,2],"p":{"r":2,"q":1}}',
      accessionNumber: 'X',
      targetCells: '100',
      site: '',
    });
    expect(fingerprintOf(same, [a, b])).toEqual(base);
  });

  it.each<[string, Record<string, string>, { sha256: string }[]]>([
    ['a field', { accessionNumber: 'Y', metadata: '{"p":{"q":1,"r":2},"s":[1,2]}' }, [a, b]],
    ['a value within', { accessionNumber: 'X', metadata: '{"p":{"q":1,"r":3},"s":[1,2]}' }, [a, b]],
    ['the order of a list', { accessionNumber: 'X', metadata: '{"p":{"q":1,"r":2},"s":[2,1]}' }, [a, b]],
    ['a text for a number', { accessionNumber: 'X', metadata: '{"p":{"q":"1","r":2},"s":[1,2]}' }, [a, b]],
    ['the images', { accessionNumber: 'X', metadata: '{"p":{"q":1,"r":2},"s":[1,2]}' }, [b, a]],
    ['an image less', { accessionNumber: 'X', metadata: '{"p":{"q":1,"r":2},"s":[1,2]}' }, [a]],
  ])('differs with %s', (_name, fields, files) => {
    expect(fingerprintOf(order(fields), files)).not.toEqual(base);
  });
});
