import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { DEFAULT_DECODE_LIMITS, decodeImage, probeImage } from '../../../src/vision/decode.js';
import { UndecodableImageError } from '../../../src/vision/errors.js';
import { writeBmp } from '../../support/bmp.js';

const W = 48;
const H = 32;
/** Left half red, right half green, bottom row blue: orientation and channels show. */
const RGB = Uint8Array.from({ length: W * H * 3 }, (_, i) => {
  const p = Math.floor(i / 3);
  const colour = Math.floor(p / W) === H - 1 ? [0, 0, 200] : p % W < W / 2 ? [200, 40, 40] : [40, 200, 40];
  return colour[i % 3] ?? 0;
});
const source = () => sharp(RGB, { raw: { width: W, height: H, channels: 3 } });

function at(image: { width: number; data: Uint8Array }, x: number, y: number): number[] {
  const i = (y * image.width + x) * 3;
  return [...image.data.subarray(i, i + 3)];
}

function expectNear(actual: number[], wanted: number[], tolerance: number): void {
  actual.forEach((value, i) => {
    expect(Math.abs(value - (wanted[i] ?? 0)), `channel ${i} of ${actual}`).toBeLessThanOrEqual(tolerance);
  });
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(UndecodableImageError);
  const { code, message } = error as UndecodableImageError;
  expect(message.length).toBeGreaterThan(20);
  return code;
}

describe('decodeImage, formats', () => {
  it.each([
    ['png', () => source().png().toBuffer(), 0],
    ['palette png', () => source().png({ palette: true }).toBuffer(), 4],
    ['tiff', () => source().tiff({ compression: 'lzw' }).toBuffer(), 0],
    ['tiled tiff', () => source().tiff({ tile: true, compression: 'deflate' }).toBuffer(), 0],
    ['jpeg', () => source().jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer(), 12],
    [
      'progressive jpeg',
      () => source().jpeg({ quality: 95, progressive: true, chromaSubsampling: '4:4:4' }).toBuffer(),
      12,
    ],
    ['lossless webp', () => source().webp({ lossless: true }).toBuffer(), 0],
  ] as const)('%s', async (name, make, tolerance) => {
    const bytes = await make();
    const format = name.split(' ').pop();
    expect(await probeImage(bytes)).toEqual({ format, width: W, height: H });
    const { image, flags } = await decodeImage(bytes);
    expect([image.width, image.height, image.data.length]).toEqual([W, H, W * H * 3]);
    expect(flags).toEqual([]);
    expectNear(at(image, 4, 4), [200, 40, 40], tolerance);
    expectNear(at(image, W - 4, 4), [40, 200, 40], tolerance);
  });

  it('bmp', async () => {
    const bytes = writeBmp({ width: 5, height: 4, bitsPerPixel: 24, value: (x, y) => x | (y << 8) | (9 << 16) });
    expect(await probeImage(bytes)).toEqual({ format: 'bmp', width: 5, height: 4 });
    expect(at((await decodeImage(bytes)).image, 3, 2)).toEqual([9, 2, 3]);
  });

  it('grey becomes three equal channels', async () => {
    const bytes = await sharp(Uint8Array.from([0, 90, 180, 255]), { raw: { width: 2, height: 2, channels: 1 } })
      .toColourspace('b-w')
      .png()
      .toBuffer();
    expect([...(await decodeImage(bytes)).image.data]).toEqual([0, 90, 180, 255].flatMap((v) => [v, v, v]));
  });

  it('alpha is flattened on white', async () => {
    const rgba = Uint8Array.of(100, 0, 0, 255, 100, 0, 0, 0, 0, 0, 0, 128, 9, 9, 9, 255);
    const bytes = await sharp(rgba, { raw: { width: 4, height: 1, channels: 4 } })
      .png()
      .toBuffer();
    const { image } = await decodeImage(bytes);
    expect(at(image, 0, 0)).toEqual([100, 0, 0]);
    expect(at(image, 1, 0)).toEqual([255, 255, 255]);
    expectNear(at(image, 2, 0), [127, 127, 127], 1);
  });

  it('CMYK JPEG', async () => {
    const bytes = await source().toColourspace('cmyk').jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer();
    expect((await sharp(bytes).metadata()).space).toBe('cmyk');
    const { image } = await decodeImage(bytes);
    const [red = 0, green = 0] = at(image, 4, 4);
    expect(red).toBeGreaterThan(green + 80);
  });

  it('all eight EXIF orientations come out upright', async () => {
    // Where the stored pixel (sx, sy) belongs in the upright picture, by the EXIF specification.
    const place: Record<number, (sx: number, sy: number) => [number, number]> = {
      1: (sx, sy) => [sx, sy],
      2: (sx, sy) => [W - 1 - sx, sy],
      3: (sx, sy) => [W - 1 - sx, H - 1 - sy],
      4: (sx, sy) => [sx, H - 1 - sy],
      5: (sx, sy) => [sy, sx],
      6: (sx, sy) => [W - 1 - sy, sx],
      7: (sx, sy) => [W - 1 - sy, H - 1 - sx],
      8: (sx, sy) => [sy, H - 1 - sx],
    };
    for (let orientation = 1; orientation <= 8; orientation++) {
      const [width, height] = orientation < 5 ? [W, H] : [H, W];
      const stored = new Uint8Array(RGB.length);
      for (let sy = 0; sy < height; sy++) {
        for (let sx = 0; sx < width; sx++) {
          const [x, y] = place[orientation]?.(sx, sy) ?? [0, 0];
          stored.set(at({ width: W, data: RGB }, x, y), (sy * width + sx) * 3);
        }
      }
      const pixels = await sharp(stored, { raw: { width, height, channels: 3 } })
        .png()
        .toBuffer();
      const bytes = await sharp(pixels).withMetadata({ orientation }).tiff({ compression: 'none' }).toBuffer();
      expect((await sharp(bytes).metadata()).orientation, 'written').toBe(orientation);
      expect(await probeImage(bytes)).toMatchObject({ width: W, height: H });
      const { image } = await decodeImage(bytes);
      expect([image.width, image.height]).toEqual([W, H]);
      expect(Buffer.compare(image.data, RGB), `orientation ${orientation}`).toBe(0);
    }
  });

  it('1×1', async () => {
    const bytes = await sharp(Uint8Array.of(1, 2, 3), { raw: { width: 1, height: 1, channels: 3 } })
      .png()
      .toBuffer();
    expect([...(await decodeImage(bytes)).image.data]).toEqual([1, 2, 3]);
  });

  it('the first page of a TIFF is taken and said so', async () => {
    const pages = new Uint8Array(W * H * 3 * 2);
    pages.set(RGB);
    const bytes = await sharp(pages, { raw: { width: W, height: H * 2, channels: 3, pageHeight: H } })
      .tiff({ compression: 'none' })
      .toBuffer();
    expect((await sharp(bytes).metadata()).pages).toBe(2);
    const { image, flags } = await decodeImage(bytes);
    expect([image.height, flags]).toEqual([H, ['first_page_only']]);
    expect(at(image, 4, 4)).toEqual([200, 40, 40]);
  });
});

