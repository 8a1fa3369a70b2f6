/** Connected pixels of a raster, addressed as y · width + x. */

/** The accepted pixels connected to a seed through accepted ones, 4- or 8-connected; they are marked 1 in `seen`. */
export function flood(
  width: number,
  height: number,
  seeds: readonly number[],
  accept: (at: number) => boolean,
  diagonal: boolean,
  seen: Uint8Array,
): number[] {
  const reached: number[] = [];
  const stack: number[] = [];
  const visit = (at: number): void => {
    if (seen[at] === 1 || !accept(at)) return;
    seen[at] = 1;
    stack.push(at);
  };
  for (const seed of seeds) visit(seed);
  for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
    reached.push(at);
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

/** Every pixel at the edge of the raster; corners may come twice. */
export function borderPixels(width: number, height: number): number[] {
  const border: number[] = [];
  for (let x = 0; x < width; x++) border.push(x, (height - 1) * width + x);
  for (let y = 0; y < height; y++) border.push(y * width, y * width + width - 1);
  return border;
}
