import { type ProblemCause, ProblemError, type ProblemSlug } from '../problems.js';

/** Which problem a kind of cause makes. */
const SLUG_BY_CODE: Readonly<Record<string, ProblemSlug>> = {
  'unknown-field': 'unknown-field',
  'image-too-large': 'image-too-large',
  'unsupported-image-format': 'unsupported-image-format',
  'invalid-field': 'invalid-fields',
};

/** With causes of several kinds the first of these that occurs decides the status; `errors` names them all. */
const PRECEDENCE: readonly ProblemSlug[] = [
  'unknown-field',
  'image-too-large',
  'unsupported-image-format',
  'invalid-fields',
  'invalid-image',
];

/** The one problem that answers a form with these causes; undefined without any. The request is atomic. */
export function refusalOf(causes: readonly ProblemCause[]): ProblemError | undefined {
  if (causes.length === 0) return undefined;
  const slugs = new Set(causes.map((cause) => SLUG_BY_CODE[cause.code ?? ''] ?? 'invalid-image'));
  const slug = PRECEDENCE.find((candidate) => slugs.has(candidate)) ?? 'invalid-fields';
  return new ProblemError(slug, { detail: summary(causes), errors: causes });
}

/** The first cause in full, so that `detail` alone already helps. */
function summary(causes: readonly ProblemCause[]): string {
  const [first] = causes;
  if (first === undefined) return '';
  const name = first.filename === undefined ? first.field : `${first.field} (${first.filename})`;
  const more = causes.length === 1 ? '' : ` ${causes.length - 1} more under errors.`;
  return `${name}: ${first.detail}${more} Nothing was stored.`;
}