describe('decodeImage, 16 bit', () => {
  const picture = async (
    values: Uint16Array,
    channels: 1 | 3 | 4,
    format: 'png' | 'tiff' = 'tiff',
  ): Promise<Buffer> => {
    const raster = sharp(values, { raw: { width: 64, height: 64, channels } });
    const deep = raster.toColourspace(channels === 1 ? 'grey16' : 'rgb16');
    const bytes = await (format === 'png' ? deep.png() : deep.tiff({ compression: 'lzw' })).toBuffer();
    expect((await sharp(bytes).metadata()).depth, 'written').toBe('ushort');
    return bytes;
  };
  const ramp = (max: number, channels: number): Uint16Array =>
    Uint16Array.from({ length: 64 * 64 * channels }, (_, i) => Math.round((Math.floor(i / channels) / 4095) * max));

  for (const format of ['png', 'tiff'] as const) {
    it(`${format}: full range is divided by 257`, async () => {
      const bytes = await picture(ramp(65535, 3), 3, format);
      const { image, flags } = await decodeImage(bytes);
      expect(flags).toEqual([]);
      for (const p of [0, 1000, 4095]) {
        expect(Math.abs((image.data[p * 3] ?? 0) - ((p / 4095) * 65535) / 257)).toBeLessThanOrEqual(0.51);
      }
    });
    it(`${format}: 12 bits in 16 are stretched and flagged, colour and grey`, async () => {
      for (const channels of [1, 3] as const) {
        const bytes = await picture(ramp(4095, channels), channels, format);
        const { image, flags } = await decodeImage(bytes);
        expect(flags).toEqual(['low_bits_scaled']);
        expect(image.data[4095 * 3]).toBe(255);
        expect(Math.abs((image.data[2048 * 3] ?? 0) - 128)).toBeLessThanOrEqual(1);
      }
    });
  }

  it('a hot pixel does not keep a 12-bit image dark', async () => {
    const values = ramp(4000, 1);
    values[100] = 65535;
    const { image, flags } = await decodeImage(await picture(values, 1));
    expect(flags).toEqual(['low_bits_scaled']);
    expect(image.data[4000 * 3]).toBeGreaterThan(240);
  });

  it('a dark frame stays dark', async () => {
    const { image } = await decodeImage(await picture(ramp(20, 1), 1));
    expect(Math.max(...image.data)).toBeLessThanOrEqual(20);
    const black = await decodeImage(await picture(new Uint16Array(64 * 64), 1));
    expect(Math.max(...black.image.data)).toBe(0);
  });

  it('transparent parts are white, also of a low-bit image', async () => {
    const values = Uint16Array.from({ length: 64 * 64 * 4 }, (_, i) => {
      if (i % 4 < 3) return 2000;
      return i < 64 * 64 * 2 ? 0 : 65535;
    });
    const { image } = await decodeImage(await picture(values, 4, 'png'));
    expect([image.data[0], image.data[64 * 64 * 3 - 1]]).toEqual([255, 255]);
  });
});

