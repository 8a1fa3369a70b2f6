/**
 * PNG of 8-bit rasters. Small ones, three for every cell, are put together here: libvips takes half a millisecond for the
 * smallest picture and packs a crop no better. Large ones go to libvips, on a thread of its own.
 */
import { promisify } from 'node:util';
import { constants, crc32, deflate, deflateSync, type ZlibOptions } from 'node:zlib';
import sharp, { type Sharp } from 'sharp';
import { bytesAt, kernels, layOut, put, room } from './kernels.js';
import { release } from './release.js';
import type { GreyImage, RgbImage } from './types.js';

// Decided results of the same size over and over: a middle level keeps the request short and the file small.
export const PNG = { compressionLevel: 6 } as const;

const SMALL_PIXELS = 1 << 16;
/** Bytes: a crop takes a millisecond, and the way to another thread 0.7 more; the mask of a cell less than that way. */
const WORTH_A_THREAD = 1 << 15;
/** Differences of rows leave nothing to search for but runs: this is quicker than any search, and packs a crop tighter. */
const RUNS = { strategy: constants.Z_RLE } as const;
/** A mask packs into some hundred bytes. */
const FEW_RUNS = { ...RUNS, chunkSize: 1 << 12 } as const;
/** Between two looks at how busy this thread is. */
const LOOK_MS = 1_000;
const deflateApart = promisify<Uint8Array, ZlibOptions, Buffer>(deflate);
const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const COLOUR_TYPE = { 1: 0, 3: 2 } as const;

type Channels = keyof typeof COLOUR_TYPE;

/** PNG (8-bit grey) of a single-channel raster. */
export async function encodeGreyPng(image: GreyImage): Promise<Buffer> {
  if (image.width * image.height <= SMALL_PIXELS) return encodeSmall(image, 1);
  // One channel has to be asked for, or the PNG is written as RGB.
  return ofRaster(image, 1).toColourspace('b-w').png(PNG).toBuffer();
}

/** PNG of an RGB raster. */
export async function encodeRgbPng(image: RgbImage): Promise<Buffer> {
  if (image.width * image.height <= SMALL_PIXELS) return encodeSmall(image, 3);
  return ofRaster(image, 3).png(PNG).toBuffer();
}

/** The raster of a grey PNG as encodeGreyPng makes it. */
export async function decodeGreyPng(png: Uint8Array): Promise<GreyImage> {
  const { data, info } = await sharp(png, { limitInputPixels: false })
    .extractChannel(0)
    .raw()
    .toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, data };
}

function ofRaster({ width, height, data }: GreyImage | RgbImage, channels: Channels): Sharp {
  return sharp(data, { raw: { width, height, channels }, limitInputPixels: false });
}

async function encodeSmall({ width, height, data }: GreyImage | RgbImage, channels: Channels): Promise<Buffer> {
  const row = width * channels;
  layOut();
  const filtered = room((row + 1) * height);
  // Every row as its difference from the row above: smooth pictures become small numbers.
  kernels.differences(put(data), row, height, filtered);
  const bytes = bytesAt(filtered, (row + 1) * height);
  return file(width, height, channels, await pack(bytes));
}

async function pack(bytes: Uint8Array): Promise<Uint8Array> {
  if (bytes.length < WORTH_A_THREAD) return deflateSync(bytes, FEW_RUNS);
  // Room for all of it: else it comes back for more, several times.
  const options = { ...RUNS, chunkSize: bytes.length };
  if (!isBusy()) return deflateSync(bytes, options);
  const copy = bytes.slice();
  const packed = await deflateApart(copy, options);
  release(copy);
  return packed;
}

let seen = performance.eventLoopUtilization();
let busy = false;

/**
 * Whether this thread had work for more than half of the last second or so. Where a GPU or many cores run the networks, everything
 * waits for it, and it leaves to others what it can; else the detour only costs (docs/decisions/0071).
 */
function isBusy(): boolean {
  const { idle, active, utilization } = performance.eventLoopUtilization(seen);
  if (idle + active > LOOK_MS) {
    busy = utilization > 0.5;
    seen = performance.eventLoopUtilization();
  }
  return busy;
}

/** The parts of the PNG specification around packed rows. */
function file(width: number, height: number, channels: Channels, packed: Uint8Array): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header[8] = 8;
  header[9] = COLOUR_TYPE[channels];
  const chunks = [
    ['IHDR', header],
    ['IDAT', packed],
    ['IEND', new Uint8Array(0)],
  ] as const;
  const length = chunks.reduce((sum, [, content]) => sum + content.length + AROUND_CHUNK, SIGNATURE.length);
  const out = Buffer.allocUnsafe(length);
  out.set(SIGNATURE);
  let at = SIGNATURE.length;
  for (const [type, content] of chunks) at = putChunk(out, at, type, content);
  return out;
}

/** Length, type, content, and the checksum of the last two. Returns where the next chunk goes. */
function putChunk(out: Buffer, at: number, type: string, content: Uint8Array): number {
  out.writeUInt32BE(content.length, at);
  out.write(type, at + 4, 'latin1');
  out.set(content, at + 8);
  return out.writeUInt32BE(crc32(out.subarray(at + 4, at + 8 + content.length)), at + 8 + content.length);
}
const AROUND_CHUNK = 12;
