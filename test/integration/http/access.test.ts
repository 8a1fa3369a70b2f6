/** Who may: keys, scopes, laboratories, on a real database. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { LightMyRequestResponse } from 'fastify';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { createAnalysis } from '../../../src/storage/analyses.js';
import { type ApiKey, createApiKey, createFirstApiKey, SCOPES, type Scope } from '../../../src/storage/api-keys.js';
import { expectContract } from './contract.js';
import { analyzeRequest, blob, finish, type Harness, picture, startHarness } from './harness.js';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness({ access: 'keys' });
});
afterAll(() => harness.close());

async function keyOf(laboratory: string, ...scopes: Scope[]): Promise<string> {
  const { token } = await createApiKey(harness.database, { laboratory, name: 'test', scopes, createdBy: null });
  return token;
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

function get(url: string, headers: Record<string, string> = {}): Promise<LightMyRequestResponse> {
  return harness.app.inject({ method: 'GET', url, headers });
}

async function stored(laboratory: string): Promise<string> {
  const bytes = await picture('png');
  const images = [{ filename: 'a.png', contentType: 'image/png', bytes, width: 64, height: 48 }];
  const { id } = await createAnalysis(harness.database, laboratory, { images });
  await finish(harness, id, { images: 1 });
  return id;
}

interface Operation {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly operationId: string;
  /** Null: open. */
  readonly scope: Scope | null;
}

/** Every operation of the contract with the scope that it documents. */
function operations(): Operation[] {
  const { paths } = harness.app.swagger() as unknown as {
    paths: Record<string, Record<string, { operationId: string; security: Record<string, Scope[]>[] }>>;
  };
  return Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, { operationId, security }]) => ({
      method: method.toUpperCase() as Operation['method'],
      path,
      operationId,
      scope: security[0]?.['bearer']?.[0] ?? null,
    })),
  );
}

const ADDRESS: Readonly<Record<string, string>> = {
  '{id}': '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e',
  '{index}': '0',
  '{cellId}': '0-1',
};
const addressOf = ({ path }: Operation): string =>
  path.startsWith('/keys')
    ? path.replace('{id}', 'abcdefghijkl')
    : path.replace(/\{\w+\}/g, (name) => ADDRESS[name] ?? '');

describe('every address', () => {
  it('asks for a key, and for the scope that the contract names', async () => {
    const secured = operations().filter(({ scope, operationId }) => scope !== null && operationId !== 'getMetrics');
    expect(secured.length).toBeGreaterThanOrEqual(35);
    for (const operation of secured) {
      const { method, operationId, scope, path } = operation;
      const url = addressOf(operation);
      const without = await harness.app.inject({ method, url });
      expect([operationId, without.statusCode]).toEqual([operationId, 401]);
      expect(without.headers['www-authenticate']).toMatch(/^Bearer realm="leukodiff"$/);
      expectContract(harness.app, without, method.toLowerCase() as 'get', path);
      const others = SCOPES.filter((one) => one !== scope);
      const refused = await harness.app.inject({ method, url, headers: bearer(await keyOf('lab-a', ...others)) });
      expect([operationId, refused.statusCode]).toEqual([operationId, 403]);
      expect(refused.headers['www-authenticate']).toContain(`scope="${scope}"`);
      expectContract(harness.app, refused, method.toLowerCase() as 'get', path);
      if (scope === null) continue;
      const let_in = await harness.app.inject({ method, url, headers: bearer(await keyOf('lab-a', scope)) });
      expect([401, 403, 500]).not.toContain(let_in.statusCode);
    }
  });

  it('is open only where that was meant', () => {
    const open = operations().filter(({ scope }) => scope === null);
    expect(open.map(({ path }) => path).sort()).toEqual(['/', '/health/live', '/health/ready']);
  });
});