describe('what is refused', () => {
  const zip = Uint8Array.of(0x50, 0x4b, 3, 4, ...new Array(60).fill(0));
  it.each([
    ['SVG', Buffer.from('<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')],
    ['SVG without prolog', Buffer.from('  <svg xmlns="http://www.w3.org/2000/svg"/>')],
    ['PDF', Buffer.from('%PDF-1.7\n1 0 obj')],
    ['HEIF', Uint8Array.of(0, 0, 0, 24, ...Buffer.from('ftypheic'), ...new Array(40).fill(0))],
    ['AVIF', Uint8Array.of(0, 0, 0, 24, ...Buffer.from('ftypavif'), ...new Array(40).fill(0))],
    ['zip', zip],
    ['gzip', Uint8Array.of(0x1f, 0x8b, 8, 0, 0, 0)],
    ['text', Buffer.from('specimen 4711')],
    ['HTML', Buffer.from('<!DOCTYPE html><html></html>')],
    ['one byte', Uint8Array.of(0xff)],
  ])('%s', async (_name, bytes) => {
    expect(await codeOf(probeImage(bytes))).toBe('unsupported-image-format');
    expect(await codeOf(decodeImage(bytes))).toBe('unsupported-image-format');
  });

  it('GIF, also animated, and animated WebP', async () => {
    const frames = new Uint8Array(16 * 32 * 3).fill(90);
    frames.fill(200, 16 * 16 * 3);
    const animation = () => sharp(frames, { raw: { width: 16, height: 32, channels: 3, pageHeight: 16 } });
    expect(await codeOf(probeImage(await animation().gif().toBuffer()))).toBe('unsupported-image-format');
    expect(await codeOf(probeImage(await source().gif().toBuffer()))).toBe('unsupported-image-format');
    expect(await codeOf(probeImage(await animation().webp().toBuffer()))).toBe('unsupported-image-format');
  });

  it('an empty file', async () => {
    expect(await codeOf(probeImage(new Uint8Array()))).toBe('image-empty');
  });

  it('too many bytes', async () => {
    const bytes = await source().png().toBuffer();
    const limits = { ...DEFAULT_DECODE_LIMITS, maxBytes: bytes.length - 1 };
    expect(await codeOf(probeImage(bytes, limits))).toBe('image-too-large');
    expect(await probeImage(bytes, { ...limits, maxBytes: bytes.length })).toMatchObject({ width: W });
  });

  it('too many pixels, from the header alone', async () => {
    const bytes = await source().png().toBuffer();
    expect(await codeOf(probeImage(bytes, { maxBytes: 1e6, maxPixels: W * H - 1 }))).toBe('image-too-large');
    expect(await codeOf(decodeImage(bytes, { maxBytes: 1e6, maxPixels: W * H - 1 }))).toBe('image-too-large');
    expect(await decodeImage(bytes, { maxBytes: 1e6, maxPixels: W * H })).toMatchObject({ width: W });
    // The header is known by now, the limit is another one.
    expect(await codeOf(probeImage(bytes, { maxBytes: 1e6, maxPixels: W * H - 1 }))).toBe('image-too-large');
    const bomb = hugePng(30_000, 30_000);
    const start = performance.now();
    expect(await codeOf(probeImage(bomb))).toBe('image-too-large');
    expect(performance.now() - start).toBeLessThan(1000);
    const bmp = writeBmp({ width: 4, height: 4, bitsPerPixel: 24 });
    new DataView(bmp.buffer).setInt32(18, 60_000, true);
    new DataView(bmp.buffer).setInt32(22, -60_000, true);
    expect(await codeOf(probeImage(bmp))).toBe('image-too-large');
  });

  it.each(['jpeg', 'png', 'webp', 'tiff'] as const)('a truncated %s', async (format) => {
    const noise = Uint8Array.from({ length: 300 * 200 * 3 }, (_, i) => (i * 7919 + (i >> 3) * 104729) % 256);
    const whole = await sharp(noise, { raw: { width: 300, height: 200, channels: 3 } })
      [format]()
      .toBuffer();
    for (const share of [0.35, 0.6, 0.9]) {
      const cut = whole.subarray(0, Math.floor(whole.length * share));
      expect(await codeOf(decodeImage(cut)), `${share}`).toBe('image-truncated');
    }
  });

  it('a TIFF whose strips lie past its end', async () => {
    const whole = await source().tiff({ compression: 'none' }).toBuffer();
    // Little-endian classic TIFF: point the strip offset (tag 273) far behind the data.
    const broken = Buffer.from(whole);
    const directory = broken.readUInt32LE(4);
    const entries = broken.readUInt16LE(directory);
    for (let e = 0; e < entries; e++) {
      const entry = directory + 2 + e * 12;
      if (broken.readUInt16LE(entry) === 273 && broken.readUInt32LE(entry + 4) === 1)
        broken.writeUInt32LE(9e6, entry + 8);
    }
    expect(broken.equals(whole)).toBe(false);
    expect(['image-truncated', 'image-corrupt']).toContain(await codeOf(decodeImage(broken)));
  });

  it('garbage behind a right signature', async () => {
    const png = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, ...new Array(100).fill(7));
    expect(['image-corrupt', 'image-truncated']).toContain(await codeOf(probeImage(png)));
    const jpeg = Uint8Array.of(0xff, 0xd8, 0xff, ...new Array(100).fill(1));
    expect(['image-corrupt', 'image-truncated']).toContain(await codeOf(probeImage(jpeg)));
  });

  it('float pixels', async () => {
    expect(await codeOf(decodeImage(floatTiff()))).toBe('unsupported-image-format');
  });
});

