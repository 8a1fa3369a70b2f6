/** Which name the metrics of an order carry. Only names that the operator listed: what clients write never becomes a label. */

/** Of everything that is not listed. */
export const OTHER_SITE = 'other';

/** The laboratory that sent an order, and the site that the order itself names. */
export interface Origin {
  readonly laboratory: string;
  readonly site: string | null;
}

type SiteOf = (origin: Origin) => string;

/** @param listed `laboratory/site` for one site of a laboratory, `laboratory` for all of its other orders. */
export function siteNames(listed: readonly string[]): SiteOf {
  const names = new Set(listed);
  return ({ laboratory, site }) =>
    [`${laboratory}/${site ?? ''}`, laboratory].find((name) => names.has(name)) ?? OTHER_SITE;
}
