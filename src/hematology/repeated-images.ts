/**
 * Images that came more than once with one order. The same bytes are the same field: counted twice, its cells would
 * weigh double and narrow every interval without telling more (docs/decisions/0056-repeated-images.md).
 */
export interface ComparableImage {
  readonly index: number;
  /** Of the posted bytes; null where there are none. */
  readonly sha256: string | null;
  readonly failed: boolean;
}

/** By the index of a repeated image: that of the image with the same bytes whose cells are counted in its stead. */
export function repeatedImages(images: readonly ComparableImage[]): ReadonlyMap<number, number> {
  const first = new Map<string, number>();
  const repeated = new Map<number, number>();
  for (const { index, sha256, failed } of images) {
    // A failed image has no cells: a later one with the same bytes may stand for it, not the other way round.
    if (sha256 === null || failed) continue;
    const before = first.get(sha256);
    if (before === undefined) first.set(sha256, index);
    else repeated.set(index, before);
  }
  return repeated;
}

/** The cells that a result rests on: those of repeated images are left out. */
export function cellsOnce<Cell extends { readonly image: number }>(
  cells: readonly Cell[],
  images: readonly { readonly index: number; readonly repeatOf: number | null }[],
): Cell[] {
  const repeated = new Set(images.filter((image) => image.repeatOf !== null).map((image) => image.index));
  return cells.filter((cell) => !repeated.has(cell.image));
}
