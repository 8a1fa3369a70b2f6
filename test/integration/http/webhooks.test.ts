/** Registering receivers and reading what became of deliveries; nobody works on the queue here. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { MAX_ENDPOINTS } from '../../../src/storage/webhook-endpoints.js';
import { atPort, PUBLIC, REFUSED_URLS } from '../../support/hostile-addresses.js';
import { WEBHOOK_CONFIG } from '../../support/webhooks.js';
import { expectContract } from './contract.js';
import { blob, finish, type Harness, picture, post, startHarness } from './harness.js';

const ABSENT = '01890000-0000-7000-8000-000000000000';
const URL_1 = 'https://1.1.1.1/hook';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.close());
afterEach(async () => {
  await harness.database.pool.query('DELETE FROM webhook_endpoints');
});

type Method = 'get' | 'post' | 'patch' | 'delete';
/** Answers with the response, after holding it against the contract. */
async function call(method: Method, url: string, pattern: string, body?: unknown) {
  const payload = body === undefined ? {} : { payload: body as object };
  const upper = method.toUpperCase() as 'GET';
  const response = await harness.app.inject({ method: upper, url, ...payload });
  expectContract(harness.app, response, method, pattern);
  return response;
}
const create = (body: unknown) => call('post', '/webhook-endpoints', '/webhook-endpoints', body);
const read = (id: string) => call('get', `/webhook-endpoints/${id}`, '/webhook-endpoints/{id}');
const change = (id: string, body: unknown) =>
  call('patch', `/webhook-endpoints/${id}`, '/webhook-endpoints/{id}', body);
const slugOf = (response: { json(): { type: string } }) => response.json().type.split('/').at(-1);

