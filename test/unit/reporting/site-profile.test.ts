import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { CELL_TYPE_INFO, WBC_CLASSES } from '../../../src/hematology/cell-types.js';
import { DEFAULT_PROFILE, parseSiteProfile, SiteProfileError } from '../../../src/reporting/site-profile.js';

function faults(input: unknown): readonly string[] {
  try {
    parseSiteProfile(input);
  } catch (error) {
    if (error instanceof SiteProfileError) return error.faults;
    throw error;
  }
  return [];
}

describe('the default profile', () => {
  it('has only LOINC codes that were looked up, and of those only ones without a method', () => {
    const used = Object.values(DEFAULT_PROFILE.figures).flatMap((figure) => figure.loinc ?? []);
    const known = WBC_CLASSES.flatMap((type) => CELL_TYPE_INFO[type].loinc.percent ?? []);
    expect(used).toEqual(known);
    expect(used).toHaveLength(5);
  });

  it('has the usual units, and no value is changed on the way', () => {
    expect(DEFAULT_PROFILE.figures['neutrophil.percent']).toMatchObject({ unit: '%', factor: 1 });
    expect(DEFAULT_PROFILE.figures['neutrophil.absolute']).toMatchObject({ unit: '10*9/L', factor: 1 });
    expect(DEFAULT_PROFILE.figures.nrbc_per_100_wbc).toMatchObject({ unit: '/100{WBCs}', factor: 1 });
  });

  it('is what an empty file gives', () => {
    expect(parseSiteProfile(null)).toEqual(DEFAULT_PROFILE);
    expect(parseSiteProfile({})).toEqual(DEFAULT_PROFILE);
  });
});

describe('parseSiteProfile', () => {
  it('reads the example of the guide', () => {
    const text = readFileSync(new URL('../../../docs/report-profile.example.yaml', import.meta.url), 'utf8');
    const profile = parseSiteProfile(parse(text));
    expect(profile.figures['neutrophil.absolute']).toMatchObject({ loinc: '751-8', unit: '10*3/uL' });
    expect(profile.hl7.receivingApplication).toBe('LIS');
  });

  it.each([
    ['the file must be a mapping', 'text'],
    ['the file must be a mapping', []],
    ['figures must be a mapping', { figures: [] }],
    ['figure is not known here', { figure: {} }],
    ['figures.band.percent is not known here', { figures: { 'band.percent': {} } }],
    ['figures.blast.percent.loin is not known here', { figures: { 'blast.percent': { loin: '709-6' } } }],
    ['figures.blast.percent.loinc must be a LOINC code', { figures: { 'blast.percent': { loinc: 709 } } }],
    ['its check digit does not fit', { figures: { 'blast.percent': { loinc: '709-7' } } }],
    ['unit must be one of %, 1', { figures: { 'blast.percent': { unit: '10*9/L' } } }],
    ['unit must be one of 10*9/L, 10*3/uL, /uL', { figures: { 'blast.absolute': { unit: 'G/l' } } }],
    ['unit must be left out', { figures: { panel: { unit: '%' } } }],
    ['range.low must be a number', { figures: { 'blast.percent': { range: { low: '1' } } } }],
    ['low is above high', { figures: { 'blast.percent': { range: { low: 2, high: 1 } } } }],
    ['localCode must be', { figures: { panel: { localCode: 'a|b' } } }],
    ['text must be', { figures: { panel: { text: 'a\nb' } } }],
    ['fhir.patientSystem must be a URI', { fhir: { patientSystem: 'our numbers' } }],
    ['hl7.codingSystem must be 99', { hl7: { codingSystem: 'LOCAL' } }],
    ['hl7.processingId must be P, T or D', { hl7: { processingId: 'X' } }],
    ['hl7.sendingFacility must be', { hl7: { sendingFacility: 'a\rMSH' } }],
  ])('says what is wrong: %s', (message, input) => {
    expect(faults(input).join('; ')).toContain(message);
  });

  it('names every fault at once', () => {
    expect(faults({ figures: { panel: { unit: '%' } }, hl7: { processingId: 'X' }, more: 1 })).toHaveLength(3);
  });

  it('accepts every LOINC code of the table', () => {
    const codes = WBC_CLASSES.flatMap((type) => Object.values(CELL_TYPE_INFO[type].loinc)).filter(
      (code) => code !== null,
    );
    expect(codes.length).toBeGreaterThan(20);
    for (const loinc of codes) expect(faults({ figures: { panel: { loinc } } })).toEqual([]);
  });
});
