/** The SG-CLDFF network on every candidate: cut the crops, run them in batches, keep what later steps need. */
import type { CellType } from '../hematology/cell-types.js';
import type { CellsInput, CellsOutput } from './infer-messages.js';
import { type CellShape, classify, shapeOfCrop } from './instances.js';
import type { Candidate, Located } from './locate.js';
import type { CellsManifest } from './manifest.js';
import { nextTurn, sampleMap, sampleWindow, toGrey } from './raster.js';
import type { Box, GreyImage, RgbImage } from './types.js';

export interface CellAnswer {
  readonly centre: { readonly x: number; readonly y: number };
  readonly shape: CellShape;
  readonly class: CellType;
  readonly confidence: number;
  readonly probabilities: Float32Array;
  readonly consistency: number;
  readonly window: Box;
  readonly crop: RgbImage;
  readonly cam: GreyImage;
}

export type RunCells = (input: CellsInput) => Promise<CellsOutput>;

/** Crops in one run; larger batches gain nothing on a CPU and keep others waiting. */
const BATCH = 16;
/** Batches on their way at once: one at the network, one being cut. More would only hold memory. */
const IN_FLIGHT = 2;

/** Describes the cell at each candidate; candidates whose crop shows no cell are left out. Order as given. */
export async function inferCells(
  image: RgbImage,
  located: Located,
  micronsPerPixel: number,
  manifest: CellsManifest,
  run: RunCells,
): Promise<CellAnswer[]> {
  const { candidates } = located;
  const batches: Candidate[][] = [];
  for (let i = 0; i < candidates.length; i += BATCH) batches.push(candidates.slice(i, i + BATCH));
  const answers: CellAnswer[][] = batches.map(() => []);
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let at = next++; at < batches.length; at = next++) {
      answers[at] = await inferBatch(batches[at] ?? [], image, located, micronsPerPixel, manifest, run);
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
  return answers.flat();
}

async function inferBatch(
  batch: readonly Candidate[],
  image: RgbImage,
  located: Located,
  micronsPerPixel: number,
  manifest: CellsManifest,
  run: RunCells,
): Promise<CellAnswer[]> {
  const { size } = manifest;
  const pixels = size * size;
  const sidePx = (size * manifest.micronsPerPixel) / micronsPerPixel;
  const windows = batch.map(
    ({ x, y }): Box => ({ x: x - sidePx / 2, y: y - sidePx / 2, width: sidePx, height: sidePx }),
  );
  const crops = new Uint8Array(batch.length * pixels * 3);
  const prior = new Float32Array(batch.length * pixels);
  for (const [i, window] of windows.entries()) {
    sampleWindow(image, window, size, crops.subarray(i * pixels * 3, (i + 1) * pixels * 3));
    sampleMap(located.saliency, window, size, prior.subarray(i * pixels, (i + 1) * pixels));
    await nextTurn();
  }
  // The run takes the buffers away; the crops are part of the result.
  const kept = crops.slice();
  const output = await run({ kind: 'cells', count: batch.length, crops, prior });
  const answers: CellAnswer[] = [];
  for (const [i, window] of windows.entries()) {
    const answer = describe(i, window, kept, output, image, manifest);
    if (answer !== undefined) answers.push(answer);
    await nextTurn();
  }
  return answers;
}

function describe(
  i: number,
  window: Box,
  crops: Uint8Array,
  output: CellsOutput,
  image: RgbImage,
  manifest: CellsManifest,
): CellAnswer | undefined {
  const { size, maskStride, camSize, classes } = manifest;
  const maskSide = size / maskStride;
  const part = (values: Float32Array, length: number): Float32Array => values.slice(i * length, (i + 1) * length);
  const segmentation = output.segmentation.subarray(i * 3 * maskSide * maskSide, (i + 1) * 3 * maskSide * maskSide);
  const shape = shapeOfCrop(segmentation, maskSide, window, image.width, image.height);
  if (shape === undefined) return undefined;
  const probabilities = part(output.probabilities, classes.length);
  return {
    centre: { x: window.x + window.width / 2, y: window.y + window.height / 2 },
    shape,
    ...classify(probabilities, manifest),
    probabilities,
    consistency: Math.min(1, Math.max(0, output.consistency[i] ?? 0)),
    window,
    crop: { width: size, height: size, data: crops.slice(i * size * size * 3, (i + 1) * size * size * 3) },
    cam: toGrey(camSize, camSize, part(output.cam, camSize * camSize)),
  };
}
