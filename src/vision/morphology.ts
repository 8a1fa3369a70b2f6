/** What a technologist would say of a cell besides its name: the network's attribute outputs, in words. */
import type { CellType } from '../hematology/cell-types.js';
import { isWhiteCell, NUCLEUS } from './instances.js';
import type { AttributeSpec, CellsManifest } from './manifest.js';
import type { Graded, GreyImage, Morphology } from './types.js';

/** Named for the finer class: not one of the attributes that a reader sees, but a field of its own. */
export const SUBTYPE_ATTRIBUTE = 'subtype';

export interface Description {
  /** Finer class: band or segmented, promyelocyte, myelocyte or metamyelocyte; null for classes without. */
  readonly subtype: Graded | null;
  /** Null for what is no nucleated cell. */
  readonly morphology: Morphology | null;
}

/**
 * @param values One cell's attribute probabilities, `manifest.attributes` one after the other; each attribute sums to 1.
 * @param mask Label map of the cell, for the measured share of the nucleus.
 */
export function describeMorphology(
  values: Float32Array,
  type: CellType,
  mask: GreyImage,
  manifest: Pick<CellsManifest, 'attributes' | 'subtypes'>,
): Description {
  if (!isWhiteCell(type) || type === 'unidentified') return { subtype: null, morphology: null };
  const attributes: Record<string, Graded> = {};
  let subtype: Graded | null = null;
  let first = 0;
  for (const spec of manifest.attributes) {
    const part = values.subarray(first, first + spec.values.length);
    first += spec.values.length;
    if (spec.name === SUBTYPE_ATTRIBUTE) subtype = graded(spec, part, manifest.subtypes[type] ?? []);
    else attributes[spec.name] = graded(spec, part, spec.values) ?? { value: spec.values[0] ?? '', probability: 0 };
  }
  return { subtype, morphology: { attributes, nuclearAreaRatio: nuclearAreaRatio(mask) } };
}

/** The most probable of the `allowed` values, its probability among those; null where none is allowed. */
function graded(spec: AttributeSpec, part: ArrayLike<number>, allowed: readonly string[]): Graded | null {
  let best: string | undefined;
  let top = 0;
  let sum = 0;
  for (const [i, value] of spec.values.entries()) {
    if (!allowed.includes(value)) continue;
    const p = part[i] ?? 0;
    sum += p;
    if (best === undefined || p > top) {
      best = value;
      top = p;
    }
  }
  return best === undefined
    ? null
    : { value: best, probability: sum > 0 ? Math.min(1, top / sum) : 1 / allowed.length };
}

/** Area of the nucleus to that of the cell, 0–1: the measured form of the nuclear–cytoplasmic ratio. */
function nuclearAreaRatio({ data }: GreyImage): number {
  let cell = 0;
  let nucleus = 0;
  for (const label of data) {
    if (label === 0) continue;
    cell += 1;
    if (label === NUCLEUS) nucleus += 1;
  }
  return cell === 0 ? 0 : nucleus / cell;
}
