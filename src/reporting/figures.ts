/** What a report says, before it is FHIR or HL7 v2: the figures of a differential in the site's codes and units. */
import { WBC_CLASSES } from '../hematology/cell-types.js';
import type { Differential } from '../hematology/differential.js';
import type { Review } from '../hematology/review-rules.js';
import type { Verification } from '../hematology/verification.js';
import type { FigureKey, FigureProfile, SiteProfile } from './site-profile.js';

export interface ReportedModel {
  readonly name: string;
  readonly version: string;
  readonly sha256: string;
}

/** What reports are made from; a completed `AnalysisDocument` of storage fits. */
export interface ReportedAnalysis {
  readonly id: string;
  readonly accessionNumber: string | null;
  readonly specimenId: string | null;
  readonly orderId: string | null;
  readonly subjectId: string | null;
  readonly collectedAt: string | null;
  readonly createdAt: string;
  readonly completedAt: string | null;
  readonly model: ReportedModel | null;
  readonly images: readonly {
    readonly index: number;
    readonly status: string;
    readonly sha256: string;
    readonly width: number | null;
    readonly height: number | null;
    /** Absent in results of versions that did not keep it. */
    readonly model?: ReportedModel | null;
  }[];
  readonly differential: Differential | null;
  readonly review: Review | null;
  readonly verification: Verification | null;
}

export interface Figure {
  readonly key: FigureKey;
  readonly profile: FigureProfile;
  /** In the profile's unit; null: there is nothing to report a share of. */
  readonly value: number | null;
  /** Of a percentage, in the profile's unit. */
  readonly interval: { readonly low: number; readonly high: number } | null;
  /** Cells that the figure counts; null where it counts none. */
  readonly count: number | null;
  /** HL7 table 0078, which FHIR took over: L, H, N against the range; A where any cell of the kind is abnormal. */
  readonly interpretation: 'L' | 'H' | 'N' | 'A' | null;
}

/** Of an analysis that came to a result. */
export interface Report {
  readonly analysis: ReportedAnalysis;
  readonly differential: Differential;
  readonly review: Review;
  readonly verification: Verification;
  readonly completedAt: string;
  readonly figures: readonly Figure[];
}

/** Every model that had a part in the result: during an update the images of one order may meet different ones. */
export function modelsOf({ model, images }: ReportedAnalysis): readonly ReportedModel[] {
  const all = [...images.map((image) => image.model ?? null), model].filter((one) => one !== null);
  return all.filter(
    ({ sha256, version }, n) => all.findIndex((one) => one.sha256 === sha256 && one.version === version) === n,
  );
}

/** As a reader sees them: "sg-cldff 1.2.0, sg-cldff 1.3.0". */
export function namesOf(models: readonly ReportedModel[]): string {
  return models.map(({ name, version }) => `${name} ${version}`).join(', ');
}

/** @throws RangeError for an analysis without a result */
export function reportOf(analysis: ReportedAnalysis, profile: SiteProfile): Report {
  const { differential, review, completedAt } = analysis;
  if (differential === null || review === null || completedAt === null) {
    throw new RangeError(`Analysis ${analysis.id} has no result to report.`);
  }
  // A result of a version that knew no signature.
  const verification = analysis.verification ?? {
    status: 'preliminary',
    revision: 1,
    changedAt: completedAt,
    signedAt: null,
    signedBy: null,
    cellsToReview: 0,
    cellsLeft: 0,
    before: null,
  };
  return { analysis, differential, review, verification, completedAt, figures: figuresOf(differential, profile) };
}

/** Always the same figures for the same order, so that a later revision replaces each of an earlier one. */
function figuresOf(differential: Differential, profile: SiteProfile): Figure[] {
  const line = (type: (typeof WBC_CLASSES)[number]) => differential.classes.find((one) => one.class === type);
  const other = (type: string): number => differential.others.find((one) => one.class === type)?.count ?? 0;
  const make = (
    key: FigureKey,
    raw: number | null | undefined,
    more: { interval?: { low: number; high: number } | null; count?: number; abnormal?: boolean } = {},
  ): Figure => {
    const figure = profile.figures[key];
    const value = raw == null ? null : scaled(raw, figure.factor);
    const interval = more.interval ?? null;
    return {
      key,
      profile: figure,
      value,
      interval:
        interval === null
          ? null
          : { low: scaled(interval.low, figure.factor), high: scaled(interval.high, figure.factor) },
      count: more.count ?? null,
      interpretation: interpret(value, figure.range, more.abnormal === true),
    };
  };
  return [
    ...WBC_CLASSES.map((type) => {
      const { percent, ci95, count } = line(type) ?? { percent: null, ci95: null, count: 0 };
      return make(`${type}.percent`, percent, { interval: ci95, count, abnormal: type === 'blast' && count > 0 });
    }),
    ...(differential.wbcCount === null
      ? []
      : WBC_CLASSES.map((type) => make(`${type}.absolute`, line(type)?.absoluteCount))),
    make('total_wbc', differential.totalWbc),
    make('nrbc_per_100_wbc', differential.nrbcPer100Wbc, { abnormal: other('erythroblast') > 0 }),
    make('smudge_cells', other('smudge')),
    make('unidentified_cells', other('unidentified')),
  ];
}

function interpret(value: number | null, range: FigureProfile['range'], abnormal: boolean): Figure['interpretation'] {
  if (value === null) return null;
  if (range === null) return abnormal ? 'A' : null;
  if (range.low !== null && value < range.low) return 'L';
  if (range.high !== null && value > range.high) return 'H';
  return 'N';
}

/** Factors are powers of ten; the rounding takes away what binary fractions add. */
function scaled(value: number, factor: number): number {
  return Number((value * factor).toPrecision(12));
}

/** In words, for the method of a figure. */
export function methodOf({ verification }: Report): { readonly code: string; readonly text: string } {
  return verification.status === 'preliminary'
    ? { code: 'image-analysis', text: 'Image analysis of a blood smear, not reviewed' }
    : { code: 'image-analysis-reviewed', text: 'Image analysis of a blood smear, reviewed by a person' };
}
