import { describe, expect, it } from 'vitest';
import { type AuditTrailEntry, auditBundle, auditEvent } from '../../../src/reporting/audit-event.js';
import { fhirFaults } from '../../support/fhir-validation.js';
import { auditCases } from '../../support/reports.js';

const ENTRY: AuditTrailEntry = {
  id: '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e',
  at: '2026-11-24T08:15:00.000Z',
  laboratory: 'north',
  actorKind: 'key',
  actorId: 'k3v9x0q2m7ab',
  operation: 'getAnalysis',
  method: 'GET',
  subjectId: '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4f',
  status: 200,
  outcome: 'success',
  remote: '10.1.2.3',
  requestId: 'lis-4711',
};

describe('an AuditEvent', () => {
  it('has what FHIR R4 asks for: type, recorded, agent with requestor, source with observer', () => {
    const event = auditEvent(ENTRY);
    expect(event).toMatchObject({
      resourceType: 'AuditEvent',
      id: ENTRY.id,
      type: { system: 'http://terminology.hl7.org/CodeSystem/audit-event-type', code: 'rest' },
      subtype: [{ code: 'getAnalysis' }],
      action: 'R',
      recorded: ENTRY.at,
      outcome: '0',
      agent: [
        {
          who: { identifier: { value: 'k3v9x0q2m7ab' }, display: 'key of the laboratory north' },
          requestor: true,
          network: { address: '10.1.2.3', type: '2' },
        },
      ],
      source: { observer: { display: 'Leukodiff' } },
      entity: [
        {
          what: { identifier: { system: 'urn:ietf:rfc:3986', value: `urn:uuid:${ENTRY.subjectId}` } },
          detail: [
            { type: 'request-id', valueString: 'lis-4711' },
            { type: 'http-status', valueString: '200' },
          ],
        },
      ],
    });
  });

  it.each([
    ['POST', 'C'],
    ['PATCH', 'U'],
    ['PUT', 'U'],
    ['DELETE', 'D'],
    ['HEAD', 'R'],
    ['OPTIONS', 'E'],
  ])('of %s is %s', (method, action) => {
    expect(auditEvent({ ...ENTRY, method }).action).toBe(action);
  });

  it.each([
    ['refused', '4'],
    ['failed', '8'],
  ] as const)('that was %s has the outcome %s', (outcome, code) => {
    expect(auditEvent({ ...ENTRY, outcome }).outcome).toBe(code);
  });

  it('of the service itself is no request', () => {
    const own = {
      ...ENTRY,
      method: null,
      status: null,
      requestId: null,
      remote: null,
      actorKind: 'system',
      actorId: null,
    };
    expect(auditEvent({ ...own, operation: 'removeAnalysisByAge' })).toMatchObject({
      type: { code: '110100' },
      action: 'D',
    });
    const event = auditEvent({ ...own, subjectId: null, laboratory: null, operation: 'x' });
    expect(event.action).toBe('E');
    expect(event.entity).toBeUndefined();
    expect(JSON.stringify(event)).not.toContain('network');
    expect(JSON.stringify(event)).not.toContain('null');
  });
});

describe('a Bundle', () => {
  it('links to the next page, and has no empty list', () => {
    expect(auditBundle([], { self: '/audit/fhir', next: null })).toEqual({
      resourceType: 'Bundle',
      type: 'searchset',
      link: [{ relation: 'self', url: '/audit/fhir' }],
    });
    const bundle = auditBundle([ENTRY], { self: '/audit/fhir', next: '/audit/fhir?cursor=x' });
    expect(bundle.link[1]).toEqual({ relation: 'next', url: '/audit/fhir?cursor=x' });
    expect(bundle.entry?.[0]?.fullUrl).toBe(`urn:uuid:${ENTRY.id}`);
  });
});

/** As others see it: the judges of test/support/fhir-validation.ts. */
describe('FHIR R4', () => {
  const links = { self: 'https://leukodiff.test/audit/fhir', next: null };

  it.each(Object.entries(auditCases()))('is kept by the entry of %s', (_name, entry) => {
    expect(fhirFaults(auditBundle([entry], links))).toEqual([]);
  });

  it('is kept by an empty page, and by a full one', () => {
    expect(fhirFaults(auditBundle([], links))).toEqual([]);
    const entries = Object.values(auditCases());
    expect(fhirFaults(auditBundle(entries, { ...links, next: `${links.self}?cursor=x` }))).toEqual([]);
  });

  it.each([
    ['without a type', { type: undefined }],
    ['without an observer', { source: {} }],
    ['without an agent', { agent: [] }],
    ['with an outcome that there is not', { outcome: '5' }],
    ['with an action that there is not', { action: 'X' }],
    ['with a field that there is not', { laboratory: 'north' }],
    ['with a code that there is not', { type: { ...auditEvent(ENTRY).type, code: 'http' } }],
  ])('would be missed %s', (_what, change) => {
    const bundle = auditBundle([ENTRY], links);
    const entry = bundle.entry?.map((one) => ({ ...one, resource: { ...one.resource, ...change } }));
    expect(fhirFaults({ ...bundle, entry })).not.toEqual([]);
  });
});
