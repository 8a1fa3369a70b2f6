/** Writes a FHIR bundle, a FHIR transaction and an HL7 message of every report case, and AuditEvents, into the folder that is named. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { auditBundle } from '../../src/reporting/audit-event.js';
import { fhirBundle, fhirTransaction } from '../../src/reporting/fhir.js';
import { reportOf } from '../../src/reporting/figures.js';
import { hl7Message } from '../../src/reporting/hl7.js';
import { DEFAULT_PROFILE } from '../../src/reporting/site-profile.js';
import { auditCases, reportCases } from '../support/reports.js';

const folder = process.argv[2];
if (folder === undefined) throw new Error('usage: tsx test/python/write-samples.ts FOLDER');
mkdirSync(folder, { recursive: true });
const profile = DEFAULT_PROFILE;
for (const [name, analysis] of Object.entries(reportCases())) {
  const report = reportOf(analysis, profile);
  const file = join(folder, name.replaceAll(' ', '-'));
  writeFileSync(`${file}.hl7`, hl7Message(report, profile));
  writeFileSync(`${file}.bundle.json`, JSON.stringify(fhirBundle(report, { profile })));
  writeFileSync(`${file}.transaction.json`, JSON.stringify(fhirTransaction(report, { profile })));
}
const links = { self: 'https://leukodiff.test/audit/fhir', next: 'https://leukodiff.test/audit/fhir?cursor=x' };
writeFileSync(join(folder, 'audit-events.json'), JSON.stringify(auditBundle(Object.values(auditCases()), links)));