describe('credentials', () => {
  it.each([
    ['no scheme', (token: string) => ({ authorization: token })],
    ['another scheme', (token: string) => ({ authorization: `Basic ${Buffer.from(`x:${token}`).toString('base64')}` })],
    ['a changed secret', (token: string) => bearer(`${token.slice(0, -2)}${token.endsWith('AA') ? 'BB' : 'AA'}`)],
    ['another id', (token: string) => bearer(token.replace(/^lk_............/, 'lk_abcdefghijkl'))],
    ['a cut key', (token: string) => bearer(token.slice(0, 30))],
    ['a longer key', (token: string) => bearer(`${token}A`)],
    ['an id alone', (token: string) => bearer(token.slice(0, 16))],
    ['upper case', (token: string) => bearer(token.toUpperCase())],
    ['two keys', (token: string) => bearer(`${token} ${token}`)],
    ['a list', (token: string) => bearer(`${token},${token}`)],
    ['SQL', () => bearer("lk_'or'1'='1_x")],
    ['an empty key', () => ({ 'x-api-key': '' })],
    ['a JWT without an issuer configured', () => bearer('eyJhbGciOiJub25lIn0.e30.')],
    ['a bad Authorization beside a good X-Api-Key', (token: string) => ({ ...bearer('lk_x'), 'x-api-key': token })],
    ['the key in the query', () => ({})],
  ])('refuses %s', async (_name, headersOf) => {
    const token = await keyOf('lab-a', ...SCOPES);
    const response = await get(`/analyses?key=${token}`, headersOf(token));
    expect(response.statusCode).toBe(401);
    expect(response.body).not.toContain(token.slice(16));
    expect(harness.log()).not.toContain(token.slice(16));
  });

  it('takes a key in either header', async () => {
    const token = await keyOf('lab-a', 'read');
    expect((await get('/analyses', bearer(token))).statusCode).toBe(200);
    expect((await get('/analyses', { authorization: `bearer ${token}` })).statusCode).toBe(200);
    expect((await get('/analyses', { 'x-api-key': token })).statusCode).toBe(200);
  });

  it('slows down who tries key after key, and nobody else', async () => {
    const own = await startHarness({ access: 'keys' });
    const { token } = await createApiKey(own.database, {
      laboratory: 'a',
      name: 'x',
      scopes: ['read'],
      createdBy: null,
    });
    const attempts: number[] = [];
    // The clock stands, or a slow machine would be allowed two more for every second.
    vi.useFakeTimers({ toFake: ['Date'] });
    try {
      for (let n = 0; n < 130; n += 1) {
        attempts.push((await own.app.inject({ url: '/analyses', headers: bearer(`lk_${n}`) })).statusCode);
      }
    } finally {
      vi.useRealTimers();
    }
    expect(attempts.filter((status) => status === 401)).toHaveLength(120);
    expect(attempts.at(-1)).toBe(429);
    expect((await own.app.inject({ url: '/analyses', headers: bearer(token) })).statusCode).toBe(200);
    await own.close();
  });

  it('keeps of a key only what does not give it away', async () => {
    const token = await keyOf('lab-a', 'read');
    const { rows } = await harness.database.pool.query<{ row: string }>('SELECT api_keys::text AS row FROM api_keys');
    const secret = token.slice('lk_abcdefghijkl_'.length);
    const all = rows.map(({ row }) => row).join('\n');
    expect(all).not.toContain(secret);
    expect(all).not.toContain(Buffer.from(secret).toString('hex'));
    expect(all).not.toContain(Buffer.from(secret, 'base64url').toString('hex'));
  });

  it('keeps when a key was last used, to the minute', async () => {
    const admin = bearer(await keyOf('lab-used', 'admin'));
    const token = await keyOf('lab-used', 'read');
    const lastUsed = async (): Promise<string | null | undefined> => {
      const { items } = (await get('/keys', admin)).json<{ items: ApiKey[] }>();
      return items.find(({ id }) => token.includes(id))?.lastUsedAt;
    };
    expect(await lastUsed()).toBeNull();
    await get('/analyses', bearer(token));
    await expect.poll(lastUsed).not.toBeNull();
    const first = await lastUsed();
    await get('/analyses', bearer(token));
    await sleep(100);
    expect(await lastUsed()).toBe(first);
  });
});

