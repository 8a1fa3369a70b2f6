/**
 * From posted bytes to an RGB raster. What a file is, its first bytes say, never its name; everything that costs memory
 * or time is bounded from the header before a pixel is decoded.
 */
import sharp, { type Metadata } from 'sharp';
import { decodeBmp, readBmpHeader } from './bmp.js';
import { UndecodableImageError } from './errors.js';
import { nextTurn } from './raster.js';
import type { RgbImage } from './types.js';

// Of each picture; by itself sharp takes one with glibc's allocator and all cores with another (docs/decisions/0071).
sharp.concurrency(1);

export type ImageFormat = 'jpeg' | 'png' | 'tiff' | 'webp' | 'bmp';

export interface DecodeLimits {
  /** Largest accepted file. */
  readonly maxBytes: number;
  /** Largest accepted width × height. */
  readonly maxPixels: number;
}

/** 256 MiB holds an uncompressed 16-bit field of 44 Mpx; 120 Mpx is more than twice the largest field promised. */
export const DEFAULT_DECODE_LIMITS: DecodeLimits = { maxBytes: 256 * 1024 * 1024, maxPixels: 120_000_000 };

export interface ImageProbe {
  readonly format: ImageFormat;
  /** Pixels, after the EXIF orientation. */
  readonly width: number;
  readonly height: number;
}

export type DecodeFlag = 'low_bits_scaled' | 'first_page_only';

export interface DecodedImage extends ImageProbe {
  readonly image: RgbImage;
  /** `low_bits_scaled`: a 16-bit image used only its low bits and was stretched; `first_page_only`: more pages exist. */
  readonly flags: readonly DecodeFlag[];
}

// libvips can read far more than microscopes write. Each loader that is not needed is attack surface.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: ['VipsForeignLoadJpeg', 'VipsForeignLoadPng', 'VipsForeignLoadTiff', 'VipsForeignLoadWebp'],
});

const DECODE_TIMEOUT_SECONDS = 60;
/** Pixel loops give the event loop a turn about every 10 ms. */
const PIXELS_PER_TURN = 1 << 20;
const SUPPORTED = 'Send JPEG, PNG, TIFF, WebP or BMP.';

type Sniffed = ImageFormat | { readonly unsupported: string };

/** What the first bytes say the file is. */
function sniff(bytes: Uint8Array): Sniffed | undefined {
  const at = (offset: number, ...values: number[]): boolean => values.every((value, i) => bytes[offset + i] === value);
  const text = (offset: number, length: number): string =>
    String.fromCharCode(...bytes.subarray(offset, offset + length));
  if (at(0, 0xff, 0xd8, 0xff)) return 'jpeg';
  if (at(0, 0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)) return 'png';
  if (text(0, 4) === 'RIFF' && text(8, 4) === 'WEBP') return 'webp';
  if (at(0, 0x49, 0x49, 0x2a, 0) || at(0, 0x4d, 0x4d, 0, 0x2a)) return 'tiff';
  if (at(0, 0x49, 0x49, 0x2b, 0) || at(0, 0x4d, 0x4d, 0, 0x2b)) return 'tiff';
  if (text(0, 2) === 'BM') return 'bmp';
  if (text(0, 4) === 'GIF8') return { unsupported: 'a GIF, whose 256 colours are too few for stained cells' };
  if (text(4, 4) === 'ftyp') return { unsupported: 'a HEIF, AVIF or video file' };
  if (at(0, 0x50, 0x4b, 3, 4) || at(0, 0x50, 0x4b, 5, 6)) {
    return { unsupported: 'a zip archive; unpack it and send the images one by one' };
  }
  if (at(0, 0x1f, 0x8b)) return { unsupported: 'a gzip archive; unpack it and send the images one by one' };
  if (text(0, 1024).includes('%PDF-')) return { unsupported: 'a PDF; export its picture' };
  if (text(0, 4) === 'DICM' || text(128, 4) === 'DICM') return { unsupported: 'a DICOM file; export its picture' };
  const head = text(0, 1024).toLowerCase();
  if (head.includes('<svg')) return { unsupported: 'an SVG drawing; export it as a raster image' };
  if (/^[\s\u00ef\u00bb\u00bf]*<(\?xml|!doctype|html)/.test(head)) return { unsupported: 'an XML or HTML text' };
  return undefined;
}

function formatOf(bytes: Uint8Array, limits: DecodeLimits): ImageFormat {
  if (bytes.length === 0) {
    throw new UndecodableImageError('image-empty', 'The file is empty. Check the export and send it again.');
  }
  if (bytes.length > limits.maxBytes) {
    throw new UndecodableImageError(
      'image-too-large',
      `The file has ${bytes.length} bytes; at most ${limits.maxBytes} are accepted. Send it compressed or in parts.`,
    );
  }
  const sniffed = sniff(bytes);
  if (sniffed === undefined) {
    throw new UndecodableImageError(
      'unsupported-image-format',
      `The file is not an image of a known format. ${SUPPORTED}`,
    );
  }
  if (typeof sniffed === 'object') {
    throw new UndecodableImageError('unsupported-image-format', `The file is ${sniffed.unsupported}. ${SUPPORTED}`);
  }
  return sniffed;
}

