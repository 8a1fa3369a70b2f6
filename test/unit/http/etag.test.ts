import { describe, expect, it } from 'vitest';
import { entityTag, matchesEntityTag } from '../../../src/http/etag.js';

describe('entityTag', () => {
  it('is a quoted string that changes with the content', () => {
    expect(entityTag('a')).toMatch(/^"[\w-]{16}"$/);
    expect(entityTag('a')).toBe(entityTag(Buffer.from('a')));
    expect(entityTag('a')).not.toBe(entityTag('b'));
  });
});

describe('matchesEntityTag', () => {
  it.each([
    [undefined, false],
    ['"x"', true],
    ['W/"x"', true],
    ['"a", "x"', true],
    ['*', true],
    ['"a"', false],
    ['x', false],
  ])('If-None-Match %j: %j', (header, expected) => {
    expect(matchesEntityTag(header, '"x"')).toBe(expected);
  });
});