describe('an endpoint', () => {
  it('is registered for all events, and shows its secret once', async () => {
    const response = await create({ url: URL_1 });
    expect(response.statusCode).toBe(201);
    const created = response.json();
    expect(created).toMatchObject({
      url: URL_1,
      enabled: true,
      eventTypes: ['analysis.completed', 'analysis.failed', 'analysis.review_required', 'analysis.signed'],
    });
    expect(created.secret).toMatch(/^whsec_/);
    expect(response.headers.location).toBe(`/webhook-endpoints/${created.id}`);
    expect(response.headers['cache-control']).toBe('no-store');
    const { secret, ...rest } = created;
    expect((await read(created.id)).json()).toEqual(rest);
    expect((await call('get', '/webhook-endpoints', '/webhook-endpoints')).json()).toEqual({ items: [rest] });
    // Neither the log nor the database knows it.
    expect(harness.log()).not.toContain(secret);
    const { rows } = await harness.database.pool.query('SELECT * FROM webhook_endpoints');
    expect(rows).toHaveLength(1);
    const [{ secret: sealed }] = rows as [{ secret: Buffer }];
    expect(sealed.toString('latin1')).not.toContain(secret.slice(6));
    expect(sealed.includes(Buffer.from(secret.slice(6), 'base64'))).toBe(false);
  });

  it('is changed, disabled, enabled and deleted', async () => {
    const { id } = (await create({ url: URL_1, description: 'LIS', eventTypes: ['analysis.failed'] })).json();
    const changed = await change(id, { url: 'https://8.8.8.8/', eventTypes: ['analysis.signed'], description: '' });
    expect(changed.json()).toMatchObject({
      url: 'https://8.8.8.8/',
      eventTypes: ['analysis.signed'],
      description: null,
    });
    expect((await change(id, { enabled: false })).json()).toMatchObject({
      enabled: false,
      disabledReason: 'requested',
      eventTypes: ['analysis.signed'],
    });
    expect((await change(id, { enabled: true })).json()).toMatchObject({ enabled: true, disabledReason: null });
    expect((await change(id, {})).statusCode).toBe(200);
    const removal = () => call('delete', `/webhook-endpoints/${id}`, '/webhook-endpoints/{id}');
    expect((await removal()).statusCode).toBe(204);
    expect((await removal()).statusCode).toBe(404);
    expect((await read(id)).statusCode).toBe(404);
  });

  it('gets another secret, with an overlap', async () => {
    const { id, secret } = (await create({ url: URL_1 })).json();
    const rotate = (query = '') =>
      call('post', `/webhook-endpoints/${id}/secret${query}`, '/webhook-endpoints/{id}/secret');
    const first = (await rotate()).json();
    expect(first.secret).not.toBe(secret);
    const hours = (Date.parse(first.previousSecretUntil) - Date.now()) / 3_600_000;
    expect(hours).toBeGreaterThan(23.9);
    expect(hours).toBeLessThan(24.1);
    expect((await rotate('?overlapSeconds=0')).json()).toMatchObject({ previousSecretUntil: null });
    expect((await rotate('?overlapSeconds=604801')).statusCode).toBe(400);
    expect((await read(id)).json().secret).toBeUndefined();
  });

  it.each([
    ['not JSON', '{', 400, 'malformed-json'],
    ['an array', '[]', 422, 'invalid-fields'],
    ['no address', '{}', 422, 'invalid-fields'],
    ['an unknown field', `{"url":"${URL_1}","secret":"whsec_mine"}`, 422, 'invalid-fields'],
    ['an unknown event', `{"url":"${URL_1}","eventTypes":["analysis.other"]}`, 422, 'invalid-fields'],
    ['no event', `{"url":"${URL_1}","eventTypes":[]}`, 422, 'invalid-fields'],
    [
      'the same event twice',
      `{"url":"${URL_1}","eventTypes":["analysis.failed","analysis.failed"]}`,
      422,
      'invalid-fields',
    ],
    ['an address that is too long', `{"url":"https://1.1.1.1/${'x'.repeat(2048)}"}`, 422, 'invalid-fields'],
    ['a description with a line break', `{"url":"${URL_1}","description":"a\\nb"}`, 422, 'invalid-fields'],
    ['another prototype', `{"url":"${URL_1}","__proto__":{"enabled":false}}`, 400, 'malformed-json'],
    ['nothing', '', 400, 'malformed-json'],
    ['a host that does not exist', '{"url":"https://no-such-host.invalid/"}', 422, 'invalid-fields'],
    [
      'more than a body may have',
      JSON.stringify({ url: URL_1, description: 'x'.repeat(70_000) }),
      413,
      'request-too-large',
    ],
  ])('is refused with %s', async (_what, payload, status, slug) => {
    const headers = { 'content-type': 'application/json' };
    const response = await harness.app.inject({ method: 'POST', url: '/webhook-endpoints', headers, payload });
    expectContract(harness.app, response, 'post', '/webhook-endpoints');
    expect([response.statusCode, slugOf(response)]).toEqual([status, slug]);
  });

  it('is refused in another media type, and without a body', async () => {
    const headers = { 'content-type': 'text/xml' };
    const response = await harness.app.inject({
      method: 'POST',
      url: '/webhook-endpoints',
      headers,
      payload: '<url/>',
    });
    expectContract(harness.app, response, 'post', '/webhook-endpoints');
    expect(response.statusCode).toBe(415);
    expect((await create(undefined)).statusCode).toBe(422);
  });

  it('is one of a bounded number', async () => {
    await harness.database.pool.query(
      `INSERT INTO webhook_endpoints (id, url, event_types, secret)
       SELECT gen_random_uuid(), 'https://1.1.1.1/', '{analysis.failed}', '\\x00' FROM generate_series(1, $1)`,
      [MAX_ENDPOINTS],
    );
    const response = await create({ url: URL_1 });
    expect([response.statusCode, slugOf(response)]).toEqual([409, 'too-many-endpoints']);
  });

  it('of another laboratory does not exist', async () => {
    const { id } = (await create({ url: URL_1 })).json();
    await harness.database.pool.query(`UPDATE webhook_endpoints SET laboratory = 'other'`);
    const endpoint = `/webhook-endpoints/${id}`;
    for (const response of [
      await read(id),
      await change(id, { enabled: false }),
      await call('delete', endpoint, '/webhook-endpoints/{id}'),
      await call('post', `${endpoint}/secret`, '/webhook-endpoints/{id}/secret'),
      await call('post', `${endpoint}/ping`, '/webhook-endpoints/{id}/ping'),
      await call('get', `${endpoint}/deliveries`, '/webhook-endpoints/{id}/deliveries'),
      await call('post', `${endpoint}/replay?since=2026-01-01T00:00:00Z`, '/webhook-endpoints/{id}/replay'),
    ]) {
      expect([response.statusCode, slugOf(response)]).toEqual([404, 'webhook-endpoint-not-found']);
    }
    expect((await call('get', '/webhook-endpoints', '/webhook-endpoints')).json()).toEqual({ items: [] });
  });
});

