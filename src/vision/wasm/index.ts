/**
 * The loops over pixels, in AssemblyScript: compiled to WebAssembly with vector instructions, they take a fraction of the time that
 * the same loops take in JavaScript (docs/decisions/0088). They know addresses only; src/vision/kernels.ts lays the rasters out in memory
 * and calls them. Behind its last value an address must have 64 bytes that may be read and written.
 */
export { edgeDistance, open } from './distance';
export { measure, stain } from './measure';
export { differences, resample, sample } from './resample';
export { fillHoles, interpolate, keepNearest } from './shape';

/** Where memory is free. */
export function base(): usize {
  return __heap_base;
}
