/**
 * From the text parts of the form to a typed order. Pure. Collects everything that is wrong instead of stopping at the
 * first, and never repeats a value: an accession number must not end up in a problem document or a log.
 */
import { type JsonValue, PRIORITIES, type Priority } from '../../storage/documents.js';
import type { ProblemCause } from '../problems.js';
import { IDENTIFIER_MAX_LENGTH } from '../schemas/parameters.js';

export const ORDER_LIMITS = {
  callbackUrlLength: 2048,
  /** Far outside what a microscope camera gives at 10× to 100×; catches nanometres and pixels per µm. */
  micronsPerPixel: { min: 0.02, max: 1 },
  defaultTargetCells: 100,
  targetCells: 10_000,
  /** 10*9/L. The highest counts seen in leukaemia stay below 1,000; a count per µL lands above. */
  wbcCount: 2000,
  /** Levels of nesting; deeper JSON is hostile or a mistake. */
  metadataDepth: 16,
} as const;

const TEXT_FIELDS = ['accessionNumber', 'specimenId', 'orderId', 'subjectId', 'site'] as const;

/** Every field of the form that is not a file. */
export const ORDER_FIELDS = [
  ...TEXT_FIELDS,
  'collectedAt',
  'callbackUrl',
  'micronsPerPixel',
  'targetCells',
  'wbcCount',
  'priority',
  'metadata',
] as const;
export type OrderField = (typeof ORDER_FIELDS)[number];

export const FILE_FIELD = 'images';

/** A text part as it came. */
export interface FieldPart {
  readonly name: string;
  readonly value: string;
  /** The value was longer than MAX_FIELD_BYTES. */
  readonly truncated: boolean;
}

export interface Order {
  readonly accessionNumber: string | null;
  readonly specimenId: string | null;
  readonly orderId: string | null;
  readonly subjectId: string | null;
  readonly site: string | null;
  /** RFC 3339 in UTC. */
  readonly collectedAt: string | null;
  readonly callbackUrl: string | null;
  readonly micronsPerPixel: number | null;
  readonly targetCells: number;
  /** 10*9/L. */
  readonly wbcCount: number | null;
  readonly priority: Priority;
  readonly metadata: { [key: string]: JsonValue } | null;
}

export interface ParsedOrder {
  /** Complete only without causes. */
  readonly order: Order;
  readonly causes: readonly ProblemCause[];
}

export function isOrderField(name: string): name is OrderField {
  return (ORDER_FIELDS as readonly string[]).includes(name);
}

/** The cause of a part whose name does not exist, with the name that was probably meant. */
export function unknownField(name: string): ProblemCause {
  const meant = [FILE_FIELD, ...ORDER_FIELDS].find((known) => isTypoOf(name, known));
  return {
    field: printable(name, 64),
    code: 'unknown-field',
    detail:
      meant === undefined
        ? `There is no such field. Known: ${[FILE_FIELD, ...ORDER_FIELDS].join(', ')}.`
        : `There is no such field. Did you mean \`${meant}\`?`,
  };
}

/**
 * Reads the text parts of one form. An empty value counts as not sent, because HTML forms send their empty inputs.
 * @param maxFieldBytes Only named in the message about a truncated value.
 */
