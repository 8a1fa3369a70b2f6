/**
 * The laboratory (tenant) of whatever is not told another. Until analyses carry the laboratory of the key that posted
 * them, all belong to this one.
 */
export const DEFAULT_LABORATORY = 'default';
