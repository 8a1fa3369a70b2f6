/**
 * Which of the cells that an image shows are counted. A cell that the border cuts would be counted twice when two
 * neighbouring fields are photographed, and large cells are cut more often than small ones. The unbiased counting frame
 * of stereology (Gundersen 1977) settles both: of each pair of opposite borders one counts and one does not.
 */

/** Pixels; origin top left, x right, y down. */
export interface FrameBox {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export interface FrameSize {
  readonly width: number;
  readonly height: number;
}

export type Side = 'left' | 'top' | 'right' | 'bottom';

/** The rule in one sentence, given out with every differential. */
export const COUNTING_RULE =
  'Cells cut by the left or top border of an image are counted, cells cut by its right or bottom border are not, ' +
  'unless the cell covers the centre of the image (a photograph of that one cell).';

/** The borders of the image that the box reaches, in the order left, top, right, bottom. */
export function touchedSides(box: FrameBox, image: FrameSize): Side[] {
  const sides: Side[] = [];
  if (box.x <= 0) sides.push('left');
  if (box.y <= 0) sides.push('top');
  if (box.x + box.width >= image.width) sides.push('right');
  if (box.y + box.height >= image.height) sides.push('bottom');
  return sides;
}

/**
 * Whether a cell of this image belongs to the count. A cell in the corner between a counting and a non-counting border
 * is not counted: the non-counting border wins, as in Gundersen's frame. A cell that reaches the right or bottom
 * border and still covers the centre spans half the image: then the image is a portrait of that cell and no frame was
 * laid over a field, so it is counted.
 */
export function isCounted(cell: { readonly box: FrameBox }, image: FrameSize): boolean {
  const sides = touchedSides(cell.box, image);
  if (!sides.includes('right') && !sides.includes('bottom')) return true;
  const { x, y, width, height } = cell.box;
  const centreX = image.width / 2;
  const centreY = image.height / 2;
  return x <= centreX && centreX <= x + width && y <= centreY && centreY <= y + height;
}
