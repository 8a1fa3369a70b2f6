import { describe, expect, it } from 'vitest';
import { derivedUuid, type FhirBundle, fhirBundle, fhirTransaction } from '../../../src/reporting/fhir.js';
import { reportOf } from '../../../src/reporting/figures.js';
import { DEFAULT_PROFILE, parseSiteProfile } from '../../../src/reporting/site-profile.js';
import { fhirFaults } from '../../support/fhir-validation.js';
import { ANALYSIS_ID, cellsOf, HEALTHY, reportCases, reportedAnalysis, resultOf } from '../../support/reports.js';

const SITE = parseSiteProfile({
  figures: {
    'neutrophil.percent': { range: { low: 40, high: 75 } },
    'neutrophil.absolute': { loinc: '751-8', unit: '10*3/uL', range: { low: 1.8, high: 7.5 } },
    'lymphocyte.percent': { unit: '1', range: { low: 0.35 } },
  },
  fhir: {
    patientSystem: 'urn:oid:1.2.3.4',
    orderSystem: 'https://lis.example/orders',
    reviewerSystem: 'urn:oid:1.2.3.5',
  },
});
const cases = Object.entries(reportCases());

type Resource = Record<string, unknown> & { resourceType: string };
const only = (bundle: FhirBundle, type: string): Resource[] =>
  bundle.entry.map((entry) => entry.resource as Resource).filter((resource) => resource.resourceType === type);
const byCode = (bundle: FhirBundle, code: string): Resource | undefined =>
  only(bundle, 'Observation').find((resource) => JSON.stringify(resource['code']).includes(`"${code}"`));

