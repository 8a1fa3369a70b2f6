/**
 * A result as HL7 v2.5.1: one message ORU^R01^ORU_R01. Pure: the same revision of a result always gives the same message.
 * Segments end with a carriage return (chapter 2.5.1), text is UTF-8 and says so in MSH-18.
 */
import { REVIEW_CODES } from '../hematology/review-rules.js';
import type { ReportStatus } from '../hematology/verification.js';
import { type Figure, methodOf, modelsOf, namesOf, type Report } from './figures.js';
import type { FigureProfile, SiteProfile } from './site-profile.js';

const SEGMENT_END = '\r';

/** Table 0085. A correction replaces what was final, whether it is signed already or not. */
const STATUS: Readonly<Record<ReportStatus, 'P' | 'F' | 'C'>> = {
  preliminary: 'P',
  final: 'F',
  amended: 'C',
  corrected: 'C',
};

/** A field: text, or its components; what is undefined is empty. */
type Field = string | undefined | readonly (string | undefined)[];

/** The message of a report, ready to be sent. */
export function hl7Message(report: Report, profile: SiteProfile): string {
  const { analysis, verification, review, completedAt } = report;
  const { hl7 } = profile;
  const status = STATUS[verification.status];
  const collected = analysis.collectedAt === null ? undefined : timestamp(analysis.collectedAt);
  const changed = timestamp(verification.changedAt);
  // The order number, or the accession number where the order came without one.
  const placer = analysis.orderId ?? analysis.accessionNumber ?? undefined;
  const signer = verification.signedBy ?? undefined;
  const method = methodOf(report);
  const obx = (
    set: number,
    type: 'NM' | 'CE',
    figure: FigureProfile,
    subId: string,
    value: Field,
    more: { range?: string; flag?: string; status?: 'D' } = {},
  ): string =>
    segment('OBX', [
      String(set),
      type,
      codeOf(figure, profile),
      subId,
      value,
      type === 'NM' && figure.unit !== null ? [figure.unit, figure.unit, 'UCUM'] : undefined,
      more.range,
      more.flag,
      undefined,
      undefined,
      more.status ?? status,
      undefined,
      undefined,
      collected,
      undefined,
      signer === undefined ? undefined : [signer],
      [method.code, method.text, hl7.codingSystem],
      analysis.model === null ? undefined : [namesOf(modelsOf(analysis))],
      timestamp(completedAt),
    ]);

  const header = segment('MSH', [
    hl7.sendingApplication,
    hl7.sendingFacility,
    hl7.receivingApplication,
    hl7.receivingFacility,
    changed,
    undefined,
    ['ORU', 'R01', 'ORU_R01'],
    controlId(analysis.id, verification.revision),
    hl7.processingId,
    '2.5.1',
    undefined,
    undefined,
    undefined,
    undefined,
    undefined,
    'UNICODE UTF-8',
    // The encoding characters stand unescaped, and MSH-1 is the separator itself.
  ]).replace('MSH|', 'MSH|^~\\&|');

  const figures = report.figures.map((figure, index) =>
    obx(index + 1, 'NM', figure.profile, '1', figure.value === null ? undefined : String(figure.value), {
      ...rangeOf(figure),
      ...(figure.interpretation === null ? {} : { flag: figure.interpretation }),
    }),
  );
  const found = review.reasons.map(({ code, message }) => ({ code, value: [code, message, hl7.codingSystem] }));
  // What a receiver may still hold from before the review: D deletes it (table 0085).
  const gone = (verification.before?.review.reasons ?? [])
    .filter(({ code }) => !review.reasons.some((reason) => reason.code === code))
    .map(({ code }) => ({ code, value: undefined }));
  const reasons = [...found, ...gone].map(({ code, value }, index) =>
    obx(
      figures.length + index + 1,
      'CE',
      profile.figures.review_reasons,
      // The same reason has the same sub-id in every revision, so that a later one replaces it.
      String(REVIEW_CODES.indexOf(code) + 1),
      value,
      value === undefined ? { status: 'D' } : { flag: 'A' },
    ),
  );

  return [
    header,
    segment('PID', ['1', undefined, patientId(report, profile), undefined, NO_NAME]),
    segment('ORC', ['RE', placer, analysis.id, analysis.accessionNumber ?? undefined]),
    segment('OBR', [
      '1',
      placer,
      analysis.id,
      codeOf(profile.figures.panel, profile),
      undefined,
      undefined,
      collected,
      ...blank(10),
      // OBR-18: where many systems look for it.
      analysis.accessionNumber ?? undefined,
      ...blank(3),
      changed,
      undefined,
      'HM',
      status,
      ...blank(6),
      // NDL: the person is one component, so its parts are subcomponents; there is only one.
      signer === undefined ? undefined : [signer],
    ]),
    ...notes(report).map((text, index) => segment('NTE', [String(index + 1), 'L', text])),
    ...figures,
    ...reasons,
    segment('SPM', [
      '1',
      [analysis.specimenId ?? analysis.accessionNumber ?? analysis.id],
      undefined,
      ['BLD', 'Whole blood', 'HL70487'],
      ...blank(12),
      collected,
    ]),
  ].join('');
}

