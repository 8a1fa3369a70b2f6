/** Writes small bitmaps of every kind that a microscope's software may write. */
export interface BmpSpec {
  readonly width: number;
  readonly height: number;
  readonly bitsPerPixel: 1 | 4 | 8 | 16 | 24 | 32;
  /** Rows from the top: written with a negative height. */
  readonly topDown?: boolean;
  /** 40 (default), 12, 108 or 124 bytes. */
  readonly headerBytes?: 12 | 40 | 108 | 124;
  readonly compression?: 0 | 1 | 2 | 3;
  readonly masks?: readonly [number, number, number, number];
  /** RGB entries. */
  readonly palette?: readonly (readonly [number, number, number])[];
  /** Unused bytes between the header and the pixels. */
  readonly gap?: number;
  /** Pixel value (palette index or packed colour) for each position, y from the top. */
  readonly value?: (x: number, y: number) => number;
  /** Ready pixel data, e.g. run lengths, instead of `value`. */
  readonly pixels?: Uint8Array;
}

export function writeBmp(spec: BmpSpec): Uint8Array {
  const { width, height, bitsPerPixel, headerBytes = 40, compression = 0, palette = [], gap = 0 } = spec;
  const core = headerBytes === 12;
  const masksAfter = compression === 3 && headerBytes === 40 ? 12 : 0;
  const paletteBytes = palette.length * (core ? 3 : 4);
  const offset = 14 + headerBytes + masksAfter + paletteBytes + gap;
  const stride = Math.ceil((width * bitsPerPixel) / 32) * 4;
  const pixels = spec.pixels ?? packRows(spec, stride);
  const out = new Uint8Array(offset + pixels.length);
  const view = new DataView(out.buffer);
  out.set([0x42, 0x4d]);
  view.setUint32(2, out.length, true);
  view.setUint32(10, offset, true);
  view.setUint32(14, headerBytes, true);
  if (core) {
    view.setUint16(18, width, true);
    view.setUint16(20, height, true);
    view.setUint16(22, 1, true);
    view.setUint16(24, bitsPerPixel, true);
  } else {
    view.setInt32(18, width, true);
    view.setInt32(22, spec.topDown ? -height : height, true);
    view.setUint16(26, 1, true);
    view.setUint16(28, bitsPerPixel, true);
    view.setUint32(30, compression, true);
    view.setUint32(46, palette.length, true);
    if (spec.masks) {
      spec.masks.forEach((mask, i) => {
        if (i < 3 || headerBytes > 40) view.setUint32(54 + i * 4, mask, true);
      });
    }
  }
  palette.forEach(([r, g, b], i) => {
    out.set(core ? [b, g, r] : [b, g, r, 0], 14 + headerBytes + masksAfter + i * (core ? 3 : 4));
  });
  out.set(pixels, offset);
  return out;
}

function packRows(spec: BmpSpec, stride: number): Uint8Array {
  const { width, height, bitsPerPixel, value = () => 0 } = spec;
  const out = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const row = (spec.topDown ? y : height - 1 - y) * stride;
    for (let x = 0; x < width; x++) {
      const v = value(x, y);
      if (bitsPerPixel < 8) {
        const at = row + Math.floor((x * bitsPerPixel) / 8);
        out[at] = (out[at] ?? 0) | (v << (8 - bitsPerPixel - ((x * bitsPerPixel) % 8)));
      } else {
        for (let b = 0; b < bitsPerPixel / 8; b++) out[row + (x * bitsPerPixel) / 8 + b] = (v >>> (8 * b)) & 255;
      }
    }
  }
  return out;
}
