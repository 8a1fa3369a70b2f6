/**
 * What a person does to a result: looks at cells, names them differently, signs. Pure: who and when are passed in, and
 * whatever is refused is refused with its reason. The states are those that FHIR and HL7 v2 report
 * (docs/decisions/0030-signing.md).
 */
import type { CellType } from './cell-types.js';
import { type Differential, differential } from './differential.js';
import { type Review, type ReviewCell, type ReviewImage, reviewRules } from './review-rules.js';

/**
 * `preliminary`: nobody has signed. `final`: a person signed. `amended`: changed after that, and not signed since.
 * `corrected`: the change is signed too.
 */
export const REPORT_STATUSES = ['preliminary', 'final', 'amended', 'corrected'] as const;
export type ReportStatus = (typeof REPORT_STATUSES)[number];

export interface Verification {
  readonly status: ReportStatus;
  /** Rises by one with every change of a cell and every signature; 1 as the analysis ended. */
  readonly revision: number;
  /** When the present revision came about. ISO 8601, UTC. */
  readonly changedAt: string;
  /** The last signature; null while nobody has signed. */
  readonly signedAt: string | null;
  readonly signedBy: string | null;
  /** Cells that a person must look at before a signature, and how many of them nobody has looked at. */
  readonly cellsToReview: number;
  readonly cellsLeft: number;
  /** What the service had found, beside what stands now; null while nobody has looked at a cell. */
  readonly before: { readonly differential: Differential; readonly review: Review } | null;
}

/** The part of a result that a person can change. */
export interface Result {
  readonly differential: Differential;
  readonly review: Review;
  readonly verification: Verification;
}

/** A cell as the service named it, and the name that a person gave or confirmed. */
export interface VerifiableCell extends ReviewCell {
  readonly id: string;
  /** Null: nobody has looked at it. */
  readonly reviewedClass: CellType | null;
}

/** Flags that say that the name of a cell is doubtful; the others concern its place or size. */
const DOUBTFUL: readonly string[] = ['low_confidence', 'low_consistency'];

/** Classes that a review rule reports as soon as they are there: one wrong cell changes what is done for the patient. */
const CRITICAL: readonly CellType[] = ['immature_granulocyte', 'blast', 'erythroblast', 'unidentified'];

/** Whether a person has to look at the cell before the result can be signed. */
export function mustBeLookedAt(cell: Pick<VerifiableCell, 'class' | 'flags'>): boolean {
  return CRITICAL.includes(cell.class) || cell.flags.some((flag) => DOUBTFUL.includes(flag));
}

export function standingClass(cell: Pick<VerifiableCell, 'class' | 'reviewedClass'>): CellType {
  return cell.reviewedClass ?? cell.class;
}

/** The state of a result that nobody has touched. */
export function unverified(cells: readonly Pick<VerifiableCell, 'class' | 'flags'>[], endedAt: string): Verification {
  const toReview = cells.filter(mustBeLookedAt).length;
  return {
    status: 'preliminary',
    revision: 1,
    changedAt: endedAt,
    signedAt: null,
    signedBy: null,
    cellsToReview: toReview,
    cellsLeft: toReview,
    before: null,
  };
}

export interface RecountInput {
  readonly result: Result;
  /** As they stand after the change, without those of repeated images. */
  readonly cells: readonly VerifiableCell[];
  readonly images: readonly ReviewImage[];
  /** Whether a name changed; false: a name was confirmed. */
  readonly renamed: boolean;
  readonly at: string;
}

/** The result after a person looked at a cell: everything counted and judged anew over the names that stand now. */
export function recount({ result, cells, images, renamed, at }: RecountInput): Result {
  const standing = cells.map(standingCell);
  const { targetCells, wbcCount } = result.differential;
  const counted = differential(standing, { targetCells, wbcCount });
  const { verification } = result;
  const signed = verification.status === 'final' || verification.status === 'corrected';
  const { differential: differentialBefore, review: reviewBefore } = result;
  return {
    differential: counted,
    review: reviewRules({ differential: counted, cells: standing, images }),
    verification: {
      ...verification,
      ...tally(cells),
      status: renamed && signed ? 'amended' : verification.status,
      revision: verification.revision + 1,
      changedAt: at,
      // Also a name that is only confirmed can take a review reason away.
      before: verification.before ?? { differential: differentialBefore, review: reviewBefore },
    },
  };
}

/** Why a signature is refused, and the cells that stand in its way. */
export interface Refusal {
  readonly code: 'already_signed' | 'unidentified_left' | 'cells_not_reviewed' | 'own_work';
  readonly cells: readonly string[];
}

/** That a person named a cell or confirmed its name. */
export interface Look {
  readonly cell: string;
  readonly reviewer: string;
}

export interface Signature {
  readonly reviewer: string;
  readonly at: string;
  /** Since the last signature; none where the site lets people sign their own work. */
  readonly looks?: readonly Look[];
}

/** The result as signed. Guards as in digital morphology analysers: no cell without a name, no flagged cell unseen. */
export function sign(
  result: Result,
  cells: readonly VerifiableCell[],
  { reviewer, at, looks = [] }: Signature,
): { readonly signed: Result } | { readonly refused: Refusal } {
  const { verification } = result;
  if (verification.status === 'final' || verification.status === 'corrected') {
    return { refused: { code: 'already_signed', cells: [] } };
  }
  const nameless = cells.filter((cell) => standingClass(cell) === 'unidentified');
  if (nameless.length > 0) return { refused: { code: 'unidentified_left', cells: nameless.map((cell) => cell.id) } };
  const unseen = cells.filter((cell) => mustBeLookedAt(cell) && cell.reviewedClass === null);
  if (reviewWasRequired(result) && unseen.length > 0) {
    return { refused: { code: 'cells_not_reviewed', cells: unseen.map((cell) => cell.id) } };
  }
  const own = looks.filter((look) => isSamePerson(look.reviewer, reviewer));
  if (own.length > 0) return { refused: { code: 'own_work', cells: [...new Set(own.map((look) => look.cell))] } };
  return {
    signed: {
      ...result,
      verification: {
        ...verification,
        ...tally(cells),
        status: verification.status === 'amended' ? 'corrected' : 'final',
        revision: verification.revision + 1,
        changedAt: at,
        signedAt: at,
        signedBy: reviewer,
      },
    },
  };
}

/** Names as they are typed: `MLopez ` is nobody else than `mlopez`. */
function isSamePerson(one: string, other: string): boolean {
  const [a, b] = [one, other].map((name) => name.normalize('NFKC').replace(/\s+/g, ' ').trim().toLowerCase());
  return a === b;
}

/** Looking at some cells can make the reasons disappear that asked for the review; the duty to look at the others stays. */
function reviewWasRequired({ review, verification }: Result): boolean {
  return review.required || verification.before?.review.required === true;
}

/** A person's word is certain: a cell that was looked at is no longer doubtful. */
function standingCell(cell: VerifiableCell): ReviewCell {
  if (cell.reviewedClass === null) return cell;
  return {
    ...cell,
    class: cell.reviewedClass,
    confidence: 1,
    flags: cell.flags.filter((flag) => !DOUBTFUL.includes(flag)),
  };
}

function tally(cells: readonly VerifiableCell[]): Pick<Verification, 'cellsToReview' | 'cellsLeft'> {
  const flagged = cells.filter(mustBeLookedAt);
  return {
    cellsToReview: flagged.length,
    cellsLeft: flagged.filter((cell) => cell.reviewedClass === null).length,
  };
}