/** PID-5 is required, and no name is ever sent or stored: a name of type U, unspecified (table 0200), without parts. */
const NO_NAME: Field = [undefined, undefined, undefined, undefined, undefined, undefined, 'U'];

/**
 * PID-3 is required. It is the subject id that came with the order (PI, internal identifier); an order without one gets
 * its accession number, specimen id or analysis id, with type U (unspecified, table 0203), so that no receiver takes it
 * for a patient's number.
 */
function patientId({ analysis }: Report, { hl7 }: SiteProfile): Field {
  const authority = hl7.patientAuthority === '' ? undefined : hl7.patientAuthority;
  if (analysis.subjectId !== null) return [analysis.subjectId, undefined, undefined, authority, 'PI'];
  const stand = analysis.accessionNumber ?? analysis.specimenId ?? analysis.id;
  return [stand, undefined, undefined, undefined, 'U'];
}

/** The LOINC triplet first and the local code in the alternate components; without LOINC the local code comes first. */
function codeOf(figure: FigureProfile, { hl7 }: SiteProfile): Field {
  const local = [figure.localCode, figure.text, hl7.codingSystem];
  return figure.loinc === null ? local : [figure.loinc, figure.text, 'LN', ...local];
}

function rangeOf({ profile: { range } }: Figure): { range?: string } {
  if (range === null) return {};
  if (range.low === null) return { range: range.high === null ? '' : `<=${range.high}` };
  return { range: range.high === null ? `>=${range.low}` : `${range.low}-${range.high}` };
}

function notes({ review, verification, differential }: Report): string[] {
  return [
    ...(verification.status === 'preliminary' ? ['Preliminary: not reviewed by a person.'] : []),
    ...(verification.status === 'amended' ? ['Changed after it was signed, and not signed since.'] : []),
    ...review.reasons.map((reason) => `Review: ${reason.message}`),
    differential.countingRule,
  ];
}

/**
 * MSH-10 has at most 20 characters in 2.5.1: the random half of the analysis id and the revision, so that a message that
 * is sent again can be recognised, and no other has the same.
 */
export function controlId(analysisId: string, revision: number): string {
  const tail = revision.toString(36).padStart(3, '0');
  return `${analysisId.replaceAll('-', '').slice(-(20 - tail.length))}${tail}`.toUpperCase();
}

function segment(name: string, fields: readonly Field[]): string {
  const texts = fields.map((field) => {
    if (field === undefined) return '';
    if (typeof field === 'string') return escapeHl7(field);
    return trimEnd(
      field.map((part) => escapeHl7(part ?? '')),
      '^',
    );
  });
  return trimEnd([name, ...texts], '|') + SEGMENT_END;
}

/** Empty parts at the end are left out (chapter 2.6). */
function trimEnd(parts: readonly string[], separator: string): string {
  const last = parts.findLastIndex((part) => part !== '');
  return parts.slice(0, last + 1).join(separator);
}

/** Chapter 2.7. A control character, which would end a segment or a message, becomes its hexadecimal escape. */
export function escapeHl7(text: string): string {
  return text.replace(/[|^~\\&\p{Cc}]/gu, (character) => {
    const code = ESCAPES[character];
    if (code !== undefined) return `\\${code}\\`;
    return `\\X${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(2, '0')}\\`;
  });
}

const ESCAPES: Readonly<Record<string, string>> = { '|': 'F', '^': 'S', '&': 'T', '~': 'R', '\\': 'E' };

/** YYYYMMDDHHMMSS+ZZZZ (data type TS), in UTC. */
function timestamp(iso: string): string {
  return `${iso.slice(0, 19).replace(/[-:T]/g, '')}+0000`;
}

function blank(count: number): undefined[] {
  return Array.from({ length: count }, () => undefined);
}