/** A PNG header that promises width × height, with a few bytes of data. */
function hugePng(width: number, height: number): Buffer {
  const chunk = (type: string, data: Buffer): Buffer => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(data.length, 0);
    body.copy(out, 4);
    out.writeUInt32BE(crc32(body), body.length + 4);
    return out;
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const data = deflateSync(Buffer.alloc(100_000));
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))]);
}

function crc32(bytes: Buffer): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}

/** A 2×2 grey TIFF of 32-bit floats. */
function floatTiff(): Buffer {
  const tags: [number, number, number][] = [
    [256, 3, 2],
    [257, 3, 2],
    [258, 3, 32],
    [259, 3, 1],
    [262, 3, 1],
    [273, 4, 8],
    [277, 3, 1],
    [278, 3, 2],
    [279, 4, 16],
    [339, 3, 3],
  ];
  const out = Buffer.alloc(24 + 2 + tags.length * 12 + 4);
  out.write('II');
  out.writeUInt16LE(42, 2);
  out.writeUInt32LE(24, 4);
  [0.1, 0.5, 0.9, 1].forEach((value, i) => {
    out.writeFloatLE(value, 8 + i * 4);
  });
  out.writeUInt16LE(tags.length, 24);
  tags.forEach(([tag, type, value], i) => {
    const entry = 26 + i * 12;
    out.writeUInt16LE(tag, entry);
    out.writeUInt16LE(type, entry + 2);
    out.writeUInt32LE(1, entry + 4);
    out.writeUInt32LE(value, entry + 8);
  });
  return out;
}
