/** The few figures that are told of several measurements. */
export interface Spread {
  readonly median: number;
  readonly low: number;
  readonly high: number;
  readonly rounds: number;
}

/** Nearest-rank quantile; NaN of nothing. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN;
}

export function spread(values: readonly number[]): Spread {
  return { median: median(values), low: Math.min(...values), high: Math.max(...values), rounds: values.length };
}

/** Of an even number of rounds the mean of the two in the middle: the lower one alone would favour what is measured in the denominator. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (place: number): number => sorted[place] ?? Number.NaN;
  return (at(Math.ceil(sorted.length / 2) - 1) + at(Math.floor(sorted.length / 2))) / 2;
}

/** Round by round: what the machine does in one of them it does to both. */
export const ratios = (values: readonly number[], of: readonly number[]): number[] =>
  values.map((value, round) => value / (of[round] ?? Number.NaN));

/** As a person reads it: three figures. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return '–';
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en') : Number(value.toPrecision(3)).toString();
}

export const told = ({ median, low, high, rounds }: Spread): string =>
  rounds > 1 ? `${figure(median)} (${figure(low)}–${figure(high)})` : figure(median);
