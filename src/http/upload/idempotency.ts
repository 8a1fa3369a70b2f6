/** The `Idempotency-Key` header, and what makes two orders the same. Pure. */
import { createHash } from 'node:crypto';
import { ProblemError } from '../problems.js';
import type { Order } from './order-fields.js';

const KEY_MAX_LENGTH = 255;

/**
 * The key of a request, null without one. The draft makes it a structured string in quotes; clients of other services
 * send it bare, and both name the same key.
 */
export function idempotencyKeyOf(header: string | readonly string[] | undefined): string | null {
  if (header === undefined) return null;
  const text = typeof header === 'string' ? header.trim() : '';
  const quoted = /^"((?:[ !#-[\]-~]|\\["\\])*)"$/.exec(text)?.[1]?.replace(/\\(["\\])/g, '$1');
  const key = quoted ?? text;
  if (key.length >= 1 && key.length <= KEY_MAX_LENGTH && /^[ -~]+$/.test(key)) return key;
  throw new ProblemError('invalid-parameters', {
    errors: [
      {
        field: 'Idempotency-Key',
        detail: `Send 1 to ${KEY_MAX_LENGTH} printable ASCII characters, in quotes or without.`,
      },
    ],
  });
}

/** Over the values of the fields and the contents of the files in their order; names of files do not count. */
export function fingerprintOf(order: Order, files: readonly { readonly sha256: string }[]): Buffer {
  const text = JSON.stringify([canonical(order), files.map(({ sha256 }) => sha256)]);
  return createHash('sha256').update(text).digest();
}

/** The same value with the keys of its objects sorted: their order says nothing. */
function canonical(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(canonical);
  if (typeof value !== 'object' || value === null) return value;
  return Object.entries(value)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, inner]) => [key, canonical(inner)]);
}
