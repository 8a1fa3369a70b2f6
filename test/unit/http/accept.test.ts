import { expect, it } from 'vitest';
import { acceptsMediaType } from '../../../src/http/accept.js';

it.each([
  [undefined, 'application/json', true],
  ['', 'application/json', true],
  ['*/*', 'application/json', true],
  ['application/*', 'application/json', true],
  ['application/json', 'application/json', true],
  ['APPLICATION/JSON', 'application/json', true],
  ['application/json; charset=utf-8', 'application/json', true],
  ['text/html,application/xhtml+xml,*/*;q=0.8', 'application/json', true],
  ['text/html', 'application/json', false],
  ['application/xml', 'application/json', false],
  ['image/*', 'application/json', false],
  ['application/json;q=0', 'application/json', false],
  ['application/json;q=0, */*', 'application/json', false],
  ['*/*;q=0', 'application/json', false],
  ['application/json;q=0.001', 'application/json', true],
  ['image/avif,image/webp', 'image/png', false],
  ['image/*;q=0.5', 'image/png', true],
  ['nonsense', 'application/json', true],
])('Accept %j takes %s: %j', (accept, mediaType, expected) => {
  expect(acceptsMediaType(accept, mediaType)).toBe(expected);
});