describe('the first key', () => {
  it('is made once, however many processes start, and has every scope', async () => {
    const own = await startHarness({ access: 'keys' });
    const made = (await Promise.all(Array.from({ length: 8 }, () => createFirstApiKey(own.database)))).filter(
      (one) => one !== null,
    );
    expect(made).toHaveLength(1);
    const [first] = made;
    expect(first?.key).toMatchObject({ laboratory: 'default', scopes: ['submit', 'read', 'review', 'admin'] });
    const use = () => own.app.inject({ url: '/keys', headers: bearer(first?.token ?? '') });
    expect((await use()).statusCode).toBe(200);
    await own.app.inject({ method: 'DELETE', url: `/keys/${first?.key.id}`, headers: bearer(first?.token ?? '') });
    expect((await use()).statusCode).toBe(401);
    // A revoked key is no reason to hand out another.
    expect(await createFirstApiKey(own.database)).toBeNull();
    await own.close();
  });
});

/** What must be among the addresses of one analysis; new ones come in by themselves. */
const OF_ONE_ANALYSIS = [
  'getAnalysis',
  'listCells',
  'reviewCell',
  'signAnalysis',
  'listReviewChanges',
  'getFhirBundle',
  'getHl7Message',
  'listAnalysisDeliveries',
];

/** A good body where the address takes one, so that nothing but the laboratory can be the reason of a refusal. */
function bodyOf({ operationId }: Operation): { payload: string; headers: Record<string, string> } | undefined {
  const bodies: Readonly<Record<string, object>> = {
    reviewCell: { reviewer: 'mlopez', class: 'monocyte' },
    signAnalysis: { reviewer: 'mlopez' },
    updateWebhookEndpoint: { enabled: false, url: 'https://1.1.1.1/theirs' },
  };
  const body = bodies[operationId];
  if (body === undefined) return undefined;
  return { payload: JSON.stringify(body), headers: { 'content-type': 'application/json', 'if-match': '*' } };
}

