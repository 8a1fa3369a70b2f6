import { Hl7Message } from '@medplum/core';
import { describe, expect, it } from 'vitest';
import { type ReportedAnalysis, reportOf } from '../../../src/reporting/figures.js';
import { controlId, escapeHl7, hl7Message } from '../../../src/reporting/hl7.js';
import { DEFAULT_PROFILE, parseSiteProfile, type SiteProfile } from '../../../src/reporting/site-profile.js';
import {
  ANALYSIS_ID,
  cellsOf,
  HEALTHY,
  rename,
  reportCases,
  reportedAnalysis,
  resultOf,
} from '../../support/reports.js';

/** Made by this service, read by somebody else's parser. */
function parse(analysis: ReportedAnalysis | undefined, profile: SiteProfile = DEFAULT_PROFILE): Hl7Message {
  if (analysis === undefined) throw new Error('no case');
  return Hl7Message.parse(hl7Message(reportOf(analysis, profile), profile));
}
const field = (message: Hl7Message, segment: string, index: number): string =>
  message.getSegment(segment)?.getField(index)?.toString() ?? '';
const values = (message: Hl7Message, index: number): string[] =>
  message.getAllSegments('OBX').map((one) => one.getField(index)?.toString() ?? '');
const obx = (message: Hl7Message, code: string) =>
  message.getAllSegments('OBX').find((one) => one.getField(3).toString().includes(code));

