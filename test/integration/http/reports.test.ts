/** Results as FHIR R4 and HL7 v2 over HTTP, read by other people's libraries. */
import { Hl7Message } from '@medplum/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fhirFaults } from '../../support/fhir-validation.js';
import { expectContract } from './contract.js';
import { blob, finish, type Harness, picture, post, startHarness } from './harness.js';

let harness: Harness;
let done: string;
let open: string;
let failed: string;

beforeAll(async () => {
  harness = await startHarness({ publicUrl: 'https://lab.example/leukodiff' });
  const png = await picture('png');
  const submit = async (): Promise<string> =>
    (
      await post(harness.app, [
        ['images', blob(png, 'image/png'), '0.png'],
        ['images', blob(png, 'image/png'), '1.png'],
        ['accessionNumber', 'H-26|7'],
        ['orderId', 'O-1'],
        ['collectedAt', '2026-11-20T08:15:00+01:00'],
        ['wbcCount', '7.2'],
      ])
    ).json().id;
  [done, open, failed] = [await submit(), await submit(), await submit()];
  await finish(harness, done, { images: 2, failed: [1] });
  await finish(harness, failed, { images: 2, failed: [0, 1] });
});
afterAll(() => harness.close());

const get = (url: string, headers: Record<string, string> = {}) => harness.app.inject({ method: 'GET', url, headers });

describe('GET /analyses/{id}/fhir', () => {
  it('answers a valid bundle of what was found', async () => {
    const response = await get(`/analyses/${done}/fhir`);
    expect(response.statusCode).toBe(200);
    expect(response.headers['content-type']).toBe('application/fhir+json; charset=utf-8');
    expectContract(harness.app, response, 'get', '/analyses/{id}/fhir');
    const bundle = response.json();
    expect(fhirFaults(bundle)).toEqual([]);
    const types = bundle.entry.map((entry: { resource: { resourceType: string } }) => entry.resource.resourceType);
    expect([...new Set(types)].sort()).toEqual([
      'Device',
      'DiagnosticReport',
      'Media',
      'Observation',
      'Provenance',
      'Specimen',
    ]);
    // Only the image that could be analysed has an overlay, and its link leads there.
    const media = bundle.entry.filter(
      (entry: { resource: { resourceType: string } }) => entry.resource.resourceType === 'Media',
    );
    expect(media).toHaveLength(1);
    const path = new URL(media[0].resource.content.url).pathname.replace('/leukodiff', '');
    expect((await get(path)).headers['content-type']).toBe('image/png');
  });

  it('changes its tag with the review, and only then', async () => {
    const first = await get(`/analyses/${done}/fhir`);
    const again = await get(`/analyses/${done}/fhir`, { 'if-none-match': String(first.headers.etag) });
    expect(again.statusCode).toBe(304);
    const signed = await harness.app.inject({
      method: 'POST',
      url: `/analyses/${done}/sign`,
      payload: { reviewer: 'mlopez' },
      headers: { 'if-match': '*' },
    });
    expect(signed.statusCode).toBe(200);
    const after = await get(`/analyses/${done}/fhir`, { 'if-none-match': String(first.headers.etag) });
    expect(after.statusCode).toBe(200);
    expect(after.json().entry[0].resource.status).toBe('final');
    expect(fhirFaults(after.json())).toEqual([]);
  });
});

describe('GET /analyses/{id}/hl7', () => {
  it('answers a message that another parser reads', async () => {
    const response = await get(`/analyses/${done}/hl7`);
    expect(response.headers['content-type']).toBe('application/hl7-v2; charset=utf-8');
    expectContract(harness.app, response, 'get', '/analyses/{id}/hl7');
    const message = Hl7Message.parse(response.body);
    expect(message.getSegment('MSH')?.getField(9).toString()).toBe('ORU^R01^ORU_R01');
    expect(message.getSegment('OBR')?.getField(18).toString()).toBe('H-26\\F\\7');
    expect(message.getSegment('SPM')?.getField(17).toString()).toBe('20261120071500+0000');
    const [neutrophils] = message.getAllSegments('OBX');
    expect(neutrophils?.getField(3).getComponent(1)).toBe('26511-6');
    expect(neutrophils?.getField(5).toString()).toBe('100');
    const again = await get(`/analyses/${done}/hl7`, { 'if-none-match': String(response.headers.etag) });
    expect(again.statusCode).toBe(304);
  });
});

describe.each(['fhir', 'hl7'])('/%s', (format) => {
  it('says why there is none', async () => {
    const slug = async (id: string): Promise<unknown[]> => {
      const response = await get(`/analyses/${id}/${format}`);
      expectContract(harness.app, response, 'get', `/analyses/{id}/${format}`);
      return [response.statusCode, response.json().type.split('/').at(-1)];
    };
    expect(await slug(open)).toEqual([409, 'analysis-not-finished']);
    expect(await slug(failed)).toEqual([409, 'analysis-failed']);
    expect(await slug('0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e')).toEqual([404, 'analysis-not-found']);
    expect(await slug('none')).toEqual([400, 'invalid-parameters']);
  });
});
