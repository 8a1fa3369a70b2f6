/** The differential count: how many of each class, as share of all white cells, and how sure that share is. */
import { type CellType, isWbcClass, OTHER_CLASSES, type OtherClass, WBC_CLASSES, type WbcClass } from './cell-types.js';
import { clopperPearson } from './clopper-pearson.js';
import { COUNTING_RULE } from './counting-frame.js';

/** One found cell, as far as counting is concerned. */
export interface CountableCell {
  readonly class: CellType;
  /** What `isCounted` says about its place in the image. */
  readonly counted: boolean;
}

export interface DifferentialOptions {
  /** White cells that the laboratory wants counted, usually 100 or 200. */
  readonly targetCells: number;
  /** White blood cell count of the specimen in 10*9/L, erythroblasts not yet taken off. */
  readonly wbcCount?: number | null;
}

/** Percent, 0–100, two decimals. */
export interface PercentInterval {
  readonly low: number;
  readonly high: number;
}

export interface DifferentialClass {
  readonly class: WbcClass;
  readonly count: number;
  /** Share of `totalWbc` in percent, two decimals; null without white cells. */
  readonly percent: number | null;
  /** 95 % Clopper–Pearson interval of that share; null without white cells. */
  readonly ci95: PercentInterval | null;
  /** 10*9/L, three decimals; null where no WBC count came with the order or no white cell was found. */
  readonly absoluteCount: number | null;
}

export interface OtherClassCount {
  readonly class: OtherClass;
  readonly count: number;
}

export interface Differential {
  /** Sum of the counts in `classes`. */
  readonly totalWbc: number;
  readonly targetCells: number;
  readonly targetReached: boolean;
  /** What every `percent` is a share of. */
  readonly denominator: 'totalWbc';
  /** Every white cell class, also those that were not seen. */
  readonly classes: readonly DifferentialClass[];
  /** What was found beside them; in no percentage. */
  readonly others: readonly OtherClassCount[];
  /** Cells of any class that the border rule left out. */
  readonly notCounted: number;
  /** The border rule in words. */
  readonly countingRule: string;
  /** Erythroblasts per 100 white cells, one decimal; null without white cells. */
  readonly nrbcPer100Wbc: number | null;
  /** The WBC count that came with the order, 10*9/L. */
  readonly wbcCount: number | null;
  /** That count without the erythroblasts that an analyser takes for white cells, 10*9/L, three decimals. */
  readonly wbcCountCorrected: number | null;
}

/**
 * Counts the cells of one analysis.
 * @throws RangeError for a target that is not a whole number ≥ 1 or a WBC count that is not a finite number ≥ 0
 */
export function differential(cells: readonly CountableCell[], options: DifferentialOptions): Differential {
  const { targetCells } = options;
  const wbcCount = options.wbcCount ?? null;
  if (!Number.isSafeInteger(targetCells) || targetCells < 1) {
    throw new RangeError(`targetCells must be a whole number of at least 1, got ${targetCells}.`);
  }
  if (wbcCount !== null && !(Number.isFinite(wbcCount) && wbcCount >= 0)) {
    throw new RangeError(`wbcCount must be a number of at least 0 (10*9/L), got ${wbcCount}.`);
  }

  const counts = new Map<CellType, number>();
  let totalWbc = 0;
  let notCounted = 0;
  for (const cell of cells) {
    if (!cell.counted) {
      notCounted += 1;
      continue;
    }
    counts.set(cell.class, (counts.get(cell.class) ?? 0) + 1);
    if (isWbcClass(cell.class)) totalWbc += 1;
  }
  const countOf = (type: CellType): number => counts.get(type) ?? 0;

  const nrbcPer100Wbc = totalWbc === 0 ? null : (100 * countOf('erythroblast')) / totalWbc;
  const wbcCountCorrected =
    wbcCount === null || nrbcPer100Wbc === null ? null : correctWbcCount(wbcCount, nrbcPer100Wbc);

  return {
    totalWbc,
    targetCells,
    targetReached: totalWbc >= targetCells,
    denominator: 'totalWbc',
    classes: WBC_CLASSES.map((type) => classLine(type, countOf(type), totalWbc, wbcCountCorrected)),
    others: OTHER_CLASSES.map((type) => ({ class: type, count: countOf(type) })),
    notCounted,
    countingRule: COUNTING_RULE,
    nrbcPer100Wbc: nrbcPer100Wbc === null ? null : round(nrbcPer100Wbc, 1),
    wbcCount,
    wbcCountCorrected: wbcCountCorrected === null ? null : round(wbcCountCorrected, 3),
  };
}

/**
 * Takes erythroblasts off a WBC count. An analyser that counts nuclei sees 100 white cells and the erythroblasts that
 * lie beside them as 100 + nRBC, so the white cells among them are count × 100 / (100 + nRBC): the usual laboratory
 * correction (stated for example by medicalalgorithms.com, "Correction of WBC for nucleated red blood cells").
 * Laboratories often apply it only from five erythroblasts on; here it applies from the first, because a threshold would
 * make the count jump. An analyser that subtracts erythroblasts itself must send its uncorrected count, or none.
 * @param wbcCount 10*9/L
 * @param nrbcPer100Wbc erythroblasts per 100 white cells
 * @returns 10*9/L
 */
export function correctWbcCount(wbcCount: number, nrbcPer100Wbc: number): number {
  return (wbcCount * 100) / (100 + nrbcPer100Wbc);
}

function classLine(type: WbcClass, count: number, totalWbc: number, wbcCount: number | null): DifferentialClass {
  if (totalWbc === 0) return { class: type, count, percent: null, ci95: null, absoluteCount: null };
  const interval = clopperPearson(count, totalWbc);
  return {
    class: type,
    count,
    percent: round((100 * count) / totalWbc, 2),
    ci95: { low: round(100 * interval.low, 2), high: round(100 * interval.high, 2) },
    absoluteCount: wbcCount === null ? null : round((wbcCount * count) / totalWbc, 3),
  };
}

/** The added share of an ulp keeps 0.285 from becoming 0.28 because it is stored as 0.28499… */
function round(value: number, decimals: number): number {
  const factor = 10 ** decimals;
  return Math.round(value * factor * (1 + Number.EPSILON)) / factor;
}
