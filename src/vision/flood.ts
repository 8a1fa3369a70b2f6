/** Connected pixels of a raster, addressed as y · width + x. */

/** The open pixels (not 0) connected to a seed through open ones, 4- or 8-connected; they are marked 1 in `seen`. */
export function flood(
  width: number,
  height: number,
  seeds: readonly number[],
  open: Uint8Array,
  diagonal: boolean,
  seen: Uint8Array,
): number[] {
  const reached: number[] = [];
  const visit = (at: number): void => {
    if (seen[at] === 1 || open[at] === 0) return;
    seen[at] = 1;
    reached.push(at);
  };
  for (const seed of seeds) visit(seed);
  // What is reached is its own queue.
  for (let next = 0; next < reached.length; next++) {
    const at = reached[next] ?? 0;
    const x = at % width;
    const left = x > 0;
    const right = x < width - 1;
    const above = at >= width;
    const below = at < width * (height - 1);
    if (left) visit(at - 1);
    if (right) visit(at + 1);
    if (above) visit(at - width);
    if (below) visit(at + width);
    if (!diagonal) continue;
    if (above && left) visit(at - width - 1);
    if (above && right) visit(at - width + 1);
    if (below && left) visit(at + width - 1);
    if (below && right) visit(at + width + 1);
  }
  return reached;
}

/** 1 where a pixel is 0, 0 where it is anything else. */
export function inverse(raster: Uint8Array): Uint8Array {
  const out = new Uint8Array(raster.length);
  for (let i = 0; i < out.length; i++) if (raster[i] === 0) out[i] = 1;
  return out;
}

/** Every pixel at the edge of the raster; corners may come twice. */
export function borderPixels(width: number, height: number): number[] {
  const border: number[] = [];
  for (let x = 0; x < width; x++) border.push(x, (height - 1) * width + x);
  for (let y = 0; y < height; y++) border.push(y * width, y * width + width - 1);
  return border;
}
