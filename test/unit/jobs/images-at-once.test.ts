import { expect, it } from 'vitest';
import { imagesAtOnce } from '../../../src/jobs/images-at-once.js';

it('as many images as cores, at most 8; on a GPU, which takes none of them, twice as many', () => {
  const rule = [1, 2, 8, 64].map((cores) => [imagesAtOnce(cores, 'cpu'), imagesAtOnce(cores, 'cuda')]);
  expect(rule).toEqual([
    [1, 2],
    [2, 4],
    [8, 16],
    [8, 16],
  ]);
});
