/**
 * Windows bitmap decoder. libvips has none, and the small packages for it allocate before they check, read byte by byte
 * and ignore the header's pixel offset, so this one bounds every size first and knows only what microscopes write:
 * uncompressed 1, 4, 8, 16, 24 and 32 bit, bit fields, and run-length encoded 4 and 8 bit.
 * Layout: Microsoft, "Bitmap Storage" (BITMAPFILEHEADER, BITMAPCOREHEADER, BITMAPINFOHEADER to BITMAPV5HEADER).
 */
import { UndecodableImageError } from './errors.js';
import type { RgbImage } from './types.js';

const FILE_HEADER = 14;
const CORE_HEADER = 12;
const INFO_HEADER = 40;
const RGB = 0;
const RLE8 = 1;
const RLE4 = 2;
const BIT_FIELDS = 3;
const ALPHA_BIT_FIELDS = 6;

export interface BmpHeader {
  readonly width: number;
  readonly height: number;
  readonly topDown: boolean;
  readonly bitsPerPixel: number;
  readonly compression: number;
  readonly pixelOffset: number;
  readonly paletteOffset: number;
  readonly paletteEntryBytes: 3 | 4;
  readonly paletteColours: number;
  readonly masks: { readonly red: number; readonly green: number; readonly blue: number; readonly alpha: number };
}

const corrupt = (what: string): UndecodableImageError =>
  new UndecodableImageError('image-corrupt', `The BMP file is damaged: ${what}. Export the image again, best as PNG.`);

const truncated = (): UndecodableImageError =>
  new UndecodableImageError('image-truncated', 'The BMP file ends before its pixels do. Send the whole file again.');

/** Reads the header; throws UndecodableImageError where it is damaged or of a kind that is not supported. */
export function readBmpHeader(bytes: Uint8Array): BmpHeader {
  if (bytes.length < FILE_HEADER + CORE_HEADER) throw truncated();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const pixelOffset = view.getUint32(10, true);
  const headerSize = view.getUint32(14, true);
  if (bytes.length < FILE_HEADER + headerSize) throw truncated();
  if (headerSize === CORE_HEADER) {
    const bitsPerPixel = view.getUint16(24, true);
    return checked({
      width: view.getUint16(18, true),
      height: view.getUint16(20, true),
      topDown: false,
      bitsPerPixel,
      compression: RGB,
      pixelOffset,
      paletteOffset: FILE_HEADER + CORE_HEADER,
      paletteEntryBytes: 3,
      paletteColours: bitsPerPixel <= 8 ? 1 << bitsPerPixel : 0,
      masks: defaultMasks(bitsPerPixel),
    });
  }
  if (headerSize < INFO_HEADER || headerSize > 256) throw corrupt(`unknown header of ${headerSize} bytes`);
  const signedHeight = view.getInt32(22, true);
  const bitsPerPixel = view.getUint16(28, true);
  const compression = view.getUint32(30, true);
  const colours = view.getUint32(46, true);
  // With a 40-byte header the bit masks follow it; later headers hold them at the same place.
  const masksInFile = compression === BIT_FIELDS || compression === ALPHA_BIT_FIELDS;
  const maskCount = compression === ALPHA_BIT_FIELDS || headerSize >= 56 ? 4 : 3;
  if (masksInFile && bytes.length < 54 + maskCount * 4) throw truncated();
  const masks = masksInFile
    ? {
        red: view.getUint32(54, true),
        green: view.getUint32(58, true),
        blue: view.getUint32(62, true),
        alpha: maskCount === 4 ? view.getUint32(66, true) : 0,
      }
    : defaultMasks(bitsPerPixel);
  return checked({
    width: view.getInt32(18, true),
    height: Math.abs(signedHeight),
    topDown: signedHeight < 0,
    bitsPerPixel,
    compression,
    pixelOffset,
    paletteOffset: FILE_HEADER + headerSize + (masksInFile && headerSize === INFO_HEADER ? maskCount * 4 : 0),
    paletteEntryBytes: 4,
    paletteColours: bitsPerPixel > 8 ? 0 : colours === 0 || colours > 1 << bitsPerPixel ? 1 << bitsPerPixel : colours,
    masks,
  });
}