describe('an address that leads inwards', () => {
  it('is refused when it is registered, and when an endpoint is moved there', async () => {
    const { id } = (await create({ url: URL_1 })).json();
    for (const url of REFUSED_URLS.map((one) => atPort(one, 8080))) {
      for (const response of [await create({ url }), await change(id, { url })]) {
        expect([response.statusCode, slugOf(response)], url).toEqual([422, 'invalid-fields']);
        expect(response.json().errors, url).toMatchObject([{ field: 'url' }]);
      }
    }
    expect((await read(id)).json().url).toBe(URL_1);
  });

  it('is refused as callback address of an order, with the other faults of the form', async () => {
    const png = await picture('png');
    for (const url of REFUSED_URLS.map((one) => atPort(one, 8080))) {
      const response = await post(harness.app, [
        ['images', blob(png), 'a.png'],
        ['callbackUrl', url],
        ['targetCells', '0'],
      ]);
      expectContract(harness.app, response, 'post', '/analyze');
      expect([response.statusCode, slugOf(response)], url).toEqual([422, 'invalid-fields']);
      const fields = response.json().errors.map(({ field }: { field: string }) => field);
      expect(fields.sort(), url).toEqual(['callbackUrl', 'targetCells']);
    }
    expect(await harness.analysesStored()).toBe(0);
  });

  it('is accepted where its network is listed; a public one always', async () => {
    for (const url of PUBLIC) expect((await create({ url })).statusCode, url).toBe(201);
    const own = await startHarness(WEBHOOK_CONFIG);
    try {
      for (const url of ['http://127.0.0.1:8080/', 'http://localhost:8080/hook', 'http://[::1]:8080/']) {
        const response = await own.app.inject({ method: 'POST', url: '/webhook-endpoints', payload: { url } });
        expect(response.statusCode, url).toBe(201);
      }
      const refused = { url: 'http://10.0.0.1:8080/' };
      const response = await own.app.inject({ method: 'POST', url: '/webhook-endpoints', payload: refused });
      expect(response.statusCode).toBe(422);
    } finally {
      await own.close();
    }
  });
});

