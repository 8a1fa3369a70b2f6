/** Pictures and maps at another resolution. */

const FLOATS_OF_PIXEL: usize = 12;

/**
 * A picture of `width` × `height` RGB pixels from source rows of `stride` bytes. Each output row first sums the source rows it needs into
 * one line, of which its pixels are then summed. Output row y takes `rowCount` source rows from `rowFirst[y]`, those before 0 and after
 * `lastRow` being the first and the last again; columns likewise, from a line of `lineLength` floats whose floats `insideFrom` to
 * `insideFrom + insideLength` the source covers and whose ends repeat its first and last pixel.
 */
export function resample(
  source: usize,
  stride: i32,
  lastRow: i32,
  rowFirst: usize,
  rowWeights: usize,
  rowCount: i32,
  columnFirst: usize,
  columnWeights: usize,
  columnCount: i32,
  line: usize,
  lineLength: i32,
  insideFrom: i32,
  insideLength: i32,
  width: i32,
  height: i32,
  out: usize,
): void {
  const inside = line + ((<usize>insideFrom) << 2);
  for (let y = 0; y < height; y++) {
    const first = load<i32>(rowFirst + ((<usize>y) << 2));
    sumRows(
      source,
      stride,
      lastRow,
      first,
      rowWeights + ((<usize>(y * rowCount)) << 2),
      rowCount,
      inside,
      insideLength,
    );
    for (let at = insideFrom - 3; at >= 0; at -= 3) copyPixel(line, at, at + 3);
    for (let at = insideFrom + insideLength; at < lineLength; at += 3) copyPixel(line, at, at - 3);
    sumPixels(line, columnFirst, columnWeights, columnCount, width, out + <usize>(y * width * 3));
  }
}

function sumRows(
  source: usize,
  stride: i32,
  lastRow: i32,
  first: i32,
  weights: usize,
  count: i32,
  line: usize,
  length: i32,
): void {
  for (let i = 0; i < length; i += 16) {
    let a = f32x4.splat(0);
    let b = f32x4.splat(0);
    let c = f32x4.splat(0);
    let d = f32x4.splat(0);
    for (let k = 0; k < count; k++) {
      const weight = f32x4.splat(load<f32>(weights + ((<usize>k) << 2)));
      const row = min(max(first + k, 0), lastRow);
      const bytes = v128.load(source + <usize>(row * stride + i));
      const low = i16x8.extend_low_i8x16_u(bytes);
      const high = i16x8.extend_high_i8x16_u(bytes);
      a = f32x4.add(a, f32x4.mul(weight, f32x4.convert_i32x4_u(i32x4.extend_low_i16x8_u(low))));
      b = f32x4.add(b, f32x4.mul(weight, f32x4.convert_i32x4_u(i32x4.extend_high_i16x8_u(low))));
      c = f32x4.add(c, f32x4.mul(weight, f32x4.convert_i32x4_u(i32x4.extend_low_i16x8_u(high))));
      d = f32x4.add(d, f32x4.mul(weight, f32x4.convert_i32x4_u(i32x4.extend_high_i16x8_u(high))));
    }
    const to = line + ((<usize>i) << 2);
    v128.store(to, a);
    v128.store(to, b, 16);
    v128.store(to, c, 32);
    v128.store(to, d, 48);
  }
}

function copyPixel(line: usize, to: i32, from: i32): void {
  memory.copy(line + ((<usize>to) << 2), line + ((<usize>from) << 2), FLOATS_OF_PIXEL);
}

/** Bytes round to the nearest; what a cubic overshoots is cut. Writes a byte past the last pixel. */
function sumPixels(line: usize, first: usize, weights: usize, count: i32, width: i32, out: usize): void {
  for (let x = 0; x < width; x++) {
    let from = line + <usize>load<i32>(first + ((<usize>x) << 2)) * FLOATS_OF_PIXEL;
    let sum = f32x4.splat(0.5);
    for (let k = 0; k < count; k++) {
      sum = f32x4.add(sum, f32x4.mul(f32x4.splat(load<f32>(weights)), v128.load(from)));
      weights += 4;
      from += FLOATS_OF_PIXEL;
    }
    const whole = i32x4.trunc_sat_f32x4_s(sum);
    const words = i16x8.narrow_i32x4_s(whole, whole);
    store<i32>(out, i32x4.extract_lane(i8x16.narrow_i16x8_u(words, words), 0));
    out += 3;
  }
}

/**
 * Bilinear samples, `width` × `height`, of a map whose rows are `stride` floats: sample (x, y) lies between the columns `columnLow[x]` and
 * `columnHigh[x]`, as far towards the second as `columnFraction[x]` says, and between rows likewise. `line`: room for a row of the map.
 */
export function sample(
  map: usize,
  stride: i32,
  rowLow: usize,
  rowHigh: usize,
  rowFraction: usize,
  columnLow: usize,
  columnHigh: usize,
  columnFraction: usize,
  line: usize,
  width: i32,
  height: i32,
  out: usize,
): void {
  for (let y = 0; y < height; y++) {
    const at = (<usize>y) << 2;
    const above = map + ((<usize>(load<i32>(rowLow + at) * stride)) << 2);
    const below = map + ((<usize>(load<i32>(rowHigh + at) * stride)) << 2);
    const fraction = f32x4.splat(load<f32>(rowFraction + at));
    for (let i: usize = 0; i < (<usize>stride) << 2; i += 16) {
      const from = v128.load(above + i);
      v128.store(line + i, f32x4.add(from, f32x4.mul(f32x4.sub(v128.load(below + i), from), fraction)));
    }
    for (let x: usize = 0; x < (<usize>width) << 2; x += 4) {
      const from = load<f32>(line + ((<usize>load<i32>(columnLow + x)) << 2));
      const to = load<f32>(line + ((<usize>load<i32>(columnHigh + x)) << 2));
      store<f32>(out + x, from + (to - from) * load<f32>(columnFraction + x));
    }
    out += (<usize>width) << 2;
  }
}

/** Rows of a PNG with the filter "up": its number, and each byte less the one above it. `row` bytes a row. */
export function differences(source: usize, row: i32, height: i32, out: usize): void {
  const UP: u8 = 2;
  for (let y = 0; y < height; y++) {
    store<u8>(out, UP);
    const from = source + <usize>(y * row);
    if (y === 0) memory.copy(out + 1, from, row);
    else {
      for (let i: usize = 0; i < <usize>row; i += 16) {
        v128.store(out + 1 + i, i8x16.sub(v128.load(from + i), v128.load(from - row + i)));
      }
    }
    out += <usize>row + 1;
  }
}
