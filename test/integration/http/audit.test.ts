/** The audit trail: an entry for every access and change, that nobody can change. */
import type { LightMyRequestResponse } from 'fastify';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApiKey, type Scope } from '../../../src/storage/api-keys.js';
import { type AuditEntry, removeAuditOlderThan } from '../../../src/storage/audit.js';
import { fhirFaults } from '../../support/fhir-validation.js';
import { expectContract } from './contract.js';
import { analyzeRequest, blob, finish, type Harness, picture, startHarness } from './harness.js';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({ access: 'keys' });
});
afterAll(() => harness.close());

async function keyOf(laboratory: string, ...scopes: Scope[]): Promise<{ id: string; headers: Record<string, string> }> {
  const { key, token } = await createApiKey(harness.database, { laboratory, name: 'x', scopes, createdBy: null });
  return { id: key.id, headers: { authorization: `Bearer ${token}` } };
}

async function trail(headers: Record<string, string>, query = ''): Promise<AuditEntry[]> {
  await harness.app.audit.flush();
  const response = await harness.app.inject({ url: `/audit${query}`, headers });
  expect(response.statusCode).toBe(200);
  expectContract(harness.app, response, 'get', '/audit');
  return response.json<{ items: AuditEntry[] }>().items;
}

describe('the audit trail', () => {
  it('says who did what, when, from where and how it ended', async () => {
    const { id: actor, headers } = await keyOf('lab-trail', 'submit', 'read', 'admin');
    const reader = await keyOf('lab-trail', 'read');
    const begun = Date.now();
    const request = await analyzeRequest(
      [
        ['images', blob(await picture('png')), 'a.png'],
        ['accessionNumber', 'AUD-77'],
      ],
      {
        ...headers,
        'x-request-id': 'req-1',
      },
    );
    const { id } = (await harness.app.inject({ ...request, remoteAddress: '10.9.8.7' })).json<{ id: string }>();
    await harness.app.inject({ url: `/analyses/${id}`, headers: reader.headers });
    await harness.app.inject({ url: '/analyses?accessionNumber=AUD-77', headers });
    await harness.app.inject({ method: 'DELETE', url: `/analyses/${id}`, headers: reader.headers });
    await harness.app.inject({ method: 'DELETE', url: `/analyses/${id}`, headers });
    await harness.app.inject({ url: `/analyses/${id}`, headers });

    const entries = (await trail(headers)).filter(({ operation }) => operation !== 'listAudit');
    expect(
      entries.map(({ operation, actorId, outcome, status, subjectId }) => [
        operation,
        actorId,
        outcome,
        status,
        subjectId,
      ]),
    ).toEqual(
      expect.arrayContaining([
        ['analyze', actor, 'success', 202, id],
        ['getAnalysis', reader.id, 'success', 200, id],
        ['listAnalyses', actor, 'success', 200, null],
        ['deleteAnalysis', reader.id, 'refused', 403, id],
        ['deleteAnalysis', actor, 'success', 204, id],
        ['getAnalysis', actor, 'refused', 404, id],
      ]),
    );
    expect(entries).toHaveLength(6);
    const posted = entries.find(({ operation }) => operation === 'analyze');
    expect(posted).toMatchObject({
      laboratory: 'lab-trail',
      actorKind: 'key',
      method: 'POST',
      route: '/analyze',
      remote: '10.9.8.7',
      requestId: 'req-1',
    });
    expect(Math.abs(Date.parse(posted?.at ?? '') - begun)).toBeLessThan(60_000);
    // What was looked for is not kept: it may name a specimen.
    expect(JSON.stringify(entries)).not.toContain('AUD-77');
    expect(await trail(headers, `?subjectId=${id}&actorId=${reader.id}`)).toHaveLength(2);
  });

  it('names what people do to results, who reads reports, and who is told', async () => {
    const { id: actor, headers } = await keyOf('lab-acts', 'submit', 'read', 'review', 'admin');
    const request = await analyzeRequest([['images', blob(await picture('png')), 'a.png']], headers);
    const { id } = (await harness.app.inject(request)).json<{ id: string }>();
    await finish(harness, id, { images: 1 });
    const json = { ...headers, 'content-type': 'application/json', 'if-match': '*' };
    const send = (method: 'POST' | 'PATCH', url: string, body: object) =>
      harness.app.inject({ method, url, headers: json, payload: JSON.stringify(body) });
    const created = await send('POST', '/webhook-endpoints', { url: 'https://1.1.1.1/hook' });
    const endpoint = created.json<{ id: string }>().id;
    await send('PATCH', `/webhook-endpoints/${endpoint}`, { description: 'LIS' });
    await harness.app.inject({ method: 'POST', url: `/webhook-endpoints/${endpoint}/secret`, headers });
    await send('PATCH', `/analyses/${id}/cells/0-0`, { reviewer: 'mlopez', class: 'monocyte' });
    await send('POST', `/analyses/${id}/sign`, { reviewer: 'mlopez' });
    await send('POST', `/analyses/${id}/sign`, { reviewer: 'mlopez' });
    for (const name of ['fhir', 'hl7', 'changes', 'deliveries']) {
      await harness.app.inject({ url: `/analyses/${id}/${name}`, headers });
    }
    await harness.app.inject({ method: 'DELETE', url: `/webhook-endpoints/${endpoint}`, headers });

    const entries = (await trail(headers)).map((entry) => [entry.operation, entry.subjectId, entry.status]);
    expect(entries.filter(([operation]) => operation !== 'listAudit').reverse()).toEqual([
      ['analyze', id, 202],
      ['createWebhookEndpoint', endpoint, 201],
      ['updateWebhookEndpoint', endpoint, 200],
      ['rotateWebhookSecret', endpoint, 200],
      ['reviewCell', id, 200],
      ['signAnalysis', id, 200],
      ['signAnalysis', id, 409],
      ['getFhirBundle', id, 200],
      ['getHl7Message', id, 200],
      ['listReviewChanges', id, 200],
      ['listAnalysisDeliveries', id, 200],
      ['deleteWebhookEndpoint', endpoint, 204],
    ]);
    expect((await trail(headers)).every(({ actorId }) => actorId === actor)).toBe(true);
  });

  it('has the entry of a change before its answer', async () => {
    const { headers } = await keyOf('lab-sync', 'submit', 'admin');
    const request = await analyzeRequest([['images', blob(await picture('png')), 'a.png']], headers);
    const { id } = (await harness.app.inject(request)).json<{ id: string }>();
    const { rows } = await harness.database.pool.query('SELECT operation FROM audit_entries WHERE subject_id = $1', [
      id,
    ]);
    expect(rows).toEqual([{ operation: 'analyze' }]);
  });

  it('stores reads within a second or two, and all of them at the end', async () => {
    const own = await startHarness();
    await Promise.all(Array.from({ length: 250 }, () => own.app.inject('/analyses')));
    const count = async () =>
      Number((await own.database.pool.query('SELECT count(*) FROM audit_entries')).rows[0]?.count);
    await expect.poll(count, { timeout: 5_000 }).toBe(250);
    await own.app.inject('/analyses');
    await own.app.close();
    expect(await count()).toBe(251);
    await own.close();
  });

  it('cannot be changed, only purged by age', async () => {
    const { headers } = await keyOf('lab-fixed', 'admin');
    await harness.app.inject({ url: '/keys', headers });
    await harness.app.audit.flush();
    const { pool } = harness.database;
    for (const statement of [
      `UPDATE audit_entries SET outcome = 'success'`,
      'DELETE FROM audit_entries',
      'TRUNCATE audit_entries',
      `WITH gone AS (DELETE FROM audit_entries RETURNING 1) SELECT count(*) FROM gone`,
    ]) {
      await expect(pool.query(statement), statement).rejects.toThrow('append-only');
    }
    const count = async () => Number((await pool.query('SELECT count(*) FROM audit_entries')).rows[0]?.count);
    const before = await count();
    await pool.query(`INSERT INTO audit_entries (id, at, actor_kind, operation, outcome)
      VALUES (gen_random_uuid(), now() - interval '400 days', 'key', 'old', 'success')`);
    expect(await removeAuditOlderThan(harness.database, 365)).toBe(1);
    expect(await count()).toBe(before);
    // The permission ends with its transaction.
    await expect(pool.query('DELETE FROM audit_entries')).rejects.toThrow('append-only');
  });

  it('is seen by the admins of the laboratory, page by page', async () => {
    const { headers } = await keyOf('lab-pages', 'admin');
    const other = await keyOf('lab-pages-2', 'admin');
    for (let n = 0; n < 7; n += 1) await harness.app.inject({ url: '/keys', headers });
    await harness.app.audit.flush();
    const seen: string[] = [];
    let next: string | null = '/audit?limit=3';
    while (next !== null && seen.length < 100) {
      const response: LightMyRequestResponse = await harness.app.inject({ url: next, headers });
      const page = response.json<{ items: AuditEntry[]; links: { next: string | null } }>();
      expect(page.items.length).toBeLessThanOrEqual(3);
      seen.push(...page.items.filter(({ operation }) => operation === 'listKeys').map(({ id }) => id));
      next = page.links.next;
    }
    expect(new Set(seen).size).toBe(7);
    expect((await trail(other.headers)).filter(({ laboratory }) => laboratory !== 'lab-pages-2')).toEqual([]);
    expect((await harness.app.inject({ url: '/audit?cursor=x', headers })).statusCode).toBe(400);
    expect((await harness.app.inject({ url: '/audit?from=yesterday', headers })).statusCode).toBe(400);
    expect(await trail(headers, `?to=${new Date(Date.now() - 3_600_000).toISOString()}`)).toEqual([]);
  });

  it('shows whom nobody knew to the laboratory that runs the service', async () => {
    await harness.app.inject({
      url: '/analyses',
      headers: { authorization: 'Bearer lk_x' },
      remoteAddress: '10.66.0.1',
    });
    const { headers } = await keyOf('default', 'admin');
    const entries = await trail(headers);
    expect(entries.find(({ remote }) => remote === '10.66.0.1')).toMatchObject({
      laboratory: null,
      actorKind: 'none',
      outcome: 'refused',
      status: 401,
    });
    const elsewhere = await keyOf('lab-elsewhere', 'admin');
    expect((await trail(elsewhere.headers)).find(({ remote }) => remote === '10.66.0.1')).toBeUndefined();
  });

  it('is given as FHIR AuditEvents', async () => {
    const { id: actor, headers } = await keyOf('lab-fhir', 'admin', 'read');
    await harness.app.inject({ url: '/analyses/0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e', headers });
    await harness.app.audit.flush();
    const response = await harness.app.inject({ url: '/audit/fhir?limit=1', headers });
    expectContract(harness.app, response, 'get', '/audit/fhir');
    expect(response.headers['content-type']).toMatch(/^application\/fhir\+json/);
    expect(fhirFaults(response.json())).toEqual([]);
    expect(fhirFaults((await harness.app.inject({ url: '/audit/fhir', headers })).json())).toEqual([]);
    expect(response.json()).toMatchObject({
      resourceType: 'Bundle',
      type: 'searchset',
      entry: [
        {
          resource: {
            resourceType: 'AuditEvent',
            action: 'R',
            outcome: '4',
            agent: [{ who: { identifier: { value: actor } }, requestor: true, network: { type: '2' } }],
            entity: [{ what: { identifier: { value: 'urn:uuid:0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e' } } }],
          },
        },
      ],
    });
  });

  it('waits for a database that is away, and loses nothing', async () => {
    const own = await startHarness({}, 'own');
    await own.app.inject('/analyses');
    await own.app.audit.flush();
    await own.database.pool.query('ALTER TABLE audit_entries RENAME TO audit_away');
    await own.app.inject('/analyses');
    await expect(own.app.audit.flush()).rejects.toThrow();
    await own.database.pool.query('ALTER TABLE audit_away RENAME TO audit_entries');
    await own.app.audit.flush();
    const { rows } = await own.database.pool.query('SELECT FROM audit_entries');
    expect(rows).toHaveLength(2);
    await own.close();
  });
});