describe('the delivery log', () => {
  async function analysed(order: readonly (readonly [string, string])[] = []): Promise<string> {
    const png = await picture('png');
    const { id } = (await post(harness.app, [['images', blob(png), 'a.png'], ...order])).json();
    await finish(harness, id, { images: 1 });
    return id;
  }

  it('lists the deliveries of an endpoint and of an analysis, in pages', async () => {
    const { id: endpointId } = (await create({ url: URL_1, eventTypes: ['analysis.completed'] })).json();
    const ids: string[] = [];
    for (let n = 0; n < 3; n++) ids.push(await analysed([['callbackUrl', 'https://lis.example/hook']]));
    const path = `/webhook-endpoints/${endpointId}/deliveries`;
    const pattern = '/webhook-endpoints/{id}/deliveries';
    const first = (await call('get', `${path}?limit=2`, pattern)).json();
    expect(first.items.map((item: { analysisId: string }) => item.analysisId)).toEqual([ids[2], ids[1]]);
    const second = (await call('get', first.links.next, pattern)).json();
    expect(second.items.map((item: { analysisId: string }) => item.analysisId)).toEqual([ids[0]]);
    expect(second.links.next).toBeNull();
    expect((await call('get', `${path}?status=delivered`, pattern)).json().items).toEqual([]);
    expect((await call('get', `${path}?status=lost`, pattern)).statusCode).toBe(400);

    const both = (await call('get', `/analyses/${ids[0]}/deliveries`, '/analyses/{id}/deliveries')).json();
    expect(both.items.map((item: { endpointId: string | null }) => item.endpointId).sort()).toEqual(
      [endpointId, null].sort(),
    );
    const none = await call('get', `/analyses/${ABSENT}/deliveries`, '/analyses/{id}/deliveries');
    expect(none.statusCode).toBe(404);

    const [{ id, links }] = first.items;
    expect(links.self).toBe(`/webhook-deliveries/${id}`);
    expect((await call('get', links.self, '/webhook-deliveries/{id}')).json()).toMatchObject({
      id,
      messageId: `msg_${id}`,
      eventType: 'analysis.completed',
      status: 'pending',
      attempts: 0,
      attemptLog: [],
    });
  });

  it('replays one delivery, and what an endpoint has missed', async () => {
    const { id: endpointId } = (await create({ url: URL_1, eventTypes: ['analysis.completed'] })).json();
    await analysed();
    await analysed();
    await harness.database.pool.query(
      `UPDATE deliveries SET status = 'failed', attempts = 10, next_attempt_at = NULL WHERE endpoint_id = $1`,
      [endpointId],
    );
    const log = (
      await call('get', `/webhook-endpoints/${endpointId}/deliveries`, '/webhook-endpoints/{id}/deliveries')
    ).json();
    const replayOne = () =>
      call('post', `/webhook-deliveries/${log.items[0].id}/replay`, '/webhook-deliveries/{id}/replay');
    const replayAll = (since: string) =>
      call('post', `/webhook-endpoints/${endpointId}/replay?since=${since}`, '/webhook-endpoints/{id}/replay');
    await change(endpointId, { enabled: false });
    for (const response of [await replayOne(), await replayAll('2026-01-01T00:00:00Z')]) {
      expect([response.statusCode, slugOf(response)]).toEqual([409, 'endpoint-disabled']);
    }
    await change(endpointId, { enabled: true });
    const one = await replayOne();
    expect(one.statusCode).toBe(202);
    expect(one.json()).toMatchObject({ status: 'pending', attempts: 0 });
    expect((await replayAll('2100-01-01T00:00:00Z')).json()).toEqual({ replayed: 0, more: false });
    const all = await replayAll('2026-01-01T00:00:00%2B01:00');
    expect([all.statusCode, all.json()]).toEqual([202, { replayed: 1, more: false }]);
    expect((await replayAll('yesterday')).statusCode).toBe(400);
    expect(
      (await call('post', `/webhook-endpoints/${endpointId}/replay`, '/webhook-endpoints/{id}/replay')).statusCode,
    ).toBe(400);
    const absent = await call('post', `/webhook-deliveries/${ABSENT}/replay`, '/webhook-deliveries/{id}/replay');
    expect([absent.statusCode, slugOf(absent)]).toEqual([404, 'delivery-not-found']);
    const counts = await harness.queues.counts();
    expect(Object.values(counts['leukodiff-deliveries']).reduce((sum, n) => sum + n, 0)).toBeGreaterThanOrEqual(2);
  });

  it('shows a ping, which waits for a worker', async () => {
    const { id } = (await create({ url: URL_1 })).json();
    const response = await call('post', `/webhook-endpoints/${id}/ping`, '/webhook-endpoints/{id}/ping');
    expect(response.statusCode).toBe(202);
    const delivery = response.json();
    expect(delivery).toMatchObject({ eventType: 'webhook.ping', analysisId: null, endpointId: id, status: 'pending' });
    expect(response.headers.location).toBe(`/webhook-deliveries/${delivery.id}`);
    expect((await call('get', `/webhook-deliveries/${delivery.id}`, '/webhook-deliveries/{id}')).json()).toEqual(
      delivery,
    );
    await harness.database.pool.query(`UPDATE deliveries SET laboratory = 'other'`);
    expect((await call('get', `/webhook-deliveries/${delivery.id}`, '/webhook-deliveries/{id}')).statusCode).toBe(404);
  });
});