describe('a laboratory', () => {
  it('never sees or changes what is another one’s', async () => {
    const id = await stored('lab-one');
    const mine = bearer(await keyOf('lab-one', ...SCOPES));
    const theirs = bearer(await keyOf('lab-two', ...SCOPES));
    const paths = operations()
      .filter(({ path, operationId }) => path.startsWith('/analyses/{id}') && operationId !== 'deleteAnalysis')
      .sort((a) => (a.method === 'GET' ? -1 : 1));
    expect(paths.map(({ operationId }) => operationId)).toEqual(expect.arrayContaining([...OF_ONE_ANALYSIS]));
    const before = await get(`/analyses/${id}`, mine);
    for (const operation of paths) {
      const url = operation.path.replace('{id}', id).replace('{index}', '0').replace('{cellId}', '0-0');
      const act = bodyOf(operation);
      const foreign = await harness.app.inject({
        method: operation.method,
        url,
        ...act,
        headers: { ...theirs, ...act?.headers },
      });
      expect([url, foreign.statusCode]).toEqual([url, 404]);
      expect(foreign.json()).toMatchObject({ type: 'https://leukodiff.dev/problems/analysis-not-found' });
      const waiting = await harness.app.inject({
        method: operation.method,
        url,
        ...act,
        headers: { ...theirs, ...act?.headers, prefer: 'wait=1' },
      });
      expect(waiting.statusCode).toBe(404);
    }
    expect((await get(`/analyses/${id}`, mine)).json()).toEqual(before.json());
    expect((await get(`/analyses/${id}/changes`, mine)).json()).toEqual({ items: [] });
    for (const name of ['fhir', 'hl7', 'deliveries']) {
      expect((await get(`/analyses/${id}/${name}`, mine)).statusCode).toBe(200);
    }
    const remove = { method: 'DELETE' as const, url: `/analyses/${id}` };
    expect((await harness.app.inject({ ...remove, headers: theirs })).statusCode).toBe(404);
    // An analysis that never was is answered alike.
    const absent = await get('/analyses/0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e', theirs);
    const foreign = await get(`/analyses/${id}`, theirs);
    const strip = ({ instance: _i, requestId: _r, ...rest }: Record<string, unknown>) => rest;
    expect(strip(foreign.json())).toEqual(strip(absent.json()));

    expect((await get('/analyses', theirs)).json()).toMatchObject({ items: [] });
    const list = (await get('/analyses', mine)).json<{ items: { id: string }[] }>();
    expect(list.items.map((item) => item.id)).toEqual([id]);
    expect((await get(`/analyses/${id}`, mine)).statusCode).toBe(200);
    expect((await harness.app.inject({ ...remove, headers: mine })).statusCode).toBe(204);
  });

  it('neither sees nor changes webhook endpoints and deliveries of another one', async () => {
    const mine = bearer(await keyOf('lab-hooks-one', ...SCOPES));
    const theirs = bearer(await keyOf('lab-hooks-two', ...SCOPES));
    const created = await harness.app.inject({
      method: 'POST',
      url: '/webhook-endpoints',
      headers: { ...mine, 'content-type': 'application/json' },
      payload: JSON.stringify({ url: 'https://1.1.1.1/hook', eventTypes: ['analysis.completed', 'analysis.signed'] }),
    });
    const endpoint = created.json<{ id: string }>();
    const id = await stored('lab-hooks-one');
    await stored('lab-hooks-two');
    const deliveries = await get(`/webhook-endpoints/${endpoint.id}/deliveries`, mine);
    // The event of the own analysis alone.
    expect(deliveries.json()).toMatchObject({ items: [{ analysisId: id, eventType: 'analysis.completed' }] });
    const [delivery] = deliveries.json<{ items: { id: string }[] }>().items;
    const before = await get(`/webhook-endpoints/${endpoint.id}`, mine);

    const addresses = operations().filter(({ path }) => /^\/webhook-(endpoints|deliveries)\/\{id\}/.test(path));
    expect(addresses.map(({ operationId }) => operationId).sort()).toEqual([
      'deleteWebhookEndpoint',
      'getWebhookDelivery',
      'getWebhookEndpoint',
      'listEndpointDeliveries',
      'pingWebhookEndpoint',
      'replayWebhookDelivery',
      'replayWebhookEndpoint',
      'rotateWebhookSecret',
      'updateWebhookEndpoint',
    ]);
    for (const operation of addresses) {
      const one = operation.path.startsWith('/webhook-deliveries') ? delivery?.id : endpoint.id;
      const since = operation.operationId === 'replayWebhookEndpoint' ? '?since=2026-01-01T00:00:00Z' : '';
      const url = `${operation.path.replace('{id}', one ?? '')}${since}`;
      const act = bodyOf(operation);
      const headers = { ...theirs, ...act?.headers };
      const foreign = await harness.app.inject({ method: operation.method, url, ...act, headers });
      expect([url, foreign.statusCode]).toEqual([url, 404]);
      expect(foreign.json()).toMatchObject({ type: expect.stringMatching(/(endpoint|delivery)-not-found$/) });
    }
    expect((await get('/webhook-endpoints', theirs)).json()).toEqual({ items: [] });
    expect((await get(`/webhook-endpoints/${endpoint.id}`, mine)).json()).toEqual(before.json());
    expect((await get(`/webhook-endpoints/${endpoint.id}/deliveries`, mine)).json()).toEqual(deliveries.json());

    // A signature is told to the laboratory that the analysis belongs to.
    const act = bodyOf({ operationId: 'reviewCell' } as Operation);
    const cell = { method: 'PATCH' as const, url: `/analyses/${id}/cells/0-0`, ...act };
    expect((await harness.app.inject({ ...cell, headers: { ...mine, ...act?.headers } })).statusCode).toBe(200);
    const signature = bodyOf({ operationId: 'signAnalysis' } as Operation);
    const sign = { method: 'POST' as const, url: `/analyses/${id}/sign`, ...signature };
    expect((await harness.app.inject({ ...sign, headers: { ...mine, ...signature?.headers } })).statusCode).toBe(200);
    expect((await get(`/webhook-endpoints/${endpoint.id}/deliveries`, mine)).json()).toMatchObject({
      items: [{ analysisId: id, eventType: 'analysis.signed' }, { eventType: 'analysis.completed' }],
    });
  });

  it('is what an order belongs to', async () => {
    const mine = bearer(await keyOf('lab-posts', 'submit', 'read'));
    const request = await analyzeRequest([['images', blob(await picture('png')), 'a.png']], mine);
    const accepted = await harness.app.inject(request);
    expect(accepted.statusCode).toBe(202);
    const { id } = accepted.json<{ id: string }>();
    expect((await get(`/analyses/${id}`, mine)).statusCode).toBe(200);
    expect((await get(`/analyses/${id}`, bearer(await keyOf('lab-other', 'read')))).statusCode).toBe(404);
  });
});

