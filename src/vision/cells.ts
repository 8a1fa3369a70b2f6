/** The SG-CLDFF network on every candidate: cut the crops, run them in batches, keep what later steps need. */
import type { CellType } from '../hematology/cell-types.js';
import { releaseAnswer } from './batches.js';
import type { CellsInput, CellsOutput } from './infer-messages.js';
import { BACKGROUND, type CellShape, classify, SMALLEST_RADIUS_UM, shapesOfCrop } from './instances.js';
import type { Located } from './locate.js';
import { attributeWidth, type CellsManifest } from './manifest.js';
import { nextTurn, sampleMap, sampleWindow, toGrey } from './raster.js';
import type { Box, GreyImage, RgbImage } from './types.js';

export interface CellAnswer {
  readonly centre: { readonly x: number; readonly y: number };
  readonly shape: CellShape;
  /** Places of cells that touch this one and that its crop showed in one piece with it. */
  readonly neighbours: readonly Place[];
  readonly class: CellType;
  readonly confidence: number;
  readonly probabilities: Float32Array;
  readonly consistency: number;
  readonly attributes: Float32Array;
  readonly reject: number;
  readonly window: Box;
  readonly crop: RgbImage;
  readonly cam: GreyImage;
}

export type RunCells = (input: CellsInput) => Promise<CellsOutput>;

/** Crops that go to the networks together; the pool may put those of other images beside them. */
const BATCH = 16;
/** Batches on their way at once: one at the network, one being cut. More would only hold memory. */
const IN_FLIGHT = 2;

/** How often touching cells that came out of a blob are looked at as candidates of their own. */
const EXTRA_ROUNDS = 2;

/**
 * Describes the cell at each candidate; candidates whose crop shows no cell are left out. Where a crop shows cells that
 * touch its own and that are no candidates yet, they are looked at too.
 */
export async function inferCells(
  image: RgbImage,
  located: Located,
  micronsPerPixel: number,
  manifest: CellsManifest,
  run: RunCells,
): Promise<CellAnswer[]> {
  const context: Context = { image, located, micronsPerPixel, manifest, run };
  const answers: CellAnswer[] = [];
  const seen: Place[] = [...located.candidates];
  let next: readonly Place[] = located.candidates;
  for (let round = 0; round <= EXTRA_ROUNDS && next.length > 0; round++) {
    answers.push(...(await inferPlaces(next, context)));
    next = newNeighbours(answers, seen, SMALLEST_RADIUS_UM / micronsPerPixel);
    seen.push(...next);
  }
  return answers;
}

interface Place {
  readonly x: number;
  readonly y: number;
}

interface Context {
  readonly image: RgbImage;
  readonly located: Located;
  readonly micronsPerPixel: number;
  readonly manifest: CellsManifest;
  readonly run: RunCells;
}

/** Neighbours that no candidate stands for: none is near, and they lie in no cell that was found. */
function newNeighbours(answers: readonly CellAnswer[], seen: readonly Place[], minDistancePx: number): Place[] {
  const found: Place[] = [];
  for (const place of answers.flatMap(({ neighbours }) => neighbours)) {
    const near = (other: Place): boolean => Math.hypot(other.x - place.x, other.y - place.y) < minDistancePx;
    if (seen.some(near) || found.some(near) || answers.some(({ shape }) => covers(shape, place))) continue;
    found.push(place);
  }
  return found;
}

function covers({ box, labels }: CellShape, { x, y }: Place): boolean {
  const [u, v] = [Math.floor(x) - box.x, Math.floor(y) - box.y];
  return u >= 0 && v >= 0 && u < box.width && v < box.height && labels[v * box.width + u] !== BACKGROUND;
}

async function inferPlaces(places: readonly Place[], context: Context): Promise<CellAnswer[]> {
  const batches: Place[][] = [];
  for (let i = 0; i < places.length; i += BATCH) batches.push(places.slice(i, i + BATCH));
  const answers: CellAnswer[][] = batches.map(() => []);
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let at = next++; at < batches.length; at = next++) {
      answers[at] = await inferBatch(batches[at] ?? [], context);
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
  return answers.flat();
}

async function inferBatch(batch: readonly Place[], context: Context): Promise<CellAnswer[]> {
  const { image, located, micronsPerPixel, manifest, run } = context;
  const { size } = manifest;
  const pixels = size * size;
  const sidePx = (size * manifest.micronsPerPixel) / micronsPerPixel;
  const windows = batch.map(
    ({ x, y }): Box => ({ x: x - sidePx / 2, y: y - sidePx / 2, width: sidePx, height: sidePx }),
  );
  const block = takeBlock(pixels);
  const crops = new Uint8Array(block.crops, 0, batch.length * pixels * 3);
  const prior = new Float32Array(block.prior, 0, batch.length * pixels);
  for (const [i, window] of windows.entries()) {
    sampleWindow(image, window, size, crops.subarray(i * pixels * 3, (i + 1) * pixels * 3));
    sampleMap(located.saliency, window, size, prior.subarray(i * pixels, (i + 1) * pixels));
    await nextTurn();
  }
  const output = await run({ kind: 'cells', count: batch.length, crops, prior });
  const answers: CellAnswer[] = [];
  for (const [i, window] of windows.entries()) {
    const answer = describe(i, window, crops, output, image, manifest);
    if (answer !== undefined) answers.push(answer);
    await nextTurn();
  }
  // A run that failed may still be reading: then the block is left to the garbage collector.
  spareBlocks.push(block);
  releaseAnswer(output);
  return answers;
}

/** Shared memory for the crops of a batch. */
interface Block {
  readonly crops: SharedArrayBuffer;
  readonly prior: SharedArrayBuffer;
}

/** Those that nobody uses now, at most as many as were ever in use at once: what is overwritten costs less than what comes anew. */
const spareBlocks: Block[] = [];

function takeBlock(pixels: number): Block {
  const bytes = BATCH * pixels * 3;
  const at = spareBlocks.findIndex(({ crops }) => crops.byteLength === bytes);
  const [spare] = at < 0 ? [] : spareBlocks.splice(at, 1);
  return (
    spare ?? {
      crops: new SharedArrayBuffer(bytes),
      prior: new SharedArrayBuffer(BATCH * pixels * Float32Array.BYTES_PER_ELEMENT),
    }
  );
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
  const gridUm = manifest.micronsPerPixel * maskStride;
  const shapes = shapesOfCrop(segmentation, maskSide, window, image.width, image.height, gridUm);
  if (shapes === undefined) return undefined;
  const probabilities = part(output.probabilities, classes.length);
  const reject = Math.min(1, Math.max(0, output.reject[i] ?? 0));
  return {
    centre: { x: window.x + window.width / 2, y: window.y + window.height / 2 },
    shape: shapes.central,
    neighbours: shapes.neighbours,
    ...classify(probabilities, reject, manifest),
    probabilities,
    consistency: Math.min(1, Math.max(0, output.consistency[i] ?? 0)),
    attributes: part(output.attributes, attributeWidth(manifest)),
    reject,
    window,
    // A copy, which is not in shared memory any longer.
    crop: { width: size, height: size, data: crops.slice(i * size * size * 3, (i + 1) * size * size * 3) },
    cam: toGrey(camSize, camSize, part(output.cam, camSize * camSize)),
  };
}
