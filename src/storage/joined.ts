/** Many files in one parameter: pg sends a Buffer in binary, but an array of them as text, twice as long. */

/** One behind the other, and where each begins; at last the end. */
export function joined(files: readonly Uint8Array[]): { readonly bytes: Buffer; readonly starts: readonly number[] } {
  const starts = [0];
  for (const { length } of files) starts.push((starts.at(-1) ?? 0) + length);
  const [first] = files;
  // A large one is alone.
  const alone = first !== undefined && files.length === 1;
  return {
    bytes: alone ? Buffer.from(first.buffer, first.byteOffset, first.byteLength) : Buffer.concat(files),
    starts,
  };
}