describe('/keys', () => {
  const json = { 'content-type': 'application/json' };

  function send(method: 'POST' | 'DELETE', url: string, headers: Record<string, string>, payload?: string) {
    return harness.app.inject({ method, url, headers, ...(payload === undefined ? {} : { payload }) });
  }

  it('makes, lists, rotates and revokes the keys of its own laboratory', async () => {
    const admin = bearer(await keyOf('lab-keys', 'admin'));
    const body = JSON.stringify({ name: 'LIS', scopes: ['submit', 'read'], expiresInDays: 30 });
    const created = await send('POST', '/keys', { ...admin, ...json }, body);
    expectContract(harness.app, created, 'post', '/keys');
    expect(created.statusCode).toBe(201);
    const { key, token } = created.json<{ key: ApiKey; token: string }>();
    expect(key).toMatchObject({ laboratory: 'lab-keys', name: 'LIS', scopes: ['submit', 'read'], lastUsedAt: null });
    expect(Date.parse(key.expiresAt ?? '') - Date.now()).toBeGreaterThan(29 * 86_400_000);
    expect(created.headers['location']).toBe(`/keys/${key.id}`);
    expect(created.headers['cache-control']).toBe('no-store');
    expect((await get('/analyses', bearer(token))).statusCode).toBe(200);

    const listed = await get('/keys', admin);
    expectContract(harness.app, listed, 'get', '/keys');
    expect(listed.body).toContain(key.id);
    expect(listed.body).not.toContain(token);
    expect(listed.body).not.toContain('secretHash');
    expectContract(harness.app, await get(`/keys/${key.id}`, admin), 'get', '/keys/{id}');

    const rotated = await send('POST', `/keys/${key.id}/rotate?overlapSeconds=1`, admin);
    expectContract(harness.app, rotated, 'post', '/keys/{id}/rotate');
    const next = rotated.json<{ key: ApiKey; token: string }>();
    expect(next.key).toMatchObject({ name: 'LIS', scopes: ['submit', 'read'], laboratory: 'lab-keys' });
    expect((await get('/analyses', bearer(token))).statusCode).toBe(200);
    expect((await get('/analyses', bearer(next.token))).statusCode).toBe(200);
    await sleep(1_200);
    expect((await get('/analyses', bearer(token))).statusCode).toBe(401);
    expect((await send('POST', `/keys/${key.id}/rotate`, admin)).statusCode).toBe(409);

    expect((await send('DELETE', `/keys/${next.key.id}`, admin)).statusCode).toBe(204);
    const refused = await get('/analyses', bearer(next.token));
    expect(refused.statusCode).toBe(401);
    expect(refused.json()).toMatchObject({ detail: expect.stringContaining('revoked') });
    expect((await send('DELETE', `/keys/${next.key.id}`, admin)).statusCode).toBe(204);
  });

  it('neither shows nor changes keys of another laboratory', async () => {
    const token = await keyOf('lab-keys-a', 'read');
    const id = token.slice(3, 15);
    const stranger = bearer(await keyOf('lab-keys-b', 'admin'));
    expect((await get('/keys', stranger)).body).not.toContain(id);
    expect((await get(`/keys/${id}`, stranger)).statusCode).toBe(404);
    expect((await send('POST', `/keys/${id}/rotate`, stranger)).statusCode).toBe(404);
    expect((await send('DELETE', `/keys/${id}`, stranger)).statusCode).toBe(404);
    expect((await get('/analyses', bearer(token))).statusCode).toBe(200);
  });

  it.each([
    ['not JSON', '{', 400],
    ['nothing', '', 400],
    ['a list', '[]', 422],
    ['no scopes', '{"name":"x","scopes":[]}', 422],
    ['an unknown scope', '{"name":"x","scopes":["root"]}', 422],
    ['another laboratory', '{"name":"x","scopes":["read"],"laboratory":"lab-b"}', 422],
    ['a name with a line break', '{"name":"a\\nb","scopes":["read"]}', 422],
    ['a long name', JSON.stringify({ name: 'x'.repeat(101), scopes: ['read'] }), 422],
    ['an age of nothing', '{"name":"x","scopes":["read"],"expiresInDays":0}', 422],
    ['a prototype', '{"__proto__":{"x":1},"name":"x","scopes":["read"]}', 400],
    ['too much', JSON.stringify({ name: 'x'.repeat(70_000), scopes: ['read'] }), 413],
  ])('refuses %s', async (_name, payload, status) => {
    const admin = bearer(await keyOf('lab-keys', 'admin'));
    const response = await send('POST', '/keys', { ...admin, ...json }, payload);
    expect(response.statusCode).toBe(status);
    expectContract(harness.app, response, 'post', '/keys');
  });

  it('reads JSON alone', async () => {
    const admin = bearer(await keyOf('lab-keys', 'admin'));
    const form = { ...admin, 'content-type': 'application/x-www-form-urlencoded' };
    expect((await send('POST', '/keys', form, 'name=x&scopes=read')).statusCode).toBe(415);
  });
});

