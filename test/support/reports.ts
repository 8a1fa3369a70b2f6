/** A finished analysis as reports are made from it, counted by the real rules. */
import type { CellType } from '../../src/hematology/cell-types.js';
import { differential } from '../../src/hematology/differential.js';
import { reviewRules } from '../../src/hematology/review-rules.js';
import { type Result, recount, sign, unverified, type VerifiableCell } from '../../src/hematology/verification.js';
import type { AuditTrailEntry } from '../../src/reporting/audit-event.js';
import type { ReportedAnalysis } from '../../src/reporting/figures.js';

export const ANALYSIS_ID = '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e';
const ENDED = '2026-11-20T08:00:01.120Z';
const AT = '2026-11-20T08:12:40.000Z';
const IMAGES = [{ index: 0, failed: false, qualityFlags: [], repeatOf: null }];

/** By class: how many. */
export type Counts = Partial<Record<CellType, number>>;

export const HEALTHY: Counts = { neutrophil: 62, lymphocyte: 28, monocyte: 7, eosinophil: 2, basophil: 1, platelet: 3 };

export function cellsOf(counts: Counts): VerifiableCell[] {
  return Object.entries(counts)
    .flatMap(([type, count]) => Array.from({ length: count }, () => type as CellType))
    .map((type, number) => ({
      id: `0-${number}`,
      class: type,
      reviewedClass: null,
      counted: true,
      confidence: type === 'unidentified' ? 0.3 : 0.97,
      flags: type === 'unidentified' ? ['low_confidence'] : [],
      image: 0,
    }));
}

export function resultOf(cells: readonly VerifiableCell[], wbcCount: number | null = 7.2): Result {
  const counted = differential(cells, { targetCells: 100, wbcCount });
  return {
    differential: counted,
    review: reviewRules({ differential: counted, cells, images: IMAGES }),
    verification: unverified(cells, ENDED),
  };
}

/** The result after a person gave `cellId` the name `to`. */
export function rename(
  { result, cells }: { result: Result; cells: readonly VerifiableCell[] },
  cellId: string,
  to: CellType,
): { result: Result; cells: VerifiableCell[] } {
  const before = cells.find((cell) => cell.id === cellId);
  const after = cells.map((cell) => (cell.id === cellId ? { ...cell, reviewedClass: to } : cell));
  const renamed = (before?.reviewedClass ?? before?.class) !== to;
  return { result: recount({ result, cells: after, images: IMAGES, renamed, at: AT }), cells: after };
}

export function signedResult(result: Result, cells: readonly VerifiableCell[], reviewer = 'mlopez'): Result {
  const outcome = sign(result, cells, { reviewer, at: AT });
  if ('refused' in outcome) throw new Error(`refused: ${outcome.refused.code}`);
  return outcome.signed;
}

export function reportedAnalysis(result: Result, overrides: Partial<ReportedAnalysis> = {}): ReportedAnalysis {
  return {
    id: ANALYSIS_ID,
    accessionNumber: 'H-26-001234',
    specimenId: 'S-77',
    orderId: 'ORD-5',
    subjectId: 'PSN-0815',
    collectedAt: '2026-11-20T07:15:00.000Z',
    createdAt: '2026-11-20T08:00:00.000Z',
    completedAt: ENDED,
    model: { name: 'sg-cldff', version: '1.0.0', sha256: '5f'.repeat(32) },
    images: [{ index: 0, status: 'completed', sha256: 'a3'.repeat(32), width: 2592, height: 1944 }],
    ...result,
    ...overrides,
  };
}

/** The four states that a result can be reported in, and some that are awkward. */
export function reportCases(): Record<string, ReportedAnalysis> {
  const healthy = { cells: cellsOf(HEALTHY), result: resultOf(cellsOf(HEALTHY)) };
  const final = { ...healthy, result: signedResult(healthy.result, healthy.cells) };
  const amended = rename(final, '0-0', 'lymphocyte');
  const ill = cellsOf({ ...HEALTHY, blast: 3, immature_granulocyte: 4, erythroblast: 5, smudge: 40, unidentified: 2 });
  const empty = resultOf([], null);
  const nothingGiven = {
    accessionNumber: null,
    specimenId: null,
    orderId: null,
    subjectId: null,
    collectedAt: null,
    model: null,
    images: [],
  };
  return {
    preliminary: reportedAnalysis(healthy.result),
    final: reportedAnalysis(final.result),
    amended: reportedAnalysis(amended.result),
    corrected: reportedAnalysis(signedResult(amended.result, amended.cells)),
    'with blasts and cells without a name': reportedAnalysis(resultOf(ill)),
    'without a white cell and without anything from the order': reportedAnalysis(empty, nothingGiven),
    'with text that needs escaping': reportedAnalysis(healthy.result, {
      accessionNumber: 'A|B^C&D~E\\F',
      subjectId: 'Zoë Ångström 李',
    }),
  };
}

/** Entries of the audit trail, one of each kind that there is. */
export function auditCases(): Readonly<Record<string, AuditTrailEntry>> {
  const read: AuditTrailEntry = {
    id: '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d50',
    at: AT,
    laboratory: 'north',
    actorKind: 'key',
    actorId: 'k3v9x0q2m7ab',
    operation: 'getAnalysis',
    method: 'GET',
    subjectId: ANALYSIS_ID,
    status: 200,
    outcome: 'success',
    remote: '10.1.2.3',
    requestId: 'lis-4711',
  };
  const nobody = { laboratory: null, actorKind: 'none', actorId: null, status: 401, outcome: 'refused' } as const;
  const service = {
    actorKind: 'system',
    actorId: null,
    method: null,
    status: null,
    requestId: null,
    remote: null,
  } as const;
  const cases: Record<string, Omit<AuditTrailEntry, 'id'>> = {
    'a read': read,
    'an order': { ...read, operation: 'analyze', method: 'POST', status: 202 },
    'a change by a person with a token': {
      ...read,
      actorKind: 'token',
      actorId: 'https://idp.test#mlopez',
      operation: 'reviewCell',
      method: 'PATCH',
    },
    'a removal': { ...read, operation: 'deleteAnalysis', method: 'DELETE', status: 204 },
    'a revoked key': { ...read, operation: 'revokeKey', method: 'DELETE', subjectId: 'k3v9x0q2m7ac' },
    'nobody who is known': { ...read, ...nobody, subjectId: null, remote: '2001:db8::7' },
    'a failure of the service': { ...read, status: 503, outcome: 'failed' },
    'a method that changes nothing': { ...read, method: 'OPTIONS' },
    'a removal by age': { ...read, ...service, operation: 'removeAnalysisByAge' },
    'the service without a subject': {
      ...read,
      ...service,
      laboratory: null,
      subjectId: null,
      operation: 'createFirstKey',
    },
  };
  return Object.fromEntries(
    Object.entries(cases).map(([name, entry], n) => [
      name,
      { ...entry, id: `0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2e${10 + n}` },
    ]),
  );
}
