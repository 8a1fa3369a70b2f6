import { expect, it } from 'vitest';
import { imagesAtOnce } from '../../../src/jobs/images-at-once.js';

it('twice as many images as cores, at most 16', () => {
  expect([1, 2, 8, 64].map(imagesAtOnce)).toEqual([2, 4, 16, 16]);
});
