/**
 * Whether what comes is still like what the model was validated on, or like what the laboratory had before. Each measure is a
 * histogram over fixed bins; two of them are compared by the population stability index. Pure.
 */

const even = (from: number, to: number, step: number): number[] =>
  Array.from({ length: Math.round((to - from) / step) + 1 }, (_, i) => Number((from + i * step).toFixed(4)));
// Upper ends of all bins but the last, which is open. What a good model is sure of crowds below 1, where equal steps would see
// nothing.
const CERTAINTY = [...even(0.1, 0.9, 0.05), ...even(0.92, 0.98, 0.02), 0.985, 0.99, 0.9925, 0.995, 0.9975, 0.999];
const SHARE = even(0.02, 0.98, 0.02);

export const DRIFT_MEASURES = {
  confidence: { of: 'cell', edges: CERTAINTY },
  consistency: { of: 'cell', edges: CERTAINTY },
  /** One bin for each class. */
  class: { of: 'cell', edges: null },
  sharpness: { of: 'image', edges: [0.2, 0.4, 0.6, 0.8, ...even(1, 10, 0.5), ...even(12, 40, 2)] },
  brightness: { of: 'image', edges: SHARE },
  background: { of: 'image', edges: SHARE },
  stain_density: { of: 'image', edges: even(0.02, 1, 0.02) },
  stain_balance: { of: 'image', edges: even(0.05, 2, 0.05) },
} as const satisfies Readonly<
  Record<string, { readonly of: 'cell' | 'image'; readonly edges: readonly number[] | null }>
>;

export type DriftMeasure = keyof typeof DRIFT_MEASURES;
export const DRIFT_MEASURE_NAMES = Object.keys(DRIFT_MEASURES) as readonly DriftMeasure[];

/** Counts by bin: of the class by its name, else by the bin's number from 0. */
export type Histogram = Readonly<Record<string, number>>;
export type Histograms = Readonly<Record<DriftMeasure, Histogram>>;

/** Fewer tell more about chance than about drift: the index of k bins is about (k − 1)/n where nothing has changed. */
export const ENOUGH = { cell: 200, image: 50 } as const;

export interface Drift {
  readonly measure: DriftMeasure;
  readonly psi: number;
  readonly observations: number;
  /** Whether there are as many as an index needs. */
  readonly enough: boolean;
}

/** The bin of a value: how many edges it has reached. As PostgreSQL's width_bucket. */
export function binOf(value: number, edges: readonly number[]): number {
  let bin = 0;
  while (bin < edges.length && value >= (edges[bin] ?? Number.POSITIVE_INFINITY)) bin++;
  return bin;
}

/** Every measure against its reference. */
export function drifts(reference: Histograms, observed: Histograms): Drift[] {
  return DRIFT_MEASURE_NAMES.map((measure) => {
    const { of, edges } = DRIFT_MEASURES[measure];
    const observations = sum(Object.values(observed[measure]));
    const bins =
      edges === null ? byName(reference[measure], observed[measure]) : byTenths(reference[measure], edges.length + 1);
    return {
      measure,
      psi: stabilityIndex(
        bins.map((bin) => countOf(reference[measure], bin)),
        bins.map((bin) => countOf(observed[measure], bin)),
      ),
      observations,
      enough: observations >= ENOUGH[of],
    };
  });
}

/**
 * Σ (q − p) · ln(q / p) over the bins. Below 0.1 nothing has changed that matters, from 0.25 on it has: its usual reading. Half an
 * observation is added to each bin (Jeffreys), because an empty one would make the index infinite.
 */
export function stabilityIndex(reference: readonly number[], observed: readonly number[]): number {
  const shares = (counts: readonly number[]): number[] => {
    const total = sum(counts) + counts.length / 2;
    return counts.map((count) => (count + 0.5) / total);
  };
  const [p, q] = [shares(reference), shares(observed)];
  return sum(p.map((share, i) => ((q[i] ?? 0) - share) * Math.log((q[i] ?? 0) / share)));
}

/** Neighbouring bins together until each group holds a tenth of the reference: as many observations for each. */
function byTenths(reference: Histogram, count: number): string[][] {
  const tenth = sum(Object.values(reference)) / 10;
  const groups: string[][] = [];
  let group: string[] = [];
  for (let bin = 0; bin < count; bin++) {
    group.push(String(bin));
    if (countOf(reference, group) < tenth) continue;
    groups.push(group);
    group = [];
  }
  // What is left over is less than a tenth.
  const last = groups.pop() ?? [];
  return [...groups, [...last, ...group]];
}

function byName(...histograms: readonly Histogram[]): string[][] {
  return [...new Set(histograms.flatMap((histogram) => Object.keys(histogram)))].map((name) => [name]);
}

const countOf = (histogram: Histogram, bins: readonly string[]): number => sum(bins.map((bin) => histogram[bin] ?? 0));
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** A histogram to add to. */
export type Tally = Record<DriftMeasure, Record<string, number>>;

export function emptyTally(): Tally {
  return Object.fromEntries(DRIFT_MEASURE_NAMES.map((measure) => [measure, {}])) as Tally;
}

export function tally(into: Tally, measure: DriftMeasure, bin: string, count = 1): void {
  into[measure][bin] = (into[measure][bin] ?? 0) + count;
}
