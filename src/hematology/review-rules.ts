/**
 * When a person has to look, and why. Every result is preliminary until somebody reviewed it; `required` says that this
 * one needs attention before it is believed. Reason codes are part of the public API: they may be added, not renamed.
 */
import { CELL_TYPE_INFO, type CellType, isWbcClass, type WbcClass } from './cell-types.js';
import type { Differential } from './differential.js';

/**
 * Every threshold of the rules in one place. Percentages are shares of `totalWbc`.
 *
 * The limits for blasts (any), erythroblasts (any) and immature granulocytes (1 %) follow the criteria for a positive
 * smear of the International Consensus Group for Hematology Review (Barnes et al., Laboratory Hematology
 * 2005;11:83–90), whose table was not at hand when this was written: compare before clinical use. The limits for the
 * model's certainty and for the distribution are this project's own.
 */
export const REVIEW_THRESHOLDS = {
  /** The model has one class for all immature granulocytes, so the lowest of the consensus limits applies. */
  immatureGranulocytePercent: 1,
  /** Mean confidence of the counted white cells below which the result as a whole is doubtful, 0–1. */
  meanConfidence: 0.8,
  /** Share of white cells flagged `low_confidence`, 0–1. */
  lowConfidenceShare: 0.2,
  /** Share of white cells flagged `low_consistency`: named for something else than the cell itself, 0–1. */
  lowConsistencyShare: 0.2,
  /** Smudge cells per 100 white cells from which the percentages are biased by cells that broke. */
  smudgePer100Wbc: 20,
  /** Cells below which a percentage says too little to call it implausible: one basophil of ten is 10 %. */
  distributionMinimumWbc: 25,
  /**
   * Percentages that blood rarely shows and a stain or a camera that the model does not know easily makes:
   * [lowest, highest].
   */
  distribution: {
    neutrophil: [10, 95],
    lymphocyte: [0, 80],
    monocyte: [0, 25],
    eosinophil: [0, 25],
    basophil: [0, 5],
  },
} as const satisfies {
  readonly distribution: Partial<Record<WbcClass, readonly [number, number]>>;
  readonly [name: string]: unknown;
};

export const REVIEW_CODES = [
  'no_wbc_found',
  'blasts_present',
  'immature_granulocytes_present',
  'erythroblasts_present',
  'unidentified_cells',
  'below_target',
  'low_mean_confidence',
  'many_low_confidence_cells',
  'low_saliency_consistency',
  'implausible_distribution',
  'many_smudge_cells',
  'image_failed',
  'image_out_of_focus',
  'image_poor_exposure',
  'scale_unknown',
  'image_repeated',
] as const;

export type ReviewCode = (typeof REVIEW_CODES)[number];

export interface ReviewReason {
  readonly code: ReviewCode;
  /** For people: what was seen and what to do. Names no specimen. */
  readonly message: string;
  /** What was measured, in the unit that the message names: a count, a percentage or a share. Null where none. */
  readonly value: number | null;
  /** The limit it was held against; null where none. */
  readonly threshold: number | null;
  /** Indices of the images concerned; empty when the reason concerns the analysis as a whole. */
  readonly images: readonly number[];
}

export interface Review {
  /** Whether the result needs attention. Not required does not mean final: nobody has looked yet. */
  readonly required: boolean;
  readonly reasons: readonly ReviewReason[];
}

/** One found cell, as far as the rules are concerned. */
export interface ReviewCell {
  readonly class: CellType;
  /** Whether the border rule lets it into the differential. */
  readonly counted: boolean;
  /** 0–1. */
  readonly confidence: number;
  readonly flags: readonly string[];
  /** Index of its image. */
  readonly image: number;
}

/** One image of the analysis, as far as the rules are concerned. */
export interface ReviewImage {
  readonly index: number;
  readonly failed: boolean;
  /** Flags of the image quality: `out_of_focus`, `too_dark`, `too_bright`, `blank`, `scale_unknown`. */
  readonly qualityFlags: readonly string[];
  /** Index of the image with the same bytes whose cells are counted in its stead; null: its own are. */
  readonly repeatOf: number | null;
}

export interface ReviewInput {
  readonly differential: Differential;
  /** Without those of repeated images. */
  readonly cells: readonly ReviewCell[];
  readonly images: readonly ReviewImage[];
}

/** Applies every rule; the reasons come in the order of `REVIEW_CODES`, each at most once. */
export function reviewRules(input: ReviewInput): Review {
  const reasons = RULES.map((rule) => rule(input)).filter((reason) => reason !== null);
  return { required: reasons.length > 0, reasons };
}

type Rule = (input: ReviewInput) => ReviewReason | null;

