/**
 * Distance of each foreground place (not 0) of a grid to the nearest place of the background, by two sweeps with steps of 1 and √2.
 * `framed`: zeroed room for the grid with a frame of background around it, so that no sweep has to ask where it ends.
 */
export function edgeDistance(foreground: usize, side: i32, framed: usize, out: usize): void {
  const row: usize = (<usize>(side + 2)) << 2;
  for (let y = 0; y < side; y++) {
    const to = framed + <usize>(y + 1) * row + 4;
    for (let x: usize = 0; x < <usize>side; x++) {
      if (load<u8>(foreground + <usize>(y * side) + x) !== 0) store<f32>(to + (x << 2), Infinity);
    }
  }
  const first = framed + row + 4;
  const last = framed + <usize>side * row + ((<usize>side) << 2);
  for (let at = first; at <= last; at += 4) step(at, at - 4, at - row);
  for (let at = last; at >= first; at -= 4) step(at, at + 4, at + row);
  for (let y = 0; y < side; y++) {
    memory.copy(out + ((<usize>(y * side)) << 2), framed + <usize>(y + 1) * row + 4, (<usize>side) << 2);
  }
}

/** A sweep looks at the place before, and at the three of the row before. */
function step(at: usize, before: usize, row: usize): void {
  const distance = load<f32>(at);
  if (distance === 0) return;
  const straight: f32 = min(load<f32>(before), load<f32>(row)) + 1;
  const diagonal: f32 = min(load<f32>(row - 4), load<f32>(row + 4)) + <f32>Math.SQRT2;
  store<f32>(at, min(distance, min(straight, diagonal)));
}

/**
 * Morphological opening of a grid with a disc, in place: what is thinner than twice the radius goes. Where nothing thicker is left,
 * nothing changes. `framed` as above, zeroed twice: once for each of two; `distance`: room for a float a place; `inverse`: for a byte.
 */
export function open(
  foreground: usize,
  side: i32,
  radius: f32,
  framed: usize,
  framedAgain: usize,
  distance: usize,
  inverse: usize,
): void {
  const places = side * side;
  edgeDistance(foreground, side, framed, distance);
  let any = false;
  for (let i = 0; i < places; i++) {
    const core = load<f32>(distance + ((<usize>i) << 2)) > radius;
    if (core) any = true;
    store<u8>(inverse + i, core ? 0 : 1);
  }
  if (!any) return;
  // Distance to the core; outside of the grid counts as core, so a cell cut by the window keeps its edge.
  edgeDistance(inverse, side, framedAgain, distance);
  for (let i = 0; i < places; i++) {
    if (load<f32>(distance + ((<usize>i) << 2)) > radius) store<u8>(foreground + i, 0);
  }
}
