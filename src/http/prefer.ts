/** The `Prefer` request header (RFC 7240), as far as this service understands it: `wait`. */

/**
 * Seconds that the client would wait for a finished answer, capped; null where it did not ask or what it asked cannot
 * be read (RFC 7240 has such preferences ignored, never refused).
 *
 * @param header One value or several, each a comma-separated list; the first `wait` counts.
 */
export function preferredWaitSeconds(
  header: string | readonly string[] | undefined,
  maxWaitSeconds: number,
): number | null {
  if (header === undefined) return null;
  const list = typeof header === 'string' ? header : header.join(',');
  for (const preference of splitPreferences(list)) {
    // Parameters of a preference come after a semicolon; `wait` has none that mean anything.
    const [name, value] = (preference.split(';', 1)[0] ?? '').split('=', 2);
    if (name?.trim().toLowerCase() !== 'wait') continue;
    const digits = /^\s*"?(\d{1,9})"?\s*$/.exec(value ?? '')?.[1];
    return digits === undefined ? null : Math.min(Number(digits), maxWaitSeconds);
  }
  return null;
}

/** Splits at the commas that are outside quoted strings. */
function splitPreferences(list: string): string[] {
  return list.match(/(?:"(?:[^"\\]|\\.)*"|[^,])+/g) ?? [];
}
