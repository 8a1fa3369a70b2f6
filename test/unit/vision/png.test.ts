import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { decodeGreyPng, encodeGreyPng, encodeRgbPng } from '../../../src/vision/png.js';

/** Bytes without a pattern, the same ones each time. */
function noise(length: number): Uint8Array {
  let state = 20251017;
  return Uint8Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
}

/** The larger ones go to libvips. */
const SIZES = [
  [1, 1],
  [7, 5],
  [1, 300],
  [300, 1],
  [256, 256],
  [257, 256],
] as const;

describe.each(SIZES)('a PNG of %i × %i', (width, height) => {
  it('of grey comes back as it went, in one channel', async () => {
    const image = { width, height, data: noise(width * height) };
    const png = await encodeGreyPng(image);
    expect(await sharp(png).metadata()).toMatchObject({
      format: 'png',
      width,
      height,
      channels: 1,
      depth: 'uchar',
      space: 'b-w',
    });
    const back = await decodeGreyPng(png);
    expect([back.width, back.height]).toEqual([width, height]);
    expect(Buffer.compare(back.data, image.data)).toBe(0);
  });

  it('of colours comes back as it went', async () => {
    const data = noise(width * height * 3);
    const png = await encodeRgbPng({ width, height, data });
    expect(await sharp(png).metadata()).toMatchObject({ format: 'png', width, height, channels: 3, space: 'srgb' });
    expect(Buffer.compare(await sharp(png).raw().toBuffer(), data)).toBe(0);
  });
});

it('a checksum is right: a flipped bit is found', async () => {
  const png = await encodeRgbPng({ width: 20, height: 20, data: noise(1200) });
  const at = png.indexOf('IDAT') + 100;
  png[at] = (png[at] ?? 0) ^ 1;
  await expect(sharp(png, { failOn: 'warning' }).raw().toBuffer()).rejects.toThrow();
});

it('packs a crop the same on another thread, while this one is busy', async () => {
  const image = { width: 160, height: 160, data: noise(160 * 160 * 3) };
  const whileIdle = await encodeRgbPng(image);
  const until = performance.now() + 1_500;
  while (performance.now() < until) {
    // As under the load of a GPU.
  }
  const apart = encodeRgbPng(image);
  expect(await Promise.race([apart, new Promise((settle) => setImmediate(() => settle('later')))])).toBe('later');
  expect(await apart).toEqual(whileIdle);
});
