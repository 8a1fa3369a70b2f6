/**
 * Memory of arrays, given back when its user is done with it instead of when the garbage collector comes by: a large field leaves 50 MB
 * of crops and answers behind, which Node.js 24 collects late, and what is not freed has it go through all old objects (docs/decisions/0071).
 */

/** In Node.js 20 it is missing, which collects earlier. */
type Transferable = ArrayBuffer & { transfer?(length: number): ArrayBuffer };

/**
 * Frees arrays that nobody reads any more. One that is part of a larger block stays, because others read the rest of it, and so does
 * shared memory.
 */
export function release(...arrays: readonly (Uint8Array | Int32Array | Float32Array)[]): void {
  for (const { buffer, byteLength } of arrays) {
    const whole = buffer instanceof ArrayBuffer && byteLength > 0 && byteLength === buffer.byteLength;
    if (whole) (buffer as Transferable).transfer?.(0);
  }
}
