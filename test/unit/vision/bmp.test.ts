import { describe, expect, it } from 'vitest';
import { decodeBmp, readBmpHeader } from '../../../src/vision/bmp.js';
import { UndecodableImageError } from '../../../src/vision/errors.js';
import { writeBmp } from '../../support/bmp.js';

const PALETTE = Array.from({ length: 16 }, (_, i) => [i * 16, 255 - i * 10, (i * 37) % 256] as const);

/** RGB triples of the decoded picture, row by row. */
function pixelsOf(bytes: Uint8Array): number[][] {
  const { width, height, data } = decodeBmp(bytes);
  return Array.from({ length: width * height }, (_, p) => [...data.subarray(p * 3, p * 3 + 3)]);
}

function expectError(work: () => unknown, code: string): void {
  let error: unknown;
  try {
    work();
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(UndecodableImageError);
  expect((error as UndecodableImageError).code).toBe(code);
}

describe('decodeBmp', () => {
  // Odd widths need row padding; that is where decoders slip.
  for (const width of [1, 2, 3, 5, 8, 9]) {
    for (const topDown of [false, true]) {
      const height = 3;
      it(`reads 1 bit, ${width} wide, ${topDown ? 'top down' : 'bottom up'}`, () => {
        const value = (x: number, y: number): number => (x + y) % 2;
        const palette = PALETTE.slice(0, 2);
        const bytes = writeBmp({ width, height, bitsPerPixel: 1, topDown, palette, value });
        expect(pixelsOf(bytes)).toEqual(expected(width, height, (x, y) => [...(palette[value(x, y)] ?? [])]));
      });
      it(`reads 4 bit, ${width} wide, ${topDown ? 'top down' : 'bottom up'}`, () => {
        const value = (x: number, y: number): number => (x * 3 + y * 5) % 16;
        const bytes = writeBmp({ width, height, bitsPerPixel: 4, topDown, palette: PALETTE, value });
        expect(pixelsOf(bytes)).toEqual(expected(width, height, (x, y) => [...(PALETTE[value(x, y)] ?? [])]));
      });
      it(`reads 8 bit, ${width} wide, ${topDown ? 'top down' : 'bottom up'}`, () => {
        const value = (x: number, y: number): number => (x * 3 + y) % 16;
        const bytes = writeBmp({ width, height, bitsPerPixel: 8, topDown, palette: PALETTE, value });
        expect(pixelsOf(bytes)).toEqual(expected(width, height, (x, y) => [...(PALETTE[value(x, y)] ?? [])]));
      });
      for (const bitsPerPixel of [24, 32] as const) {
        it(`reads ${bitsPerPixel} bit, ${width} wide, ${topDown ? 'top down' : 'bottom up'}`, () => {
          const value = (x: number, y: number): number => (x * 20) | ((y * 50) << 8) | (200 << 16);
          const bytes = writeBmp({ width, height, bitsPerPixel, topDown, value });
          expect(pixelsOf(bytes)).toEqual(expected(width, height, (x, y) => [200, y * 50, x * 20]));
        });
      }
    }
  }

  it('reads 16 bit as 5-5-5 without masks and as 5-6-5 with them', () => {
    const white = writeBmp({ width: 3, height: 1, bitsPerPixel: 16, value: (x) => [0x7fff, 0x7c00, 0x03e0][x] ?? 0 });
    expect(pixelsOf(white)).toEqual([
      [255, 255, 255],
      [255, 0, 0],
      [0, 255, 0],
    ]);
    const masks = [0xf800, 0x07e0, 0x001f, 0] as const;
    const wide = { width: 2, height: 1, bitsPerPixel: 16, compression: 3, masks } as const;
    expect(pixelsOf(writeBmp({ ...wide, value: (x) => (x === 0 ? 0x07e0 : 0x001f) }))).toEqual([
      [0, 255, 0],
      [0, 0, 255],
    ]);
  });

  it('flattens alpha on white, and takes an alpha channel of zeros for opaque', () => {
    const masks = [0x00ff0000, 0x0000ff00, 0x000000ff, 0xff000000] as const;
    const spec = { width: 2, height: 1, bitsPerPixel: 32, headerBytes: 124, compression: 3, masks } as const;
    const half = writeBmp({ ...spec, value: (x) => (x === 0 ? 0x80000000 : 0xff0a141e) >>> 0 });
    expect(pixelsOf(half)).toEqual([
      [127, 127, 127],
      [10, 20, 30],
    ]);
    const never = writeBmp({ ...spec, value: () => 0x000a141e });
    expect(pixelsOf(never)).toEqual([
      [10, 20, 30],
      [10, 20, 30],
    ]);
  });

  it('reads OS/2 headers and starts at the pixel offset, not at the end of the header', () => {
    const value = (x: number): number => x;
    const core = writeBmp({ width: 3, height: 1, bitsPerPixel: 8, headerBytes: 12, palette: fill256(), value });
    expect(pixelsOf(core)).toEqual([0, 1, 2].map((i) => [...(fill256()[i] ?? [])]));
    const gap = writeBmp({ width: 3, height: 1, bitsPerPixel: 8, palette: PALETTE, gap: 70, value });
    expect(pixelsOf(gap)).toEqual([0, 1, 2].map((i) => [...(PALETTE[i] ?? [])]));
  });

  it('expands 8-bit run lengths: runs, literal parts, jumps, ends of line', () => {
    // Bottom row: 3×1, then literals 2 3 4 (odd, padded). Top row: jump over two, 2×5.
    const pixels = Uint8Array.of(3, 1, 0, 3, 2, 3, 4, 0, 0, 0, 0, 2, 2, 0, 2, 5, 0, 1);
    const bytes = writeBmp({ width: 6, height: 2, bitsPerPixel: 8, compression: 1, palette: PALETTE, pixels });
    const rows = [
      [0, 0, 5, 5, 0, 0],
      [1, 1, 1, 2, 3, 4],
    ].flat();
    expect(pixelsOf(bytes)).toEqual(rows.map((i) => [...(PALETTE[i] ?? [])]));
  });

  it('expands 4-bit run lengths', () => {
    const pixels = Uint8Array.of(4, 0x12, 0, 3, 0x34, 0x50, 0, 1);
    const bytes = writeBmp({ width: 7, height: 1, bitsPerPixel: 4, compression: 2, palette: PALETTE, pixels });
    expect(pixelsOf(bytes)).toEqual([1, 2, 1, 2, 3, 4, 5].map((i) => [...(PALETTE[i] ?? [])]));
  });

  it('ends on run lengths that never reach their end, and on those that leave the picture', () => {
    const endless = Uint8Array.of(5, 1, 5, 1);
    const spec = { width: 4, height: 2, bitsPerPixel: 8, compression: 1, palette: PALETTE } as const;
    expectError(() => decodeBmp(writeBmp({ ...spec, pixels: endless })), 'image-truncated');
    const outside = Uint8Array.of(0, 2, 200, 200, 9, 3, 0, 1);
    expect(decodeBmp(writeBmp({ ...spec, pixels: outside })).data).toHaveLength(24);
  });

  it('refuses truncated files before it allocates', () => {
    const whole = writeBmp({ width: 40, height: 40, bitsPerPixel: 24, value: () => 1 });
    for (const share of [0.001, 0.01, 0.5, 0.9]) {
      expectError(() => decodeBmp(whole.subarray(0, Math.ceil(whole.length * share))), 'image-truncated');
    }
    const claim = whole.slice(0, 60);
    new DataView(claim.buffer).setInt32(18, 30_000, true);
    new DataView(claim.buffer).setInt32(22, 30_000, true);
    expect(readBmpHeader(claim)).toMatchObject({ width: 30_000, height: 30_000 });
    expectError(() => decodeBmp(claim), 'image-truncated');
  });

  it('accepts a last row without its padding', () => {
    const whole = writeBmp({ width: 3, height: 2, bitsPerPixel: 24, topDown: true, value: () => 0x0a0b0c });
    expect(pixelsOf(whole.subarray(0, whole.length - 3))).toHaveLength(6);
  });

  it('refuses impossible headers and embedded JPEG', () => {
    const whole = writeBmp({ width: 3, height: 2, bitsPerPixel: 24, value: () => 1 });
    const with16 = (offset: number, value: number): Uint8Array => {
      const bytes = whole.slice();
      new DataView(bytes.buffer).setInt16(offset, value, true);
      return bytes;
    };
    expectError(() => decodeBmp(with16(28, 7)), 'image-corrupt');
    expectError(() => decodeBmp(with16(18, 0)), 'image-corrupt');
    expectError(() => decodeBmp(with16(22, 0)), 'image-corrupt');
    expectError(() => decodeBmp(with16(14, 39)), 'image-corrupt');
    expectError(() => decodeBmp(with16(30, 4)), 'unsupported-image-format');
  });
});

function fill256(): [number, number, number][] {
  return Array.from({ length: 256 }, (_, i) => [i, 255 - i, (i * 7) % 256]);
}

function expected(width: number, height: number, at: (x: number, y: number) => number[]): number[][] {
  return Array.from({ length: width * height }, (_, p) => at(p % width, Math.floor(p / width)));
}
