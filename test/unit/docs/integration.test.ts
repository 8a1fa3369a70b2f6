/** The examples of the integration guide are what the program makes. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../../src/config.js';
import { PROBLEMS } from '../../../src/http/problems.js';
import { fhirBundle } from '../../../src/reporting/fhir.js';
import { reportOf } from '../../../src/reporting/figures.js';
import { hl7Message } from '../../../src/reporting/hl7.js';
import { DEFAULT_PROFILE } from '../../../src/reporting/site-profile.js';
import { WEBHOOK_EVENT_TYPES } from '../../../src/reporting/webhook-event.js';
import { guide, guideCode } from '../../support/guide.js';
import { reportCases } from '../../support/reports.js';

const { final } = reportCases();
if (final === undefined) throw new Error('no case');
const report = reportOf(final, DEFAULT_PROFILE);

describe('docs/integration.md', () => {
  it('shows segments of a real HL7 message, in order', () => {
    const segments = hl7Message(report, DEFAULT_PROFILE).split('\r');
    const shown = guideCode('text hl7')
      .trimEnd()
      .split('\n')
      .filter((line) => line !== '…');
    const places = shown.map((line) => segments.indexOf(line));
    expect(shown.filter((_, index) => places[index] === -1)).toEqual([]);
    expect(places).toEqual([...places].sort((a, b) => a - b));
    expect(shown.length).toBeGreaterThan(8);
  });

  it('shows an Observation of a real bundle', () => {
    const bundle = fhirBundle(report, { profile: DEFAULT_PROFILE });
    const shown = JSON.parse(guideCode('json fhir'));
    const [code] = shown.code.coding;
    const made = bundle.entry.find(({ resource }) => JSON.stringify(resource['code']).includes(code.code));
    expect(made?.resource).toMatchObject(shown);
  });

  it('names only settings that exist, with values that are accepted', () => {
    // Node's own names: an environment variable, and what a connection failed of.
    const nodes = [
      'NODE_EXTRA_CA_CERTS',
      'CERT_HAS_EXPIRED',
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'SELF_SIGNED_CERT_IN_CHAIN',
    ];
    const settings = [...guide.matchAll(/`([A-Z0-9]+_[A-Z0-9_]+)(?:=([^`]+))?`/g)].filter(
      ([, name = '']) => !nodes.includes(name),
    );
    const known = readFileSync(new URL('../../../docs/configuration.md', import.meta.url), 'utf8');
    for (const [, name = '', value] of settings) {
      expect(known).toContain(`\`${name}\``);
      if (value !== undefined) expect(() => loadConfig({ [name]: value })).not.toThrow();
    }
    expect(settings.length).toBeGreaterThan(4);
  });

  it('names only problems, review reasons and events that exist', () => {
    const answers = [...guide.matchAll(/\b(?:401|403|404|409|412|422|428|429|503|507)[^.|\n]{0,40}?\(`([a-z-]+)`/g)];
    for (const [, slug = ''] of answers) expect(Object.keys(PROBLEMS)).toContain(slug);
    expect(answers.length).toBeGreaterThan(6);
    const events = new Set([...guide.matchAll(/`((?:analysis|webhook)\.[a-z_]+)`/g)].map(([, type]) => type));
    expect([...events].sort()).toEqual([...WEBHOOK_EVENT_TYPES, 'webhook.ping'].sort());
  });
});
