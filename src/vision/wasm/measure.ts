/** What an image's quality is judged by. */

/** Running sums, in the order of kernels.ts. */
const LUMINANCE: usize = 0;
const LUMINANCE_SQUARED: usize = 8;
const GREEN: usize = 16;
const GREEN_SQUARED: usize = 24;
const CLIPPED: usize = 32;
const LAPLACIANS: usize = 40;
const LAPLACIAN: usize = 48;
const LAPLACIAN_SQUARED: usize = 56;

/**
 * Adds the pixels of the rows `top` to `bottom` of an RGB raster to `sums` (eight f64) and to `histogram` (256 u32, of the luminance).
 * `across` and `smooth`: room for the raster's pixels as floats.
 *
 * The Laplacian (4 neighbours) is that of green, the channel in which stained cells have most contrast, smoothed before (1-2-1 both ways), or
 * a noisy camera would pass for a sharp one.
 */
export function measure(
  rgb: usize,
  width: i32,
  height: i32,
  top: i32,
  bottom: i32,
  across: usize,
  smooth: usize,
  sums: usize,
  histogram: usize,
): void {
  for (let at = rgb + <usize>(top * width * 3); at < rgb + <usize>(bottom * width * 3); at += 3) {
    const r = load<u8>(at);
    const g = load<u8>(at, 1);
    const b = load<u8>(at, 2);
    const y = luminance(r, g, b);
    add(sums + LUMINANCE, y);
    add(sums + LUMINANCE_SQUARED, y * y);
    add(sums + GREEN, <f64>g);
    add(sums + GREEN_SQUARED, <f64>g * <f64>g);
    const bin = histogram + ((<usize>(<i32>(y + 0.5))) << 2);
    store<u32>(bin, load<u32>(bin) + 1);
    if (r === 0 || g === 0 || b === 0 || r === 255 || g === 255 || b === 255) add(sums + CLIPPED, 1);
  }
  smoothGreen(rgb, width, height, across, smooth);
  for (let y = max(1, top); y < min(height - 1, bottom); y++) {
    for (let x = 1; x < width - 1; x++) {
      const at = smooth + ((<usize>(y * width + x)) << 2);
      const row = (<usize>width) << 2;
      const beside = load<f32>(at - 4) + load<f32>(at + 4);
      const value = <f64>(4 * load<f32>(at) - (beside + (load<f32>(at - row) + load<f32>(at + row))));
      add(sums + LAPLACIANS, 1);
      add(sums + LAPLACIAN, value);
      add(sums + LAPLACIAN_SQUARED, value * value);
    }
  }
}

/** In the order of stain.ts. */
const CLEAR: usize = 0;
const STAINED: usize = 24;

/**
 * Optical densities of red and green, by grey level in `densities` (256 f64), summed over the pixels with at least the luminance `clearFrom` and over
 * the others: count, red, green of either, added to `sums` (six f64).
 */
export function stain(rgb: usize, pixels: i32, clearFrom: f64, densities: usize, sums: usize): void {
  for (let at = rgb; at < rgb + <usize>(pixels * 3); at += 3) {
    const r = load<u8>(at);
    const g = load<u8>(at, 1);
    const to = sums + (luminance(r, g, load<u8>(at, 2)) >= clearFrom ? CLEAR : STAINED);
    add(to, 1);
    add(to + 8, load<f64>(densities + ((<usize>r) << 3)));
    add(to + 16, load<f64>(densities + ((<usize>g) << 3)));
  }
}

/** ITU-R BT.601 luma: what "brightness" means to a person at the screen. */
function luminance(r: u8, g: u8, b: u8): f64 {
  return 0.299 * <f64>r + 0.587 * <f64>g + 0.114 * <f64>b;
}

function smoothGreen(rgb: usize, width: i32, height: i32, across: usize, smooth: usize): void {
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const left = green(rgb, y * width + max(0, x - 1));
      const right = green(rgb, y * width + min(width - 1, x + 1));
      const sum = left + 2 * green(rgb, y * width + x) + right;
      store<f32>(across + ((<usize>(y * width + x)) << 2), sum / 4);
    }
  }
  for (let y = 0; y < height; y++) {
    const row = (<usize>(y * width)) << 2;
    const above = (<usize>(max(0, y - 1) * width)) << 2;
    const below = (<usize>(min(height - 1, y + 1) * width)) << 2;
    for (let x: usize = 0; x < (<usize>width) << 2; x += 4) {
      const sum = load<f32>(across + above + x) + 2 * load<f32>(across + row + x) + load<f32>(across + below + x);
      store<f32>(smooth + row + x, sum / 4);
    }
  }
}

function green(rgb: usize, pixel: i32): f32 {
  return <f32>load<u8>(rgb + <usize>(pixel * 3) + 1);
}

function add(sum: usize, value: f64): void {
  store<f64>(sum, load<f64>(sum) + value);
}
