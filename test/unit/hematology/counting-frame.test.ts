import { describe, expect, test } from 'vitest';
import { type FrameBox, isCounted, type Side, touchedSides } from '../../../src/hematology/counting-frame.js';
import { createRandom } from '../../support/random.js';

const IMAGE = { width: 100, height: 80 };

/** A 20 px cell that reaches exactly the named borders. */
function cellAt(sides: readonly Side[]): FrameBox {
  const x = sides.includes('left') ? 0 : sides.includes('right') ? IMAGE.width - 20 : 10;
  const y = sides.includes('top') ? 0 : sides.includes('bottom') ? IMAGE.height - 20 : 10;
  return { x, y, width: 20, height: 20 };
}

describe('every place a cell can have', () => {
  test.each<[Side[], boolean]>([
    [[], true],
    [['left'], true],
    [['top'], true],
    [['left', 'top'], true],
    [['right'], false],
    [['bottom'], false],
    [['right', 'bottom'], false],
    [['top', 'right'], false],
    [['left', 'bottom'], false],
  ])('reaching %j: counted %s', (sides, counted) => {
    expect(touchedSides(cellAt(sides), IMAGE)).toEqual(sides);
    expect(isCounted({ box: cellAt(sides) }, IMAGE)).toBe(counted);
  });
});

test('a cell that ends at the border reaches it, one pixel away it does not', () => {
  const box = { x: 10, y: 10, width: 20, height: 20 };
  expect(touchedSides({ ...box, x: 0 }, IMAGE)).toEqual(['left']);
  expect(touchedSides({ ...box, x: 1 }, IMAGE)).toEqual([]);
  expect(touchedSides({ ...box, y: 0 }, IMAGE)).toEqual(['top']);
  expect(touchedSides({ ...box, y: 1 }, IMAGE)).toEqual([]);
  expect(touchedSides({ ...box, x: 80 }, IMAGE)).toEqual(['right']);
  expect(touchedSides({ ...box, x: 79 }, IMAGE)).toEqual([]);
  expect(touchedSides({ ...box, y: 60 }, IMAGE)).toEqual(['bottom']);
  expect(touchedSides({ ...box, y: 59 }, IMAGE)).toEqual([]);
});

test('every box of a small image: left out exactly where it reaches right or bottom beside the centre', () => {
  const image = { width: 9, height: 8 };
  let seen = 0;
  for (let left = 0; left < image.width; left += 1) {
    for (let right = left + 1; right <= image.width; right += 1) {
      for (let top = 0; top < image.height; top += 1) {
        for (let bottom = top + 1; bottom <= image.height; bottom += 1) {
          const reachesFarBorder = right === 9 || bottom === 8;
          const coversCentre = left <= 4.5 && right >= 4.5 && top <= 4 && bottom >= 4;
          const box = { x: left, y: top, width: right - left, height: bottom - top };
          expect(isCounted({ box }, image), JSON.stringify(box)).toBe(!reachesFarBorder || coversCentre);
          seen += 1;
        }
      }
    }
  }
  expect(seen).toBe(45 * 36);
});

test('a portrait of one cell is counted, also where the cell fills it', () => {
  const portrait = { width: 120, height: 120 };
  expect(isCounted({ box: { x: 0, y: 0, width: 120, height: 120 } }, portrait)).toBe(true);
  expect(isCounted({ box: { x: 20, y: 30, width: 100, height: 90 } }, portrait)).toBe(true);
  // A neighbour that looks in at the edge of that portrait is not.
  expect(isCounted({ box: { x: 100, y: 40, width: 20, height: 40 } }, portrait)).toBe(false);
});

test('a smear photographed in adjoining fields counts every cell exactly once', () => {
  const { next: random } = createRandom(20_251_017);
  const tile = { width: 200, height: 150 };
  const columns = 4;
  const rows = 4;
  for (let n = 0; n < 3_000; n += 1) {
    const width = 5 + Math.floor(random() * 60);
    const height = 5 + Math.floor(random() * 60);
    const x = Math.floor(random() * (columns * tile.width - width));
    const y = Math.floor(random() * (rows * tile.height - height));
    // The outer rim has no neighbour that could count its cells; a cell that ends just at a seam counts as cut.
    if (x + width >= columns * tile.width || y + height >= rows * tile.height) continue;
    if ((x + width) % tile.width === 0 || (y + height) % tile.height === 0) continue;
    let counted = 0;
    for (let column = 0; column < columns; column += 1) {
      for (let row = 0; row < rows; row += 1) {
        const left = Math.max(x, column * tile.width);
        const top = Math.max(y, row * tile.height);
        const right = Math.min(x + width, (column + 1) * tile.width);
        const bottom = Math.min(y + height, (row + 1) * tile.height);
        if (right <= left || bottom <= top) continue;
        const box = {
          x: left - column * tile.width,
          y: top - row * tile.height,
          width: right - left,
          height: bottom - top,
        };
        if (isCounted({ box }, tile)) counted += 1;
      }
    }
    expect(counted, `cell at ${x},${y} of ${width}×${height}`).toBe(1);
  }
});
