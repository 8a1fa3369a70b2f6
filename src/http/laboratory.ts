/** Which laboratory a request belongs to. */
import type { FastifyRequest } from 'fastify';
import { DEFAULT_LABORATORY } from '../storage/laboratory.js';

/** Until requests come with a key that names a laboratory (`request.principal`), all belong to the default one. */
export function laboratoryOf(_request: FastifyRequest): string {
  return DEFAULT_LABORATORY;
}