describe('the bundle', () => {
  it.each(cases)('is valid FHIR R4: %s', (_, analysis) => {
    expect(fhirFaults(fhirBundle(reportOf(analysis, DEFAULT_PROFILE), { profile: DEFAULT_PROFILE }))).toEqual([]);
    const options = { profile: SITE, publicUrl: 'https://lab.example/leukodiff/' };
    expect(fhirFaults(fhirBundle(reportOf(analysis, SITE), options))).toEqual([]);
    expect(fhirFaults(fhirTransaction(reportOf(analysis, SITE), options))).toEqual([]);
  });

  it('would be found invalid', () => {
    const [[, analysis] = []] = cases;
    if (analysis === undefined) throw new Error('no case');
    const bundle = fhirBundle(reportOf(analysis, DEFAULT_PROFILE), { profile: DEFAULT_PROFILE });
    const broken = (from: string, to: string): string[] =>
      fhirFaults(JSON.parse(JSON.stringify(bundle).replace(from, to)));
    expect(broken('"status":"preliminary"', '"status":"unsigned"').join()).toContain('must be equal to one of');
    expect(broken('"issued":', '"released":').join()).toContain('released');
    expect(broken('"status":"preliminary",', '').join()).toContain('status');
    expect(broken('"code":"HM"', '"code":"HAEM"')).toEqual([
      'http://terminology.hl7.org/CodeSystem/v2-0074 has no code HAEM',
    ]);
    expect(broken('"reference":"urn:uuid:', '"reference":"urn:uuid:0').join()).toContain('not there');
  });

  it.each(['preliminary', 'final', 'amended', 'corrected'])('has the status of the review: %s', (status) => {
    const analysis = reportCases()[status];
    if (analysis === undefined) throw new Error('no case');
    const bundle = fhirBundle(reportOf(analysis, DEFAULT_PROFILE), { profile: DEFAULT_PROFILE });
    const resources = [...only(bundle, 'DiagnosticReport'), ...only(bundle, 'Observation')];
    expect(resources.length).toBeGreaterThan(18);
    expect(new Set(resources.map((resource) => resource['status']))).toEqual(new Set([status]));
    const verifiers = JSON.stringify(only(bundle, 'Provenance')).includes('verifier');
    expect(verifiers).toBe(status !== 'preliminary');
  });

  it('reports values, intervals and ranges in the units and codes of the site', () => {
    const analysis = reportedAnalysis(resultOf(cellsOf(HEALTHY)));
    const bundle = fhirBundle(reportOf(analysis, SITE), { profile: SITE });
    expect(byCode(bundle, 'neutrophil-percent')).toMatchObject({
      code: { coding: [{ system: 'http://loinc.org', code: '26511-6' }, { code: 'neutrophil-percent' }] },
      valueQuantity: { value: 62, unit: '%', system: 'http://unitsofmeasure.org', code: '%' },
      referenceRange: [{ low: { value: 40, code: '%' }, high: { value: 75, code: '%' } }],
      interpretation: [{ coding: [{ code: 'N' }] }],
      component: [{ valueQuantity: { value: 62 } }, { valueQuantity: { code: '%' } }, {}],
      method: { text: 'Image analysis of a blood smear, not reviewed' },
      subject: { type: 'Patient', identifier: { system: 'urn:oid:1.2.3.4', value: 'PSN-0815' } },
      basedOn: [{ type: 'ServiceRequest', identifier: { system: 'https://lis.example/orders', value: 'ORD-5' } }],
    });
    expect(byCode(bundle, '751-8')).toMatchObject({ valueQuantity: { value: 4.464, code: '10*3/uL' } });
    expect(byCode(bundle, 'lymphocyte-percent')).toMatchObject({
      valueQuantity: { value: 0.28, code: '1' },
      interpretation: [{ coding: [{ code: 'L' }] }],
    });
    // No method that LOINC would state fits before a person has looked.
    const plain = fhirBundle(reportOf(analysis, DEFAULT_PROFILE), { profile: DEFAULT_PROFILE });
    expect(JSON.stringify(byCode(plain, 'neutrophil-absolute'))).not.toContain('loinc');
    expect(JSON.stringify(byCode(plain, 'blast-percent'))).not.toContain('loinc');
  });

  it('marks blasts as abnormal, and lists the reasons for review', () => {
    const analysis = reportCases()['with blasts and cells without a name'];
    if (analysis === undefined) throw new Error('no case');
    const bundle = fhirBundle(reportOf(analysis, DEFAULT_PROFILE), { profile: DEFAULT_PROFILE });
    expect(byCode(bundle, 'blast-percent')).toMatchObject({ interpretation: [{ coding: [{ code: 'A' }] }] });
    expect(byCode(bundle, 'review-reasons')).toMatchObject({
      valueInteger: analysis.review?.reasons.length,
      component: expect.arrayContaining([
        { code: expect.objectContaining({ text: 'blasts_present' }), valueString: expect.stringContaining('3 blasts') },
      ]),
    });
  });

  it('names model and images by checksum, and links the overlays', () => {
    const analysis = reportedAnalysis(resultOf(cellsOf(HEALTHY)));
    const bundle = fhirBundle(reportOf(analysis, SITE), { profile: SITE, publicUrl: 'https://lab.example/' });
    const [provenance] = only(bundle, 'Provenance');
    expect(JSON.stringify(provenance)).toContain('5f'.repeat(32));
    expect(JSON.stringify(provenance)).toContain('a3'.repeat(32));
    expect(JSON.stringify(provenance)).toContain('sg-cldff 1.0.0');
    expect(only(bundle, 'Media')).toMatchObject([
      { content: { url: `https://lab.example/analyses/${ANALYSIS_ID}/images/0/overlay.png` } },
    ]);
  });

  it('is the same whenever it is made', () => {
    const make = () => fhirBundle(reportOf(reportedAnalysis(resultOf(cellsOf(HEALTHY))), SITE), { profile: SITE });
    expect(JSON.stringify(make())).toBe(JSON.stringify(make()));
  });

  it('is not made of an analysis without a result', () => {
    const failed = reportedAnalysis(resultOf([]), { differential: null });
    expect(() => reportOf(failed, DEFAULT_PROFILE)).toThrow(RangeError);
  });
});

describe('the transaction', () => {
  it('finds again what an earlier revision created', () => {
    const { preliminary, corrected } = reportCases();
    if (preliminary === undefined || corrected === undefined) throw new Error('no case');
    const requests = [preliminary, corrected].map((analysis) =>
      fhirTransaction(reportOf(analysis, SITE), { profile: SITE }).entry.map((entry) => entry.request),
    );
    const [first = [], second = []] = requests;
    const keys = first.filter((request) => !request?.url.startsWith('Provenance'));
    expect(second.filter((request) => !request?.url.startsWith('Provenance'))).toEqual(keys);
    expect(new Set(keys.map((request) => `${request?.url}${request?.ifNoneExist}`)).size).toBe(keys.length);
    // Each revision has a provenance of its own, and one only.
    const provenance = requests.map((list) => list.filter((request) => request?.url === 'Provenance'));
    expect(provenance.map((list) => list.length)).toEqual([1, 1]);
    expect(provenance[0]).not.toEqual(provenance[1]);
  });
});

describe('derivedUuid', () => {
  it('differs by part and by analysis, and is a UUID', () => {
    const other = '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4f';
    const ids = ['report', 'specimen', 'overlay-0', 'overlay-1', 'overlay-10'].flatMap((part) => [
      derivedUuid(ANALYSIS_ID, part),
      derivedUuid(other, part),
    ]);
    expect(new Set(ids).size).toBe(ids.length);
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });
});
