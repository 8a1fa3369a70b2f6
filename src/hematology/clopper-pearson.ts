/**
 * Clopper–Pearson ("exact") confidence limits of a proportion. For k successes in n trials the lower limit is the p at
 * which seeing k or more has probability α/2, the upper one the p at which seeing k or fewer has probability α/2.
 * Since P(X ≥ k) for X ~ Bin(n, p) is the regularised incomplete beta function I_p(k, n − k + 1), both limits are
 * solutions of one equation. These limits reproduce Rümke's table (1985), which haematology laboratories use to judge
 * 100- and 200-cell differentials.
 */

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/**
 * Limits as proportions, 0–1.
 * @param confidence two-sided coverage, 0.95 for a 95 % interval
 * @throws RangeError unless 0 ≤ successes ≤ trials are whole numbers, trials > 0 and 0 < confidence < 1
 */
export function clopperPearson(successes: number, trials: number, confidence = 0.95): Interval {
  if (!Number.isSafeInteger(successes) || !Number.isSafeInteger(trials) || trials < 1) {
    throw new RangeError(`Clopper–Pearson needs whole numbers and at least one trial, got ${successes} of ${trials}.`);
  }
  if (successes < 0 || successes > trials) {
    throw new RangeError(`Clopper–Pearson needs 0 ≤ successes ≤ trials, got ${successes} of ${trials}.`);
  }
  if (!(confidence > 0 && confidence < 1)) {
    throw new RangeError(`Clopper–Pearson needs a confidence between 0 and 1, got ${confidence}.`);
  }
  const tail = (1 - confidence) / 2;
  return {
    low: successes === 0 ? 0 : solveBeta(tail, successes, trials - successes + 1),
    high: successes === trials ? 1 : solveBeta(1 - tail, successes + 1, trials - successes),
  };
}

/** The x at which I_x(a, b) = target. I grows with x, so halving the interval cannot miss. */
function solveBeta(target: number, a: number, b: number): number {
  let low = 0;
  let high = 1;
  // 52 halvings exhaust the digits of a double; a few more serve limits close to 0.
  for (let step = 0; step < 64; step += 1) {
    const middle = (low + high) / 2;
    if (regularisedBeta(middle, a, b) < target) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/**
 * I_x(a, b) for whole a, b ≥ 1 by its continued fraction (DLMF 8.17.22), which converges in some √max(a, b) steps
 * where x is below the mean; above it the symmetry I_x(a, b) = 1 − I_{1−x}(b, a) brings it there.
 */
export function regularisedBeta(x: number, a: number, b: number): number {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - regularisedBeta(1 - x, b, a);
  const logBeta = logFactorial(a - 1) + logFactorial(b - 1) - logFactorial(a + b - 1);
  const front = Math.exp(a * Math.log(x) + b * Math.log1p(-x) - logBeta) / a;
  return front * betaFraction(x, a, b);
}

/** 1/(1 + d₁/(1 + d₂/(1 + …))), evaluated front to back (modified Lentz). */
function betaFraction(x: number, a: number, b: number): number {
  const tiny = 1e-300;
  let numerator = 1;
  let denominator = nonZero(1 - ((a + b) * x) / (a + 1));
  denominator = 1 / denominator;
  let value = denominator;
  for (let m = 1; m <= 10_000; m += 1) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    denominator = 1 / nonZero(1 + even * denominator);
    numerator = nonZero(1 + even / numerator);
    value *= denominator * numerator;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    denominator = 1 / nonZero(1 + odd * denominator);
    numerator = nonZero(1 + odd / numerator);
    const change = denominator * numerator;
    value *= change;
    if (Math.abs(change - 1) < 1e-15) return value;
  }
  throw new Error(`The incomplete beta function did not converge for x=${x}, a=${a}, b=${b}.`);

  function nonZero(v: number): number {
    return Math.abs(v) < tiny ? tiny : v;
  }
}

/** ln n!, by the sum for small n, else by Stirling's series, whose first left-out term is below 1e-14 from 32 on. */
function logFactorial(n: number): number {
  if (n < 32) {
    let product = 1;
    let sum = 0;
    for (let factor = 2; factor <= n; factor += 1) {
      product *= factor;
      if (product > 1e200) {
        sum += Math.log(product);
        product = 1;
      }
    }
    return sum + Math.log(product);
  }
  const inverse = 1 / n;
  const square = inverse * inverse;
  const series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square / 1680)));
  return n * Math.log(n) - n + 0.5 * Math.log(2 * Math.PI * n) + series;
}
