/** A cell's mask on posted pixels. */
import { sample } from './resample';

const BACKGROUND: u8 = 0;
const CYTOPLASM: u8 = 128;
const NUCLEUS: u8 = 255;

/**
 * Labels and foreground probability (0–255) of `width` × `height` pixels, from three planes of `side` × `side` probabilities: background,
 * cytoplasm, nucleus. Samples as `sample`'s. `lines`: room for a row of a plane; `planes`: for three planes of the result as floats.
 */
export function interpolate(
  segmentation: usize,
  side: i32,
  rowLow: usize,
  rowHigh: usize,
  rowFraction: usize,
  columnLow: usize,
  columnHigh: usize,
  columnFraction: usize,
  line: usize,
  planes: usize,
  width: i32,
  height: i32,
  labels: usize,
  foreground: usize,
): void {
  const pixels = <usize>(width * height);
  const plane = (<usize>(side * side)) << 2;
  for (let p: usize = 0; p < 3; p++) {
    const map = segmentation + p * plane;
    const to = planes + ((p * pixels) << 2);
    sample(map, side, rowLow, rowHigh, rowFraction, columnLow, columnHigh, columnFraction, line, width, height, to);
  }
  const cytoplasm = pixels << 2;
  for (let i: usize = 0; i < pixels; i++) {
    const at = planes + (i << 2);
    const outside = load<f32>(at);
    store<u8>(foreground + i, <u8>(min(max<f32>(1 - outside, 0), 1) * 255 + 0.5));
    // Cell or not is decided first: at the border three classes share the probability and none has half of it.
    let label = BACKGROUND;
    if (outside < 0.5) label = load<f32>(at + 2 * cytoplasm) > load<f32>(at + cytoplasm) ? NUCLEUS : CYTOPLASM;
    store<u8>(labels + i, label);
  }
}

/**
 * Clears every 8-connected component but the one nearest to (x, y); of equally near ones the first in reading order. False: there is
 * none. `seen`: zeroed room for a byte a pixel; `queue`: for a pixel's number each.
 */
export function keepNearest(labels: usize, width: i32, height: i32, x: f64, y: f64, seen: usize, queue: usize): bool {
  let seed = -1;
  let nearest: f64 = Infinity;
  for (let v = 0, at = 0; v < height; v++) {
    for (let u = 0; u < width; u++, at++) {
      if (load<u8>(labels + at) === BACKGROUND) continue;
      const distance = (<f64>u - x) * (<f64>u - x) + (<f64>v - y) * (<f64>v - y);
      if (distance < nearest) {
        nearest = distance;
        seed = at;
      }
    }
  }
  if (seed < 0) return false;
  flood(labels, width, height, true, visit(labels, seed, true, seen, queue, 0), seen, queue);
  for (let i = 0; i < width * height; i++) if (load<u8>(seen + i) === 0) store<u8>(labels + i, BACKGROUND);
  return true;
}

/**
 * Background that the border does not reach becomes cell: nucleus where nucleus surrounds it. Rooms as keepNearest's.
 */
export function fillHoles(labels: usize, width: i32, height: i32, seen: usize, queue: usize): void {
  const pixels = width * height;
  let reached = 0;
  for (let x = 0; x < width; x++) {
    reached = visit(labels, x, false, seen, queue, reached);
    reached = visit(labels, pixels - width + x, false, seen, queue, reached);
  }
  for (let y = 0; y < height; y++) {
    reached = visit(labels, y * width, false, seen, queue, reached);
    reached = visit(labels, y * width + width - 1, false, seen, queue, reached);
  }
  flood(labels, width, height, false, reached, seen, queue);
  for (let i = 0; i < pixels; i++) {
    if (load<u8>(labels + i) !== BACKGROUND || load<u8>(seen + i) !== 0) continue;
    fill(
      labels,
      width,
      queue,
      flood(labels, width, height, false, visit(labels, i, false, seen, queue, 0), seen, queue),
    );
  }
}

/** A hole of so many pixels, none of them at the border, with the label that most of its neighbours have. */
function fill(labels: usize, width: i32, hole: usize, count: i32): void {
  let nucleus = 0;
  let cytoplasm = 0;
  for (let i = 0; i < count; i++) {
    const at = load<i32>(hole + ((<usize>i) << 2));
    for (let n = 0; n < 4; n++) {
      const label = load<u8>(labels + (at + (n === 0 ? -1 : n === 1 ? 1 : n === 2 ? -width : width)));
      if (label === NUCLEUS) nucleus++;
      else if (label === CYTOPLASM) cytoplasm++;
    }
  }
  const label = nucleus > cytoplasm ? NUCLEUS : CYTOPLASM;
  for (let i = 0; i < count; i++) store<u8>(labels + load<i32>(hole + ((<usize>i) << 2)), label);
}

/**
 * Goes on from the `count` pixels in the queue to all that are connected to them: cell 8-connected, background 4-connected. Returns how
 * many there are.
 */
function flood(labels: usize, width: i32, height: i32, cell: bool, count: i32, seen: usize, queue: usize): i32 {
  const lastRow = width * (height - 1);
  for (let next = 0; next < count; next++) {
    const at = load<i32>(queue + ((<usize>next) << 2));
    const x = at % width;
    const left = x > 0;
    const right = x < width - 1;
    const above = at >= width;
    const below = at < lastRow;
    if (left) count = visit(labels, at - 1, cell, seen, queue, count);
    if (right) count = visit(labels, at + 1, cell, seen, queue, count);
    if (above) count = visit(labels, at - width, cell, seen, queue, count);
    if (below) count = visit(labels, at + width, cell, seen, queue, count);
    if (!cell) continue;
    if (above && left) count = visit(labels, at - width - 1, cell, seen, queue, count);
    if (above && right) count = visit(labels, at - width + 1, cell, seen, queue, count);
    if (below && left) count = visit(labels, at + width - 1, cell, seen, queue, count);
    if (below && right) count = visit(labels, at + width + 1, cell, seen, queue, count);
  }
  return count;
}

function visit(labels: usize, at: i32, cell: bool, seen: usize, queue: usize, count: i32): i32 {
  if (load<u8>(seen + at) !== 0 || (load<u8>(labels + at) !== BACKGROUND) !== cell) return count;
  store<u8>(seen + at, 1);
  store<i32>(queue + ((<usize>count) << 2), at);
  return count + 1;
}