describe('the message', () => {
  it('names itself, its version and its character set', () => {
    const message = parse(reportCases()['final']);
    expect(field(message, 'MSH', 9)).toBe('ORU^R01^ORU_R01');
    expect(field(message, 'MSH', 10)).toBe(controlId(ANALYSIS_ID, 2));
    expect(field(message, 'MSH', 12)).toBe('2.5.1');
    expect(field(message, 'MSH', 18)).toBe('UNICODE UTF-8');
    expect(field(message, 'MSH', 7)).toBe('20261120081240+0000');
  });

  it('has the segments in the order of ORU_R01, each ended by a carriage return', () => {
    const analysis = reportedAnalysis(resultOf(cellsOf(HEALTHY)));
    const text = hl7Message(reportOf(analysis, DEFAULT_PROFILE), DEFAULT_PROFILE);
    expect(text.endsWith('\r')).toBe(true);
    expect(text).not.toContain('\n');
    const names = text.split('\r').map((line) => line.slice(0, 3));
    expect([...new Set(names)]).toEqual(['MSH', 'PID', 'ORC', 'OBR', 'NTE', 'OBX', 'SPM', '']);
  });

  it('names every model that had a part in the result', () => {
    const analysis = reportedAnalysis(resultOf(cellsOf(HEALTHY)));
    const [image] = analysis.images;
    if (image === undefined) throw new Error('no image');
    const next = { name: 'sg-cldff', version: '1.1.0', sha256: '6a'.repeat(32) };
    const images = [
      { ...image, model: next },
      { ...image, model: analysis.model },
      { ...image, model: next },
    ];
    expect(values(parse(analysis), 18)[0]).toBe('sg-cldff 1.0.0');
    expect(values(parse({ ...analysis, images }), 18)[0]).toBe('sg-cldff 1.1.0, sg-cldff 1.0.0');
  });

  it('carries order, specimen and collection time', () => {
    const message = parse(reportCases()['preliminary']);
    expect(field(message, 'ORC', 2)).toBe('ORD-5');
    expect(field(message, 'OBR', 2)).toBe('ORD-5');
    expect(field(message, 'OBR', 3)).toBe(ANALYSIS_ID);
    expect(field(message, 'OBR', 7)).toBe('20261120071500+0000');
    expect(field(message, 'OBR', 18)).toBe('H-26-001234');
    expect(field(message, 'SPM', 2)).toBe('S-77');
    expect(field(message, 'SPM', 17)).toBe('20261120071500+0000');
  });

  it.each([
    ['the subject id', { subjectId: 'PSN-0815' }, 'PSN-0815^^^^PI'],
    ['without one the accession number', { subjectId: null }, 'H-26-001234^^^^U'],
    ['without that the specimen id', { subjectId: null, accessionNumber: null }, 'S-77^^^^U'],
    ['else the analysis id', { subjectId: null, accessionNumber: null, specimenId: null }, `${ANALYSIS_ID}^^^^U`],
  ])('has as PID-3 %s, and never a name', (_, order, expected) => {
    const message = parse(reportedAnalysis(resultOf(cellsOf(HEALTHY)), order));
    expect(field(message, 'PID', 3)).toBe(expected);
    expect(field(message, 'PID', 5)).toBe('^^^^^^U');
  });

  it.each([
    ['preliminary', 'P'],
    ['final', 'F'],
    ['amended', 'C'],
    ['corrected', 'C'],
  ])('of a %s result has the status %s', (state, status) => {
    const message = parse(reportCases()[state]);
    expect(new Set(values(message, 11))).toEqual(new Set([status]));
    expect(field(message, 'OBR', 25)).toBe(status);
    expect(field(message, 'OBR', 32)).toBe(state === 'preliminary' ? '' : 'mlopez');
  });

  it('gives LOINC first and the local code beside it', () => {
    const line = obx(parse(reportCases()['preliminary']), '26511-6');
    expect(line?.getField(3).toString()).toBe(
      '26511-6^Neutrophils per 100 leukocytes^LN^neutrophil-percent^Neutrophils per 100 leukocytes^99LDF',
    );
    expect(line?.getField(2).toString()).toBe('NM');
    expect(line?.getField(5).toString()).toBe('62');
    expect(line?.getField(6).toString()).toBe('%^%^UCUM');
  });

  it('follows the codes, units and ranges of the site', () => {
    const site = parseSiteProfile({
      figures: {
        'neutrophil.absolute': { loinc: '751-8', unit: '/uL', range: { low: 1800, high: 7500 } },
        'lymphocyte.percent': { loinc: null, localCode: 'LYM', range: { high: 20 } },
        panel: { localCode: 'DIFF', text: 'Differenzialblutbild' },
      },
      hl7: {
        codingSystem: '99ABC',
        sendingFacility: 'LAB',
        receivingApplication: 'LIS',
        receivingFacility: 'WARD',
        processingId: 'T',
        patientAuthority: 'MPI',
      },
    });
    const message = parse(reportCases()['preliminary'], site);
    const absolute = obx(message, '751-8');
    expect(absolute?.getField(5).toString()).toBe('4464');
    expect(absolute?.getField(6).toString()).toBe('/uL^/uL^UCUM');
    expect(absolute?.getField(7).toString()).toBe('1800-7500');
    expect(absolute?.getField(8).toString()).toBe('N');
    const lymphocytes = obx(message, 'LYM');
    expect(lymphocytes?.getField(3).toString()).toBe('LYM^Lymphocytes per 100 leukocytes^99ABC');
    expect(lymphocytes?.getField(7).toString()).toBe('<=20');
    expect(lymphocytes?.getField(8).toString()).toBe('H');
    expect(field(message, 'OBR', 4)).toBe('DIFF^Differenzialblutbild^99ABC');
    expect([3, 4, 5, 6, 11].map((index) => field(message, 'MSH', index))).toEqual([
      'LEUKODIFF',
      'LAB',
      'LIS',
      'WARD',
      'T',
    ]);
    expect(field(message, 'PID', 3)).toBe('PSN-0815^^^MPI^PI');
  });

  it('states the reasons for review as results and as notes', () => {
    const message = parse(reportCases()['with blasts and cells without a name']);
    const reason = obx(message, 'review-reasons');
    expect(reason?.getField(5).getComponent(1)).toBe('blasts_present');
    expect(reason?.getField(8).toString()).toBe('A');
    const notes = message.getAllSegments('NTE').map((one) => one.getField(3).toString());
    expect(notes).toContainEqual(expect.stringMatching(/^Review: 3 blasts found/));
  });

  it('takes back a reason that the review removed', () => {
    const cells = cellsOf({ ...HEALTHY, unidentified: 1 });
    const before = { cells, result: resultOf(cells) };
    const named = cells.find((cell) => cell.class === 'unidentified')?.id ?? '';
    const after = rename(before, named, 'monocyte');
    const subIds = [before.result, after.result].map((result) => {
      const message = parse(reportedAnalysis(result));
      const line = message.getAllSegments('OBX').find((one) => one.getField(3).toString().includes('review-reasons'));
      return [line?.getField(4).toString(), line?.getField(11).toString()];
    });
    expect(subIds).toEqual([
      ['5', 'P'],
      ['5', 'D'],
    ]);
  });

  it('keeps figures of an empty smear without a value', () => {
    const message = parse(reportCases()['without a white cell and without anything from the order']);
    expect(obx(message, '26511-6')?.getField(5).toString()).toBe('');
    expect(obx(message, 'total-wbc')?.getField(5).toString()).toBe('0');
  });

  it('numbers its observations, and tells equal codes apart', () => {
    const message = parse(reportCases()['with blasts and cells without a name']);
    expect(values(message, 1)).toEqual(values(message, 1).map((_, index) => String(index + 1)));
    const keys = message.getAllSegments('OBX').map((one) => `${one.getField(3)} ${one.getField(4)}`);
    expect(new Set(keys).size).toBe(keys.length);
  });
});

describe('escaping', () => {
  it('keeps what the order brought from breaking the message', () => {
    const message = parse(reportCases()['with text that needs escaping']);
    expect(field(message, 'OBR', 18)).toBe('A\\F\\B\\S\\C\\T\\D\\R\\E\\E\\F');
    expect(field(message, 'PID', 3)).toBe('Zoë Ångström 李^^^^PI');
  });

  it.each([
    ['a|b', 'a\\F\\b'],
    ['\\F\\', '\\E\\F\\E\\'],
    ['line\rMSH|^~', 'line\\X0D\\MSH\\F\\\\S\\\\R\\'],
    ['\u000b\u001c\r', '\\X0B\\\\X1C\\\\X0D\\'],
    ['10 % 李', '10 % 李'],
  ])('%j', (text, escaped) => {
    expect(escapeHl7(text)).toBe(escaped);
  });
});

describe('controlId', () => {
  it('is short enough, and differs by analysis and revision', () => {
    const ids = [
      controlId(ANALYSIS_ID, 1),
      controlId(ANALYSIS_ID, 2),
      controlId(ANALYSIS_ID, 99_999),
      controlId('0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4f', 1),
    ];
    expect(new Set(ids).size).toBe(4);
    for (const id of ids) expect(id).toMatch(/^[0-9A-Z]{20}$/);
  });
});
