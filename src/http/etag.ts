import { createHash } from 'node:crypto';

/** A strong entity tag over the bytes of an answer. 96 bits of SHA-256 are ample against accidental equality. */
export function entityTag(body: string | Uint8Array): string {
  return `"${createHash('sha256').update(body).digest('base64url').slice(0, 16)}"`;
}

/** Whether `If-None-Match` names `tag`: weak comparison, as RFC 9110 section 13.1.2 asks for reads. */
export function matchesEntityTag(ifNoneMatch: string | undefined, tag: string): boolean {
  if (ifNoneMatch === undefined) return false;
  if (ifNoneMatch.trim() === '*') return true;
  return ifNoneMatch.split(',').some((candidate) => candidate.trim().replace(/^W\//, '') === tag);
}

/** Whether `If-Match` names `tag`: strong comparison, as RFC 9110 section 13.1.1 asks for changes. */
export function isPrecondition(ifMatch: string, tag: string): boolean {
  if (ifMatch.trim() === '*') return true;
  return ifMatch.split(',').some((candidate) => candidate.trim() === tag);
}
