import type { CellsOutput } from '../../src/vision/infer-messages.js';

/** An answer of the cells network in which every value of a crop is that which `valueFor` gives for the crop's place. */
export function cellsOutput(count: number, valueFor: (crop: number) => number): CellsOutput {
  const values = (length: number): Float32Array<ArrayBuffer> =>
    new Float32Array(count * length).map((_, i) => valueFor(Math.floor(i / length)));
  return {
    kind: 'cells',
    count,
    probabilities: values(3),
    segmentation: values(12),
    cam: values(4),
    consistency: values(1),
    attributes: values(5),
    reject: values(1),
  };
}
