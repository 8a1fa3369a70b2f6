/** The laboratory (tenant) of the first key, of everything where nobody is asked, and of what was stored before there were several. */
export const DEFAULT_LABORATORY = 'default';
