/**
 * The loops over pixels that run for every cell, as WebAssembly (src/vision/wasm, docs/decisions/0088), and the memory that they work
 * in. A caller lays out what they read and where they write, runs one or several, and takes the result out, all without waiting for
 * anything in between: the next caller starts over at the same place.
 */
import { readFileSync } from 'node:fs';

/** What is used of it: TypeScript has the types for browsers only. */
declare const WebAssembly: {
  readonly Module: new (code: Uint8Array) => object;
  readonly Instance: new (module: object, imports: object) => { readonly exports: unknown };
};

/** Addresses and counts; what each wants stands in src/vision/wasm. */
interface Kernels {
  readonly memory: { readonly buffer: ArrayBuffer; grow(pages: number): number };
  base(): number;
  differences(source: number, row: number, height: number, out: number): void;
  edgeDistance(foreground: number, side: number, framed: number, out: number): void;
  fillHoles(labels: number, width: number, height: number, seen: number, queue: number): void;
  interpolate(
    segmentation: number,
    side: number,
    ...to: readonly [
      ...samples: SampleAddresses,
      line: number,
      planes: number,
      width: number,
      height: number,
      labels: number,
      foreground: number,
    ]
  ): void;
  keepNearest(labels: number, width: number, height: number, x: number, y: number, seen: number, queue: number): number;
  measure(
    rgb: number,
    width: number,
    height: number,
    top: number,
    bottom: number,
    across: number,
    smooth: number,
    sums: number,
    histogram: number,
  ): void;
  open(
    foreground: number,
    side: number,
    radius: number,
    framed: number,
    framedAgain: number,
    distance: number,
    inverse: number,
  ): void;
  resample(
    source: number,
    stride: number,
    lastRow: number,
    rowFirst: number,
    rowWeights: number,
    rowCount: number,
    columnFirst: number,
    columnWeights: number,
    columnCount: number,
    line: number,
    lineLength: number,
    insideFrom: number,
    insideLength: number,
    width: number,
    height: number,
    out: number,
  ): void;
  sample(
    map: number,
    stride: number,
    ...to: readonly [...samples: SampleAddresses, line: number, width: number, height: number, out: number]
  ): void;
  stain(rgb: number, pixels: number, clearFrom: number, densities: number, sums: number): void;
}

/** Where `sample` finds, for each row and each column, the places it lies between and how far towards the second. */
export type SampleAddresses = readonly [
  rowLow: number,
  rowHigh: number,
  rowFraction: number,
  columnLow: number,
  columnHigh: number,
  columnFraction: number,
];

/**
 * The compiled kernels. Under vitest this module is TypeScript source: then those that `npm run build` (part of `pretest`) left in dist/
 * are loaded.
 */
const compiled = import.meta.url.endsWith('.ts')
  ? new URL('../../dist/vision/kernels.wasm', import.meta.url)
  : new URL('./kernels.wasm', import.meta.url);

const { exports } = new WebAssembly.Instance(new WebAssembly.Module(readFileSync(compiled)), {});
export const kernels = exports as Kernels;

const PAGE = 1 << 16;
/** Every place starts at a multiple of a vector. */
const VECTOR = 16;
/** What a kernel may read or write past the end of a place: the rest of its longest step, four vectors. */
const PAST_END = 4 * VECTOR;

let heap = new Uint8Array(kernels.memory.buffer);
let next = 0;

/** Starts over: everything that was laid out before is given up. */
export function layOut(): void {
  next = kernels.base();
}

/** Room for so many bytes, with whatever lies there. Returns its address. */
export function room(bytes: number): number {
  const at = Math.ceil(next / VECTOR) * VECTOR;
  next = at + bytes + PAST_END;
  const missing = next - heap.byteLength;
  if (missing > 0) {
    kernels.memory.grow(Math.ceil(missing / PAGE));
    heap = new Uint8Array(kernels.memory.buffer);
  }
  return at;
}

export function zeroedRoom(bytes: number): number {
  const at = room(bytes);
  heap.fill(0, at, at + bytes);
  return at;
}

/** Copies values in. Returns their address. */
export function put(values: Uint8Array | Int32Array | Uint32Array | Float32Array | Float64Array): number {
  const at = room(values.byteLength);
  heap.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at);
  return at;
}

/** So many bytes of `values` from `from` on, to an address inside a room. */
export function copyIn(values: Uint8Array, from: number, length: number, to: number): void {
  heap.set(values.subarray(from, from + length), to);
}

/** What lies at an address now: to be copied before anything else is laid out. */
export const bytesAt = (at: number, length: number): Uint8Array => heap.subarray(at, at + length);
export const floatsAt = (at: number, length: number): Float32Array => new Float32Array(heap.buffer, at, length);
export const doublesAt = (at: number, length: number): Float64Array => new Float64Array(heap.buffer, at, length);
export const countsAt = (at: number, length: number): Uint32Array => new Uint32Array(heap.buffer, at, length);