function defaultMasks(bitsPerPixel: number): BmpHeader['masks'] {
  return bitsPerPixel === 16
    ? { red: 0x7c00, green: 0x03e0, blue: 0x001f, alpha: 0 }
    : { red: 0xff0000, green: 0x00ff00, blue: 0x0000ff, alpha: 0 };
}

function checked(header: BmpHeader): BmpHeader {
  const { width, height, bitsPerPixel, compression } = header;
  if (width <= 0 || height <= 0) throw corrupt('its width or height is not positive');
  if (![1, 4, 8, 16, 24, 32].includes(bitsPerPixel)) throw corrupt(`${bitsPerPixel} bits per pixel`);
  const supported =
    compression === RGB ||
    (compression === RLE8 && bitsPerPixel === 8) ||
    (compression === RLE4 && bitsPerPixel === 4) ||
    ((compression === BIT_FIELDS || compression === ALPHA_BIT_FIELDS) && (bitsPerPixel === 16 || bitsPerPixel === 32));
  if (!supported) {
    throw new UndecodableImageError(
      'unsupported-image-format',
      'This kind of BMP compression is not supported. Export the image as PNG, JPEG or TIFF.',
    );
  }
  return header;
}

/**
 * Decodes to 8-bit RGB, alpha flattened on white. The caller has checked width × height against its limit
 * (readBmpHeader); for uncompressed data the file's length is checked before anything is allocated.
 */
export function decodeBmp(bytes: Uint8Array): RgbImage {
  const header = readBmpHeader(bytes);
  const { width, height, bitsPerPixel } = header;
  const paletteEnd = header.paletteOffset + header.paletteColours * header.paletteEntryBytes;
  if (header.paletteColours > 0 && bytes.length < paletteEnd) throw truncated();
  const start = Math.max(header.pixelOffset, paletteEnd);
  if (header.compression === RLE8 || header.compression === RLE4) {
    if (start >= bytes.length) throw truncated();
    return { width, height, data: paint(header, bytes, runLengthIndices(header, bytes, start), width) };
  }
  const stride = Math.ceil((width * bitsPerPixel) / 32) * 4;
  // Some writers leave out the padding of the last row.
  const lastRow = Math.ceil((width * bitsPerPixel) / 8);
  if (start + stride * (height - 1) + lastRow > bytes.length) throw truncated();
  if (bitsPerPixel <= 8) return { width, height, data: paint(header, bytes, bytes.subarray(start), stride) };
  return { width, height, data: directColour(header, bytes, start, stride) };
}

/** Looks indexed pixels up in the palette. `indices` holds one row after the other as packed by bitsPerPixel, 8 for RLE. */
function paint(header: BmpHeader, bytes: Uint8Array, indices: Uint8Array, stride: number): Uint8Array {
  const { width, height, paletteOffset, paletteEntryBytes, paletteColours } = header;
  const bits = header.compression === RGB ? header.bitsPerPixel : 8;
  const perByte = 8 / bits;
  const mask = (1 << bits) - 1;
  const out = new Uint8Array(width * height * 3);
  for (let row = 0; row < height; row++) {
    const y = header.topDown ? row : height - 1 - row;
    let o = y * width * 3;
    for (let x = 0; x < width; x++) {
      const byte = indices[row * stride + Math.floor(x / perByte)] ?? 0;
      const index = (byte >> (8 - bits * ((x % perByte) + 1))) & mask;
      // An index past the palette shows as black, as in every viewer.
      if (index < paletteColours) {
        const p = paletteOffset + index * paletteEntryBytes;
        out[o] = bytes[p + 2] ?? 0;
        out[o + 1] = bytes[p + 1] ?? 0;
        out[o + 2] = bytes[p] ?? 0;
      }
      o += 3;
    }
  }
  return out;
}

