/** Content negotiation as far as it is needed: every address has one media type, and an error document. */

/**
 * Whether a request with this `Accept` header can take `mediaType` (RFC 9110 section 12.5.1). A header that cannot be
 * read accepts everything: being strict there would help nobody.
 */
export function acceptsMediaType(accept: string | undefined, mediaType: string): boolean {
  if (accept === undefined || accept.trim() === '') return true;
  const [type] = mediaType.split('/');
  // The most specific range that matches decides, so `text/html;q=0, */*` refuses HTML only.
  let decided = { specificity: -1, quality: 0 };
  let readable = false;
  for (const item of accept.split(',')) {
    const [range = '', ...parameters] = item.split(';').map((part) => part.trim().toLowerCase());
    if (!/^[^\s/]+\/[^\s/]+$/.test(range) && range !== '*') continue;
    readable = true;
    const specificity = range === mediaType ? 2 : range === `${type}/*` ? 1 : range === '*/*' || range === '*' ? 0 : -1;
    const quality = parameters.find((parameter) => parameter.startsWith('q='))?.slice(2);
    if (specificity > decided.specificity) {
      decided = { specificity, quality: quality === undefined ? 1 : Number.parseFloat(quality) || 0 };
    }
  }
  return !readable || decided.quality > 0;
}