function checkPixels(width: number, height: number, limits: DecodeLimits): void {
  if (width * height > limits.maxPixels) {
    throw new UndecodableImageError(
      'image-too-large',
      `The image has ${width} × ${height} pixels; at most ${limits.maxPixels} are accepted. Cut it into fields or shrink it.`,
    );
  }
}

/** Says whether the container's own lengths reach past the end of the file. */
function lengthsExceedFile(format: ImageFormat, bytes: Uint8Array): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (format === 'webp') return bytes.length < 12 || view.getUint32(4, true) + 8 > bytes.length;
  if (format === 'tiff') {
    if (bytes.length < 16) return true;
    const little = bytes[0] === 0x49;
    const big = view.getUint16(2, little) === 43;
    const directory = big ? Number(view.getBigUint64(8, little)) : view.getUint32(4, little);
    return directory + 2 > bytes.length;
  }
  return false;
}

function decodeFailure(format: ImageFormat, bytes: Uint8Array, cause: unknown): UndecodableImageError {
  const reason = cause instanceof Error ? cause.message : '';
  const name = format.toUpperCase();
  if (/pixel limit/i.test(reason)) {
    return new UndecodableImageError('image-too-large', 'The image has more pixels than are accepted.', { cause });
  }
  if (/timeout/i.test(reason)) {
    const message = `Decoding took more than ${DECODE_TIMEOUT_SECONDS} s. Export the ${name} again.`;
    return new UndecodableImageError('image-corrupt', message, { cause });
  }
  // libpng and libtiff say "read error" where the data ends early.
  if (
    /premature|truncat|read error|unable to parse|out of order read|not enough data/i.test(reason) ||
    lengthsExceedFile(format, bytes)
  ) {
    const message = `The ${name} ends before its picture does. Send the whole file again.`;
    return new UndecodableImageError('image-truncated', message, { cause });
  }
  const message = `The ${name} cannot be decoded: it is damaged or of an unusual kind. Export the image again, best as PNG.`;
  return new UndecodableImageError('image-corrupt', message, { cause });
}

const sharpInput = (bytes: Uint8Array, limits: DecodeLimits) =>
  sharp(bytes, {
    limitInputPixels: limits.maxPixels,
    unlimited: false,
    // A warning about an unknown tag is no reason to refuse a microscope's TIFF; an error in the pixel data is.
    failOn: 'error',
    sequentialRead: true,
    page: 0,
    pages: 1,
  });

interface Header extends ImageProbe {
  readonly depth: string;
  readonly pages: number;
}

/** Of the arrays that are still in use: the worker of the process that accepted an image may get the array that was looked at then. */
const headers = new WeakMap<Uint8Array, Header>();

async function readHeader(bytes: Uint8Array, limits: DecodeLimits): Promise<Header> {
  const format = formatOf(bytes, limits);
  const header = headers.get(bytes) ?? (format === 'bmp' ? bmpHeader(bytes) : await sharpHeader(format, bytes));
  checkPixels(header.width, header.height, limits);
  if (header.depth !== 'uchar' && header.depth !== 'ushort') {
    throw new UndecodableImageError(
      'unsupported-image-format',
      `The pixels are stored as ${header.depth}; export the image with 8 or 16 bits per channel.`,
    );
  }
  headers.set(bytes, header);
  return header;
}

function bmpHeader(bytes: Uint8Array): Header {
  const { width, height } = readBmpHeader(bytes);
  return { format: 'bmp', width, height, depth: 'uchar', pages: 1 };
}

async function sharpHeader(format: ImageFormat, bytes: Uint8Array): Promise<Header> {
  let metadata: Metadata;
  try {
    // The pixel limit is checked by the caller, whose message can name the size.
    metadata = await sharp(bytes, { limitInputPixels: false, unlimited: false, failOn: 'error' }).metadata();
  } catch (cause) {
    throw decodeFailure(format, bytes, cause);
  }
  const { width, height } = metadata.autoOrient ?? metadata;
  if (!width || !height) throw decodeFailure(format, bytes, undefined);
  // The page height of an animated WebP is that of one frame; a stack of frames is not a field of view.
  if (format === 'webp' && (metadata.pages ?? 1) > 1) {
    throw new UndecodableImageError(
      'unsupported-image-format',
      `The file is an animated WebP. Send a single picture. ${SUPPORTED}`,
    );
  }
  const { depth = 'uchar', pages = 1 } = metadata;
  return { format, width, height, depth, pages };
}

/**
 * Reads the header only: cheap enough to call before a request is accepted.
 * Throws UndecodableImageError with the codes `image-empty`, `image-too-large`, `unsupported-image-format`,
 * `image-truncated` and `image-corrupt`. That the header is right does not promise that the pixels are.
 */
export async function probeImage(bytes: Uint8Array, limits: DecodeLimits = DEFAULT_DECODE_LIMITS): Promise<ImageProbe> {
  const { format, width, height } = await readHeader(bytes, limits);
  return { format, width, height };
}