/** Expands RLE4/RLE8 to one index a pixel, rows in file order. Bounded: every step moves on in the input. */
function runLengthIndices(header: BmpHeader, bytes: Uint8Array, start: number): Uint8Array {
  const { width, height } = header;
  const nibbles = header.compression === RLE4;
  const out = new Uint8Array(width * height);
  let at = start;
  let x = 0;
  let row = 0;
  const put = (index: number): void => {
    if (x < width && row < height) out[row * width + x] = index;
    x++;
  };
  while (row < height) {
    const count = bytes[at++];
    const value = bytes[at++];
    if (count === undefined || value === undefined) throw truncated();
    if (count > 0) {
      for (let i = 0; i < count; i++) put(nibbles ? (i % 2 === 0 ? value >> 4 : value & 15) : value);
    } else if (value === 0) {
      x = 0;
      row++;
    } else if (value === 1) {
      break;
    } else if (value === 2) {
      const dx = bytes[at++];
      const dy = bytes[at++];
      if (dx === undefined || dy === undefined) throw truncated();
      x += dx;
      row += dy;
    } else {
      const length = nibbles ? Math.ceil(value / 2) : value;
      if (at + length > bytes.length) throw truncated();
      for (let i = 0; i < value; i++) {
        const byte = bytes[at + (nibbles ? i >> 1 : i)] ?? 0;
        put(nibbles ? (i % 2 === 0 ? byte >> 4 : byte & 15) : byte);
      }
      at += length + (length % 2);
    }
  }
  return out;
}

function directColour(header: BmpHeader, bytes: Uint8Array, start: number, stride: number): Uint8Array {
  const { width, height, bitsPerPixel } = header;
  const out = new Uint8Array(width * height * 3);
  const plain = header.compression === RGB && bitsPerPixel !== 16;
  const step = bitsPerPixel / 8;
  const red = channel(header.masks.red);
  const green = channel(header.masks.green);
  const blue = channel(header.masks.blue);
  const alpha = channel(header.masks.alpha);
  let sawAlpha = false;
  const alphas = header.masks.alpha === 0 ? undefined : new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const y = header.topDown ? row : height - 1 - row;
    let i = start + row * stride;
    let o = y * width * 3;
    for (let x = 0; x < width; x++, i += step, o += 3) {
      if (plain) {
        out[o] = bytes[i + 2] ?? 0;
        out[o + 1] = bytes[i + 1] ?? 0;
        out[o + 2] = bytes[i] ?? 0;
        continue;
      }
      let pixel = (bytes[i] ?? 0) | ((bytes[i + 1] ?? 0) << 8);
      if (step === 4) pixel = (pixel | ((bytes[i + 2] ?? 0) << 16) | ((bytes[i + 3] ?? 0) << 24)) >>> 0;
      out[o] = red(pixel);
      out[o + 1] = green(pixel);
      out[o + 2] = blue(pixel);
      if (alphas) {
        const a = alpha(pixel);
        if (a > 0) sawAlpha = true;
        alphas[y * width + x] = a;
      }
    }
  }
  // Writers that never fill the alpha channel leave it 0 everywhere: such an image is opaque, not invisible.
  if (alphas && sawAlpha) {
    for (let p = 0; p < alphas.length; p++) {
      const a = (alphas[p] ?? 255) / 255;
      for (let c = 0; c < 3; c++) out[p * 3 + c] = Math.round((out[p * 3 + c] ?? 0) * a + 255 * (1 - a));
    }
  }
  return out;
}

/** The 8-bit value of the bits under `mask`. */
function channel(mask: number): (pixel: number) => number {
  if (mask === 0) return () => 0;
  let shift = 0;
  while (((mask >>> shift) & 1) === 0) shift++;
  const full = mask >>> shift;
  return (pixel) => Math.round((((pixel & mask) >>> shift) * 255) / full);
}