describe('/metrics', () => {
  const at = (remoteAddress: string, headers: Record<string, string> = {}) =>
    harness.app.inject({ url: '/metrics', remoteAddress, headers });

  it('is open on the machine itself, and asks everybody else', async () => {
    expect((await at('127.0.0.1')).statusCode).toBe(200);
    expect((await at('::1')).statusCode).toBe(200);
    expect((await at('::ffff:127.0.0.1')).statusCode).toBe(200);
    expect((await at('10.1.2.3')).statusCode).toBe(401);
    // A proxy on the machine speaks for somebody else.
    expect((await at('127.0.0.1', { 'x-forwarded-for': '10.1.2.3' })).statusCode).toBe(401);
    expect((await at('10.1.2.3', bearer(await keyOf('lab-a', 'read')))).statusCode).toBe(403);
    expect((await at('10.1.2.3', bearer(await keyOf('lab-a', 'admin')))).statusCode).toBe(200);
  });

  it('takes the scraper’s own token', async () => {
    const metricsToken = 'm'.repeat(32);
    const own = await startHarness({ access: 'keys', metricsToken });
    const ask = (token: string) =>
      own.app.inject({ url: '/metrics', remoteAddress: '10.1.2.3', headers: bearer(token) });
    expect((await ask(metricsToken)).statusCode).toBe(200);
    expect((await ask(`${metricsToken}m`)).statusCode).toBe(401);
    expect((await own.app.inject({ url: '/analyses', headers: bearer(metricsToken) })).statusCode).toBe(401);
    await own.close();
  });
});