export function parseOrder(parts: readonly FieldPart[], maxFieldBytes: number): ParsedOrder {
  const causes: ProblemCause[] = [];
  const values = new Map<OrderField, string>();
  const seen = new Set<string>();
  const refuse = (field: string, detail: string): null => {
    causes.push({ field, code: 'invalid-field', detail });
    return null;
  };

  for (const { name, value, truncated } of parts) {
    if (!isOrderField(name)) {
      causes.push(unknownField(name));
    } else if (seen.has(name)) {
      refuse(name, 'The field was sent more than once. Send it once.');
    } else if (truncated) {
      refuse(name, `The value is longer than ${maxFieldBytes} bytes.`);
    } else if (value !== '') {
      values.set(name, value);
    }
    seen.add(name);
  }

  /** Parses the value of a field that was sent; null where it was not, or where `parse` refused it. */
  const read = <T>(field: OrderField, parse: (value: string, field: OrderField) => T | Refusal): T | null => {
    const value = values.get(field);
    if (value === undefined) return null;
    const textFault = value.includes('\uFFFD') ? 'The value is not valid UTF-8.' : undefined;
    if (textFault !== undefined) return refuse(field, textFault);
    const parsed = parse(value, field);
    return parsed instanceof Refusal ? refuse(field, parsed.detail) : parsed;
  };

  const order: Order = {
    accessionNumber: read('accessionNumber', parseIdentifier),
    specimenId: read('specimenId', parseIdentifier),
    orderId: read('orderId', parseIdentifier),
    subjectId: read('subjectId', parseIdentifier),
    site: read('site', parseIdentifier),
    collectedAt: read('collectedAt', parseDateTime),
    callbackUrl: read('callbackUrl', parseCallbackUrl),
    micronsPerPixel: read('micronsPerPixel', parseMicronsPerPixel),
    targetCells: read('targetCells', parseTargetCells) ?? ORDER_LIMITS.defaultTargetCells,
    wbcCount: read('wbcCount', parseWbcCount),
    priority: read('priority', parsePriority) ?? 'routine',
    metadata: read('metadata', parseMetadata),
  };
  return { order, causes };
}

/** Whether fields that came so far say that the order is urgent. */
export const isUrgent = (fields: readonly FieldPart[]): boolean =>
  fields.some(({ name, value }) => name === 'priority' && parsePriority(value) === 'stat');

/** What a parser answers instead of a value. */
export class Refusal {
  constructor(readonly detail: string) {}
}

// Unicode's control characters (Cc), line and paragraph separators, and halves of surrogate pairs.
const UNPRINTABLE = /[\p{Cc}\u2028\u2029\p{Cs}]/u;

function parseIdentifier(value: string): string | Refusal {
  if (UNPRINTABLE.test(value)) return new Refusal('Control characters and line breaks are not allowed.');
  if ([...value].length > IDENTIFIER_MAX_LENGTH) {
    return new Refusal(`At most ${IDENTIFIER_MAX_LENGTH} characters are allowed.`);
  }
  if (value.trim() === '') return new Refusal('The value is only white space. Leave the field out instead.');
  return value;
}

