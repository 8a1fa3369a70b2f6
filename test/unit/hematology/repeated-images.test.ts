import { describe, expect, it } from 'vitest';
import { cellsOnce, repeatedImages } from '../../../src/hematology/repeated-images.js';

/** One letter an image: its bytes; in capitals: it failed; `-`: it could not be read. */
const repeatsOf = (images: string): (number | null)[] => {
  const list = [...images].map((letter, index) => ({
    index,
    sha256: letter === '-' ? null : letter.toLowerCase(),
    failed: letter !== letter.toLowerCase(),
  }));
  const repeated = repeatedImages(list);
  return list.map(({ index }) => repeated.get(index) ?? null);
};

describe('the image that is counted', () => {
  it.each([
    ['abc', [null, null, null]],
    ['aa', [null, 0]],
    ['abaab', [null, null, 0, 0, 1]],
    ['Aa', [null, null]],
    ['aA', [null, null]],
    ['Aaa', [null, null, 1]],
    ['--', [null, null]],
    ['', []],
  ])('of %j: each repeats %j', (images, expected) => {
    expect(repeatsOf(images)).toEqual(expected);
  });
});

it('cells of repeated images are left out', () => {
  const cells = [{ image: 0 }, { image: 1 }, { image: 1 }, { image: 2 }];
  const images = [null, 0, null].map((repeatOf, index) => ({ index, repeatOf }));
  expect(cellsOnce(cells, images)).toEqual([{ image: 0 }, { image: 2 }]);
});
