/** Which reports go out with a revision of a result, by what the site has configured. */
import { fhirTransaction } from './fhir.js';
import { type ReportedAnalysis, reportOf } from './figures.js';
import { hl7Message } from './hl7.js';
import type { SiteProfile } from './site-profile.js';

export interface OutgoingOptions {
  readonly profile: SiteProfile;
  readonly publicUrl: string | undefined;
  /** Whether there is a receiver of that kind. */
  readonly hl7: boolean;
  readonly fhir: boolean;
  /** `all`: also what nobody has signed. */
  readonly send: 'all' | 'signed';
}

export interface OutgoingReport {
  readonly channel: 'hl7' | 'fhir';
  /** The message or the bundle as it is sent. */
  readonly body: string;
}

/** A change after a signature is held back until it is signed: a receiver would take it for a corrected result. */
export function outgoingReports(analysis: ReportedAnalysis, options: OutgoingOptions): OutgoingReport[] {
  if (analysis.differential === null || !(options.hl7 || options.fhir)) return [];
  const report = reportOf(analysis, options.profile);
  const { status, revision } = report.verification;
  const signed = status === 'final' || status === 'corrected';
  // Before a signature, only the result itself: a message for every cell that is looked at would flood the receiver.
  const first = status === 'preliminary' && revision === 1;
  if (!signed && !(first && options.send === 'all')) return [];
  return [
    ...(options.hl7 ? [{ channel: 'hl7' as const, body: hl7Message(report, options.profile) }] : []),
    ...(options.fhir ? [{ channel: 'fhir' as const, body: JSON.stringify(fhirTransaction(report, options)) }] : []),
  ];
}