/** In the order of `REVIEW_CODES`. */
const RULES: readonly Rule[] = [
  function noWbcFound({ differential, cells, images }) {
    if (differential.totalWbc > 0) return null;
    return reason('no_wbc_found', `No white blood cell was counted. ${likelyCause(cells, images)}`, { value: 0 });
  },

  // A blast that the border cuts is not counted, but it is there: the rule looks at every cell.
  function blastsPresent({ cells }) {
    const found = cells.filter((cell) => cell.class === 'blast');
    if (found.length === 0) return null;
    return reason(
      'blasts_present',
      `${plural(found.length, 'blast')} found. A qualified person must confirm blasts before the result is used.`,
      { value: found.length, threshold: 1, images: imagesOf(found) },
    );
  },

  function immatureGranulocytesPresent({ differential, cells }) {
    const limit = REVIEW_THRESHOLDS.immatureGranulocytePercent;
    const percent = percentOf(differential, 'immature_granulocyte');
    if (percent === null || percent < limit) return null;
    return reason(
      'immature_granulocytes_present',
      `Immature granulocytes make up ${percent} % of the white cells (review from ${limit} %).`,
      {
        value: percent,
        threshold: limit,
        images: imagesOf(cells.filter((cell) => cell.class === 'immature_granulocyte')),
      },
    );
  },

  function erythroblastsPresent({ cells, differential }) {
    const found = cells.filter((cell) => cell.class === 'erythroblast');
    if (found.length === 0) return null;
    const corrected =
      differential.wbcCountCorrected === null
        ? 'A WBC count of an analyser may include them.'
        : 'The absolute counts were corrected for those that were counted.';
    return reason('erythroblasts_present', `${plural(found.length, 'erythroblast')} found. ${corrected}`, {
      value: found.length,
      threshold: 1,
      images: imagesOf(found),
    });
  },

  function unidentifiedCells({ cells }) {
    const found = cells.filter((cell) => cell.class === 'unidentified');
    if (found.length === 0) return null;
    const [verb, pronoun] = found.length === 1 ? ['was', 'it'] : ['were', 'them'];
    return reason(
      'unidentified_cells',
      `${plural(found.length, 'cell')} ${verb} not named by the model and ${verb} left out of the percentages. Name ${pronoun} by eye.`,
      { value: found.length, threshold: 1, images: imagesOf(found) },
    );
  },

  function belowTarget({ differential: { totalWbc, targetCells } }) {
    if (totalWbc >= targetCells || totalWbc === 0) return null;
    return reason(
      'below_target',
      `${plural(totalWbc, 'white cell')} counted, ${targetCells} wanted: the intervals are wide. Send more fields.`,
      { value: totalWbc, threshold: targetCells },
    );
  },

  function lowMeanConfidence({ cells }) {
    const counted = countedWbc(cells);
    const limit = REVIEW_THRESHOLDS.meanConfidence;
    if (counted.length === 0) return null;
    const mean = counted.reduce((sum, cell) => sum + cell.confidence, 0) / counted.length;
    if (mean >= limit) return null;
    return reason(
      'low_mean_confidence',
      `The mean confidence of the white cells is ${mean.toFixed(2)} (expected at least ${limit}). ` +
        'Stain, focus or magnification may differ from what the model knows.',
      { value: mean, threshold: limit },
    );
  },

  function manyLowConfidenceCells({ cells }) {
    return shareRule(
      cells,
      'low_confidence',
      'many_low_confidence_cells',
      REVIEW_THRESHOLDS.lowConfidenceShare,
      'were named with low confidence',
    );
  },

  function lowSaliencyConsistency({ cells }) {
    return shareRule(
      cells,
      'low_consistency',
      'low_saliency_consistency',
      REVIEW_THRESHOLDS.lowConsistencyShare,
      'were named for something else than the segmented cell (low saliency consistency)',
    );
  },

  function implausibleDistribution({ differential }) {
    if (differential.totalWbc < REVIEW_THRESHOLDS.distributionMinimumWbc) return null;
    const found: string[] = [];
    for (const [type, [lowest, highest]] of Object.entries(REVIEW_THRESHOLDS.distribution)) {
      const wbcClass = type as keyof typeof REVIEW_THRESHOLDS.distribution;
      const percent = percentOf(differential, wbcClass);
      if (percent === null || (percent >= lowest && percent <= highest)) continue;
      found.push(
        `${CELL_TYPE_INFO[wbcClass].displayNamePlural.toLowerCase()} ${percent} % (expected ${lowest} to ${highest} %)`,
      );
    }
    if (found.length === 0) return null;
    return reason(
      'implausible_distribution',
      `Unusual for blood: ${found.join(', ')}. Check cells of these classes by eye.`,
    );
  },

  function manySmudgeCells({ differential }) {
    const smudges = differential.others.find((line) => line.class === 'smudge')?.count ?? 0;
    const limit = REVIEW_THRESHOLDS.smudgePer100Wbc;
    if (differential.totalWbc === 0 || smudges === 0) return null;
    const per100 = (100 * smudges) / differential.totalWbc;
    if (per100 < limit) return null;
    return reason(
      'many_smudge_cells',
      `${Math.round(per100)} smudge cells per 100 white cells (review from ${limit}): ` +
        'fragile cells are missing from the percentages.',
      { value: per100, threshold: limit },
    );
  },

  function imageFailed({ images }) {
    return imageRule(
      images,
      (image) => image.failed,
      'image_failed',
      'could not be analysed; the differential rests on the others',
    );
  },

  function outOfFocus({ images }) {
    return imageRule(
      images,
      (image) => image.qualityFlags.includes('out_of_focus'),
      'image_out_of_focus',
      'out of focus; take the field again',
    );
  },

  function poorExposure({ images }) {
    return imageRule(
      images,
      (image) => image.qualityFlags.includes('too_dark') || image.qualityFlags.includes('too_bright'),
      'image_poor_exposure',
      'too dark or too bright; check lamp and exposure time',
    );
  },

  function scaleUnknown({ images }) {
    return imageRule(
      images,
      (image) => image.qualityFlags.includes('scale_unknown'),
      'scale_unknown',
      'without a reliable scale, so cells may be missed and areas are not given; send micronsPerPixel',
    );
  },

  function imageRepeated({ images }) {
    return imageRule(
      images,
      (image) => image.repeatOf !== null,
      'image_repeated',
      'the same file as another image of this order, so its cells are not counted again; check whether another field was meant',
    );
  },
];

