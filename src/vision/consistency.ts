/** Saliency consistency of an image, from that of its cells. */
import { isWhiteCell } from './instances.js';
import type { CellFinding } from './types.js';

/**
 * Mean over the white cells (also those that the model declined to name), each weighing the same: it answers "how well
 * do evidence, saliency and outline agree in this field", so large cells must not drown small ones. Platelets and
 * artefacts say nothing about that. Null without white cells.
 */
export function imageConsistency(cells: readonly Pick<CellFinding, 'class' | 'saliencyConsistency'>[]): number | null {
  const white = cells.filter((cell) => isWhiteCell(cell.class));
  if (white.length === 0) return null;
  return white.reduce((sum, cell) => sum + cell.saliencyConsistency, 0) / white.length;
}
