/**
 * How crops of several images share a run of the cells network: which of the waiting ones go together, and how the answer
 * is taken apart again. Pure; the pool (infer.ts) owns threads and time.
 */
import type { CellsInput, CellsOutput } from './infer-messages.js';
import { release } from './release.js';

/** Crops in one run. On a processor larger runs are slower (4 fit its cache) and keep others waiting; a GPU wants more of them. */
export const BATCH_CROPS = { cpu: 4, cuda: 64 } as const;

/** The sizes that a run may have on a GPU, which searches for kernels anew at every further shape: 1, 2, 4 … and the most. */
export function bucketsUpTo(most: number): number[] {
  const buckets: number[] = [];
  for (let size = 1; size < most; size *= 2) buckets.push(size);
  return [...buckets, most];
}

/** The smallest bucket that holds so many crops; the count itself where no bucket does, or where there are none. */
export function bucketOf(count: number, buckets: readonly number[]): number {
  return buckets.find((size) => size >= count) ?? count;
}

/** Part of an input, on the same memory. */
export function partOf(input: CellsInput, first: number, count: number): CellsInput {
  const crop = input.crops.length / input.count;
  const prior = input.prior.length / input.count;
  return {
    kind: 'cells',
    count,
    crops: input.crops.subarray(first * crop, (first + count) * crop),
    prior: input.prior.subarray(first * prior, (first + count) * prior),
  };
}

type Values = Omit<CellsOutput, 'kind' | 'count'>;
const VALUES: readonly (keyof Values)[] = [
  'probabilities',
  'segmentation',
  'cam',
  'consistency',
  'attributes',
  'reject',
];
const valuesOf = (make: (key: keyof Values) => Float32Array<ArrayBuffer>): Values =>
  Object.fromEntries(VALUES.map((key) => [key, make(key)])) as unknown as Values;

/** The answer of a run, taken apart into one for each of its inputs; it is not to be read itself any more. */
export function answersOf(output: CellsOutput, counts: readonly number[]): CellsOutput[] {
  if (counts.length === 1) return [output];
  let at = 0;
  const answers = counts.map((count): CellsOutput => {
    const first = at;
    at += count;
    // A copy, so that the memory of each goes with its reader.
    const part = (values: Float32Array<ArrayBuffer>): Float32Array<ArrayBuffer> => {
      const length = values.length / output.count;
      return values.slice(first * length, (first + count) * length);
    };
    return { kind: 'cells', count, ...valuesOf((key) => part(output[key])) };
  });
  releaseAnswer(output);
  return answers;
}

/** Frees an answer that has been read. */
export function releaseAnswer(output: CellsOutput): void {
  release(...VALUES.map((key) => output[key]));
}

/** The answers for consecutive parts of one input, in one piece. The parts are not to be read any more. */
export function joinAnswers(parts: readonly CellsOutput[]): CellsOutput {
  const [only] = parts;
  if (only !== undefined && parts.length === 1) return only;
  const joined = (key: keyof Values): Float32Array<ArrayBuffer> => {
    const all = new Float32Array(parts.reduce((sum, part) => sum + part[key].length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part[key], at);
      at += part[key].length;
    }
    return all;
  };
  const values = valuesOf(joined);
  for (const part of parts) releaseAnswer(part);
  return { kind: 'cells', count: parts.reduce((sum, { count }) => sum + count, 0), ...values };
}