// RFC 3339 section 5.6; a leap second (:60) cannot be told from a mistake and is refused.
const DATE_TIME =
  /^(\d{4})-(\d{2})-(\d{2})[Tt ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/;

function parseDateTime(value: string): string | Refusal {
  const match = DATE_TIME.exec(value);
  if (match === null) {
    return new Refusal('Send a date and time with an offset (RFC 3339), such as 2026-11-20T08:15:00+01:00.');
  }
  const [year, month, day] = match.slice(1, 4).map(Number) as [number, number, number];
  // Date rolls 30 February over into March, so the day has to be checked apart.
  const isCalendarDay = month >= 1 && month <= 12 && day >= 1 && day <= new Date(Date.UTC(year, month, 0)).getUTCDate();
  if (!isCalendarDay || year < 1900 || year > 2200) return new Refusal('There is no such date between 1900 and 2200.');
  return new Date(value.replace(' ', 'T')).toISOString();
}

/** Also of a registered endpoint. Whether it may be called is judged apart. */
export function parseCallbackUrl(value: string): string | Refusal {
  const example = 'Send an absolute address such as https://lis.example/hooks/leukodiff.';
  if (value.length > ORDER_LIMITS.callbackUrlLength) {
    return new Refusal(`At most ${ORDER_LIMITS.callbackUrlLength} characters are allowed.`);
  }
  // The URL parser would drop tabs and line breaks and repair missing slashes: what is stored must be what was meant.
  if (UNPRINTABLE.test(value) || /\s/.test(value) || !/^https?:\/\/[^/]/i.test(value)) {
    return new Refusal(`Only http and https are allowed, without white space. ${example}`);
  }
  if (!URL.canParse(value)) return new Refusal(`This is not a valid address. ${example}`);
  const url = new URL(value);
  if (url.username !== '' || url.password !== '') {
    return new Refusal('Credentials in the address are not allowed: deliveries are signed instead.');
  }
  return url.href;
}

const DECIMAL = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?$/;

function parseNumber(value: string): number | Refusal {
  const text = value.trim();
  if (/^\d+,\d+$/.test(text)) return new Refusal('Send the number with a point, not a comma.');
  if (!DECIMAL.test(text)) return new Refusal('Send a number.');
  return Number(text);
}

function parseMicronsPerPixel(value: string): number | Refusal {
  const number = parseNumber(value);
  if (number instanceof Refusal) return number;
  const { min, max } = ORDER_LIMITS.micronsPerPixel;
  if (number >= min && number <= max) return number;
  return new Refusal(
    `Send µm per pixel between ${min} and ${max} (not pixels per µm, not nm), or leave the field out to have it estimated.`,
  );
}

function parseTargetCells(value: string): number | Refusal {
  const number = parseNumber(value);
  if (number instanceof Refusal) return number;
  if (Number.isInteger(number) && number >= 1 && number <= ORDER_LIMITS.targetCells) return number;
  return new Refusal(`Send a whole number from 1 to ${ORDER_LIMITS.targetCells}.`);
}

function parseWbcCount(value: string): number | Refusal {
  const number = parseNumber(value);
  if (number instanceof Refusal) return number;
  if (number >= 0 && number <= ORDER_LIMITS.wbcCount) return number;
  return new Refusal(`Send the count in 10*9/L, from 0 to ${ORDER_LIMITS.wbcCount}: 7200 per µL is 7.2.`);
}

function parsePriority(value: string): Priority | Refusal {
  return PRIORITIES.find((known) => known === value) ?? new Refusal(`Send one of: ${PRIORITIES.join(', ')}.`);
}

function parseMetadata(value: string): { [key: string]: JsonValue } | Refusal {
  let parsed: JsonValue;
  try {
    parsed = JSON.parse(value) as JsonValue;
  } catch {
    return new Refusal('The value is not JSON.');
  }
  if (parsed === null || typeof parsed !== 'object' || Array.isArray(parsed)) {
    return new Refusal('Send a JSON object, such as {"instrument":"bench 3"}.');
  }
  const fault = jsonFault(parsed, 1);
  return fault === undefined ? parsed : new Refusal(fault);
}

/** What PostgreSQL's jsonb, or anybody who reads it later, would choke on. */
function jsonFault(value: JsonValue, depth: number): string | undefined {
  if (typeof value === 'string') return textFault(value);
  // JSON.parse reads 1e999 as Infinity, which would be stored as null.
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : 'A number is too large.';
  if (value === null || typeof value !== 'object') return undefined;
  if (depth > ORDER_LIMITS.metadataDepth) {
    return `At most ${ORDER_LIMITS.metadataDepth} levels of nesting are allowed.`;
  }
  for (const [key, entry] of Object.entries(value)) {
    const fault = (Array.isArray(value) ? undefined : textFault(key)) ?? jsonFault(entry, depth + 1);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

function textFault(text: string): string | undefined {
  return /[\0\p{Cs}]/u.test(text) ? 'NUL characters and halves of surrogate pairs are not allowed.' : undefined;
}

/** Same letters but for case, separators and a plural, or at most two edits away. */
function isTypoOf(name: string, known: string): boolean {
  if (name.length > 64) return false;
  const plain = (text: string): string => text.toLowerCase().replace(/[^a-z0-9]/g, '');
  const [a, b] = [plain(name), plain(known)];
  if (a === b || `${a}s` === b || (known === FILE_FIELD && /^(file|files|picture|pictures|photo|photos)$/.test(a)))
    return true;
  return Math.min(a.length, b.length) >= 4 && editDistance(a, b) <= 2;
}

/** Levenshtein's distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const substitution = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** For showing a name that came from outside: no control characters, not too long. */
export function printable(text: string, maxLength: number): string {
  const clean = text.replace(/[\p{Cc}\u2028\u2029\p{Cs}]/gu, '\uFFFD');
  return clean.length > maxLength ? `${clean.slice(0, maxLength)}…` : clean;
}
