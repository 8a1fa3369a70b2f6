/** The file in REPORT_PROFILE: read once, at the start, so that a fault stops the program and not a report at night. */
import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { ExpectedError } from '../errors.js';
import { DEFAULT_PROFILE, parseSiteProfile, type SiteProfile, SiteProfileError } from '../reporting/site-profile.js';

/** JSON is YAML too. Throws `ExpectedError` that names every fault. */
export function loadSiteProfile(file: string | undefined): SiteProfile {
  if (file === undefined) return DEFAULT_PROFILE;
  let content: unknown;
  try {
    content = parse(readFileSync(file, 'utf8'));
  } catch (error) {
    const [reason] = (error instanceof Error ? error.message : String(error)).split('\n');
    throw new ExpectedError(`REPORT_PROFILE: ${file} cannot be read: ${reason}`);
  }
  try {
    return parseSiteProfile(content);
  } catch (error) {
    if (!(error instanceof SiteProfileError)) throw error;
    throw new ExpectedError(`REPORT_PROFILE: ${file} cannot be used: ${error.message}.`);
  }
}