/** An image whose header was read and accepted. */
export interface OpenedImage extends ImageProbe {
  /** Decodes the first page to 8-bit RGB: orientation applied, alpha flattened on white, sRGB. Errors as probeImage. */
  decode(): Promise<DecodedImage>;
}

/** Reads the header, so that the caller knows what decoding will take. Errors as probeImage. */
export async function openImage(bytes: Uint8Array, limits: DecodeLimits = DEFAULT_DECODE_LIMITS): Promise<OpenedImage> {
  const header = await readHeader(bytes, limits);
  const { format, width, height } = header;
  return { format, width, height, decode: () => decodeOpened(bytes, header, limits) };
}

/** Opens and decodes in one go. */
export async function decodeImage(
  bytes: Uint8Array,
  limits: DecodeLimits = DEFAULT_DECODE_LIMITS,
): Promise<DecodedImage> {
  const opened = await openImage(bytes, limits);
  return opened.decode();
}

async function decodeOpened(bytes: Uint8Array, header: Header, limits: DecodeLimits): Promise<DecodedImage> {
  const flags: DecodeFlag[] = header.pages > 1 ? ['first_page_only'] : [];
  if (header.format === 'bmp') {
    const image = decodeBmp(bytes);
    return { format: 'bmp', width: image.width, height: image.height, image, flags };
  }
  try {
    const { image, stretched } =
      header.depth === 'ushort' ? await decode16(bytes, limits) : await decode8(bytes, limits);
    if (stretched) flags.push('low_bits_scaled');
    return { format: header.format, width: image.width, height: image.height, image, flags };
  } catch (cause) {
    throw decodeFailure(header.format, bytes, cause);
  }
}

interface Decoded {
  readonly image: RgbImage;
  readonly stretched: boolean;
}

async function decode8(bytes: Uint8Array, limits: DecodeLimits): Promise<Decoded> {
  const { data, info } = await sharpInput(bytes, limits)
    .timeout({ seconds: DECODE_TIMEOUT_SECONDS })
    .autoOrient()
    .flatten({ background: '#ffffff' })
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  return { image: toRgb(data, info.width, info.height, info.channels), stretched: false };
}

function toRgb(data: Uint8Array, width: number, height: number, channels: number): RgbImage {
  if (channels === 3) return { width, height, data };
  const out = new Uint8Array(width * height * 3);
  for (let p = 0; p < width * height; p++) {
    for (let c = 0; c < 3; c++) out[p * 3 + c] = data[p * channels + (channels >= 3 ? c : 0)] ?? 0;
  }
  return { width, height, data: out };
}

/** Below this share of full range a 16-bit image can only come from a camera of 14 bits or fewer. */
const LOW_BITS_BELOW = 1 << 14;

async function decode16(bytes: Uint8Array, limits: DecodeLimits): Promise<Decoded> {
  const { data, info } = await sharpInput(bytes, limits)
    .timeout({ seconds: DECODE_TIMEOUT_SECONDS })
    .autoOrient()
    .toColourspace('rgb16')
    .raw({ depth: 'ushort' })
    .toBuffer({ resolveWithObject: true });
  const values = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
  const { width, height, channels } = info;
  const alphaAt = channels === 4 || channels === 2 ? channels - 1 : -1;
  const colourChannels = alphaAt < 0 ? channels : channels - 1;
  const brightest = await nearMaximum(values, channels, colourChannels);
  const stretched = brightest < LOW_BITS_BELOW;
  // Dark frames of a few counts are noise: they are scaled as 8-bit data, not stretched to white.
  const full = stretched ? Math.max(brightest, 255) : 65535;
  const out = new Uint8Array(width * height * 3);
  for (let p = 0; p < width * height; p++) {
    if (p % PIXELS_PER_TURN === 0) await nextTurn();
    const alpha = alphaAt < 0 ? 1 : (values[p * channels + alphaAt] ?? 65535) / 65535;
    for (let c = 0; c < 3; c++) {
      const value = values[p * channels + (colourChannels >= 3 ? c : 0)] ?? 0;
      const scaled = Math.min(255, (value * 255) / full);
      out[p * 3 + c] = Math.round(scaled * alpha + 255 * (1 - alpha));
    }
  }
  return { image: { width, height, data: out }, stretched };
}

/** The value that only one colour sample in 2,000 exceeds: a few hot pixels must not decide the range. */
async function nearMaximum(values: Uint16Array, channels: number, colourChannels: number): Promise<number> {
  const histogram = new Uint32Array(65536);
  let total = 0;
  const turn = PIXELS_PER_TURN * channels;
  for (let p = 0; p < values.length; p += channels) {
    if (p % turn === 0) await nextTurn();
    for (let c = 0; c < colourChannels; c++) {
      const value = values[p + c] ?? 0;
      histogram[value] = (histogram[value] ?? 0) + 1;
      total++;
    }
  }
  let above = 0;
  for (let value = 65535; value > 0; value--) {
    above += histogram[value] ?? 0;
    if (above > total / 2000) return value;
  }
  return 0;
}