/** The most telling of what is known about an analysis without white cells, in one sentence. */
function likelyCause(cells: readonly ReviewCell[], images: readonly ReviewImage[]): string {
  const seen = images.filter((image) => !image.failed);
  const all = (flag: string): boolean => seen.length > 0 && seen.every((image) => image.qualityFlags.includes(flag));
  if (seen.length === 0) return 'No image could be analysed.';
  if (cells.some((cell) => cell.class === 'unidentified' && cell.counted)) {
    return 'Cells were found, but the model could not name any white cell among them: name them by eye.';
  }
  if (cells.some((cell) => isWbcClass(cell.class) && !cell.counted)) {
    return 'White cells were found only at the right or bottom border, where they are not counted: send more fields.';
  }
  if (all('blank')) return 'The images are blank: check that the smear lies in the light path.';
  if (all('too_dark')) return 'The images are too dark: check lamp, condenser and exposure time.';
  if (all('too_bright')) return 'The images are too bright: check lamp and exposure time.';
  if (all('out_of_focus')) return 'The images are out of focus: take them again.';
  if (all('scale_unknown')) {
    return 'The magnification could not be recognised: send micronsPerPixel, and check that these are blood smears.';
  }
  if (cells.length > 0) return 'Only platelets, red cell precursors or artefacts were found: send more fields.';
  return 'The fields may hold none, or lie outside the part of the smear where cells lie singly: send more fields.';
}

function shareRule(
  cells: readonly ReviewCell[],
  flag: string,
  code: ReviewCode,
  limit: number,
  what: string,
): ReviewReason | null {
  const counted = countedWbc(cells);
  const flagged = counted.filter((cell) => cell.flags.includes(flag));
  const share = counted.length === 0 ? 0 : flagged.length / counted.length;
  if (share <= limit) return null;
  return reason(code, `${flagged.length} of ${plural(counted.length, 'white cell')} ${what}. Check them by eye.`, {
    value: share,
    threshold: limit,
    images: imagesOf(flagged),
  });
}

function imageRule(
  images: readonly ReviewImage[],
  concerns: (image: ReviewImage) => boolean,
  code: ReviewCode,
  what: string,
): ReviewReason | null {
  const found = images.filter(concerns).map((image) => image.index);
  if (found.length === 0) return null;
  return reason(code, `${found.length} of ${plural(images.length, 'image')}: ${what}.`, {
    value: found.length,
    threshold: 1,
    images: found,
  });
}

function reason(
  code: ReviewCode,
  message: string,
  more: { value?: number; threshold?: number; images?: readonly number[] } = {},
): ReviewReason {
  const value = more.value === undefined ? null : Math.round(more.value * 1000) / 1000;
  return { code, message, value, threshold: more.threshold ?? null, images: more.images ?? [] };
}

function countedWbc(cells: readonly ReviewCell[]): ReviewCell[] {
  return cells.filter((cell) => cell.counted && isWbcClass(cell.class));
}

function percentOf(differential: Differential, type: WbcClass): number | null {
  return differential.classes.find((line) => line.class === type)?.percent ?? null;
}

function imagesOf(cells: readonly ReviewCell[]): number[] {
  return [...new Set(cells.map((cell) => cell.image))].sort((a, b) => a - b);
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
