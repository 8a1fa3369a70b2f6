/** Building blocks of the documented answers. */
import { Type } from '@fastify/type-provider-typebox';
import type { ProblemSlug } from '../problems.js';

interface HeaderSchema {
  readonly type: string;
  readonly description: string;
}

export const HEADERS = {
  requestId: { 'X-Request-Id': { type: 'string', description: 'Names the request in the log of the service.' } },
  entityTag: { ETag: { type: 'string', description: 'For If-None-Match.' } },
  retryAfter: { 'Retry-After': { type: 'integer', description: 'Seconds after which to ask again.' } },
  location: { Location: { type: 'string', description: 'Address of the analysis.' } },
  idempotencyReplayed: {
    'Idempotency-Replayed': { type: 'string', description: '`true`: the order was taken before; this is its answer.' },
  },
  preferenceApplied: {
    'Preference-Applied': { type: 'string', description: 'The wait that was granted, where one was asked for.' },
  },
} as const satisfies Record<string, Record<string, HeaderSchema>>;

/** An answer in another JSON media type. */
export function mediaAnswer(description: string, mediaType: string, schemaId: string) {
  return { description, headers: HEADERS.requestId, content: { [mediaType]: { schema: Type.Ref(schemaId) } } };
}

/** A JSON answer whose body is a shared schema. */
export function jsonAnswer(description: string, schemaId: string, ...headers: Record<string, HeaderSchema>[]) {
  return {
    description,
    headers: Object.assign({}, HEADERS.requestId, ...headers) as Record<string, HeaderSchema>,
    content: { 'application/json': { schema: Type.Ref(schemaId) } },
  };
}

/** An answer whose body is a file. */
export function binaryAnswer(description: string, mediaTypes: readonly string[]) {
  const schema = Type.String({ format: 'binary' });
  return {
    description,
    headers: { ...HEADERS.requestId, ...HEADERS.entityTag },
    content: Object.fromEntries(mediaTypes.map((type) => [type, { schema }])),
  };
}

export function emptyAnswer(description: string) {
  return { type: 'null', description, headers: HEADERS.requestId };
}

/**
 * The problems that an address may answer with, beside those that every address may (`EVERYWHERE`). The OpenAPI
 * plugin turns them into responses with an example each.
 */
export function problems(...slugs: ProblemSlug[]): { 'x-problems': ProblemSlug[] } {
  return { 'x-problems': slugs };
}
