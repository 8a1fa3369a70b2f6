/** Everything around the analyses: health, metrics, documentation, problems of any address. */
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PROBLEMS } from '../../../src/http/problems.js';
import { analysisEvent, pingEvent, WEBHOOK_EVENT_TYPES } from '../../../src/reporting/webhook-event.js';
import { expectContract, expectSchema } from './contract.js';
import { blob, type Harness, picture, post, startHarness } from './harness.js';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.close());

const get = (url: string, headers: Record<string, string> = {}) => harness.app.inject({ url, headers });

describe('health', () => {
  it('is alive', async () => {
    const response = await get('/health/live');
    expectContract(harness.app, response, 'get', '/health/live');
    expect(response.json()).toEqual({ status: 'alive' });
  });

  it('is ready while every check passes, and says what does not', async () => {
    const checks = [
      { name: 'database', ok: true, detail: 'answers in 1 ms' },
      { name: 'model', ok: true, detail: 'sg-cldff 1.0.0 on cpu' },
    ];
    harness.setReadiness(checks);
    const ready = await get('/health/ready');
    expectContract(harness.app, ready, 'get', '/health/ready');
    expect(ready.json()).toEqual({ status: 'ready', checks });

    harness.setReadiness([...checks, { name: 'queue', ok: false, detail: 'Redis does not answer' }]);
    const notReady = await get('/health/ready');
    expect(notReady.statusCode).toBe(503);
    expectContract(harness.app, notReady, 'get', '/health/ready');
    expect(notReady.json().errors).toEqual([{ field: 'queue', detail: 'Redis does not answer' }]);
    harness.setReadiness(checks);
  });
});

describe('metrics', () => {
  it('counts requests by route and never by address', async () => {
    await get('/analyses?accessionNumber=SECRET-7');
    await get('/nowhere/SECRET-8');
    const response = await get('/metrics');
    expectContract(harness.app, response, 'get', '/metrics');
    expect(response.body).toMatch(
      /leukodiff_http_request_duration_seconds_count\{method="GET",route="\/analyses",status="200"\} \d+/,
    );
    expect(response.body).toMatch(/route="\(none\)",status="404"/);
    expect(response.body).not.toContain('SECRET');
  });
});

describe('logs', () => {
  it('hold one line a request, with the pattern of the address and the request id', async () => {
    await get('/analyses?accessionNumber=SECRET-9', { 'x-request-id': 'trace-me-1' });
    await sleep(20);
    const line = harness
      .log()
      .split('\n')
      .filter((text) => text.includes('trace-me-1'));
    expect(line).toHaveLength(1);
    expect(JSON.parse(line[0] ?? '')).toMatchObject({
      reqId: 'trace-me-1',
      route: '/analyses',
      status: 200,
      method: 'GET',
    });
    expect(harness.log()).not.toContain('SECRET');
  });
});

describe('request ids', () => {
  it('are taken over where they can do no harm', async () => {
    expect((await get('/health/live', { 'x-request-id': 'lis-1.2_3' })).headers['x-request-id']).toBe('lis-1.2_3');
    for (const hostile of ['a b', 'x'.repeat(65), '<script>', '']) {
      expect((await get('/health/live', { 'x-request-id': hostile })).headers['x-request-id']).toMatch(
        /^[0-9a-f-]{36}$/,
      );
    }
  });
});

describe('addresses and methods', () => {
  it.each([
    ['GET', '/nowhere', 404, 'not-found'],
    ['POST', '/nowhere', 404, 'not-found'],
    ['PUT', '/analyses/', 405, 'method-not-allowed'],
    ['GET', '//analyses', 404, 'not-found'],
    ['GET', '/analyze', 405, 'method-not-allowed'],
    ['PUT', '/analyze', 405, 'method-not-allowed'],
    ['OPTIONS', '/analyze', 405, 'method-not-allowed'],
    ['POST', '/analyses', 405, 'method-not-allowed'],
    ['PATCH', '/analyses/0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e', 405, 'method-not-allowed'],
    ['DELETE', '/analyses/0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e/cells', 405, 'method-not-allowed'],
  ] as const)('%s %s: %i', async (method, url, status, slug) => {
    const response = await harness.app.inject({ method, url });
    expect(response.statusCode).toBe(status);
    expect(response.headers['content-type']).toMatch(/^application\/problem\+json/);
    expect(response.json()).toMatchObject({ type: `https://leukodiff.dev/problems/${slug}`, status });
  });

  it('names the methods that an address takes', async () => {
    expect((await harness.app.inject({ method: 'PUT', url: '/analyze' })).headers.allow).toBe('POST');
    const id = '/analyses/0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e';
    expect((await harness.app.inject({ method: 'PUT', url: id })).headers.allow).toBe('DELETE, GET, HEAD');
  });

  it('answers HEAD like GET, without a body', async () => {
    const response = await harness.app.inject({ method: 'HEAD', url: '/health/live' });
    expect(response.statusCode).toBe(200);
    expect(response.body).toBe('');
  });

  it.each(['text/html', 'application/xml', 'application/json;q=0'])('refuses Accept: %s for JSON', async (accept) => {
    const response = await get('/analyses', { accept });
    expect(response.statusCode).toBe(406);
    expectContract(harness.app, response, 'get', '/analyses');
    expect(response.json().detail).toContain('application/json');
  });

  it('does not read an upload whose answer the client would not take', async () => {
    const png = await picture('png');
    const response = await post(harness.app, [['images', blob(png), 'a.png']], { accept: 'application/xml' });
    expect(response.statusCode).toBe(406);
    expect(await harness.analysesStored()).toBe(0);
  });

  it('takes the Accept header of a browser', async () => {
    const accept = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8';
    expect((await get('/analyses', { accept })).statusCode).toBe(200);
  });
});

describe('documentation', () => {
  it('greets at the root, and sends browsers to the documentation', async () => {
    const response = await get('/');
    expectContract(harness.app, response, 'get', '/');
    for (const link of Object.values(response.json().links as Record<string, string>)) {
      expect((await get(link)).statusCode, link).not.toBe(404);
    }
    const browser = await get('/', { accept: 'text/html,*/*;q=0.8' });
    expect(browser.statusCode).toBe(302);
    expect(browser.headers.location).toBe('/docs');
  });

  it('serves the documentation pages from the package alone', async () => {
    const page = await get('/docs', { accept: 'text/html' });
    expect(page.statusCode).toBe(200);
    expect(page.headers['content-security-policy']).toBeDefined();
    const references = [...page.body.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1] ?? '');
    expect(references.length).toBeGreaterThan(3);
    for (const reference of references) {
      expect(reference).not.toMatch(/^(https?:)?\/\//);
      const response = await get(new URL(reference, 'http://x/docs').pathname);
      expect(response.statusCode, reference).toBe(200);
    }
  });

  it('serves the contract', async () => {
    const response = await get('/openapi.json');
    expect(response.json()).toMatchObject({ openapi: '3.1.0', info: { title: 'Leukodiff' } });
    const paths = Object.keys(response.json().paths);
    expect(paths).toEqual(
      expect.arrayContaining([
        '/analyze',
        '/analyses',
        '/analyses/{id}',
        '/analyses/{id}/cells',
        '/analyses/{id}/images/{index}/original',
        '/analyses/{id}/images/{index}/mask.png',
        '/analyses/{id}/images/{index}/overlay.png',
        '/analyses/{id}/images/{index}/saliency.png',
        '/analyses/{id}/cells/{cellId}/crop.png',
        '/analyses/{id}/cells/{cellId}/mask.png',
        '/analyses/{id}/cells/{cellId}/cam.png',
        '/health/live',
        '/health/ready',
        '/metrics',
      ]),
    );
  });

  it('describes the events that are sent', async () => {
    const { webhooks } = (await get('/openapi.json')).json();
    expect(Object.keys(webhooks)).toEqual([...WEBHOOK_EVENT_TYPES, 'webhook.ping']);
    const schemaOf = (name: string) => webhooks[name].post.requestBody.content['application/json'].schema;
    const analysis = {
      id: '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e',
      status: 'failed',
      accessionNumber: 'A',
      specimenId: null,
      orderId: null,
      completedAt: '2026-11-20T10:00:00.000Z',
      differential: null,
      review: null,
    };
    for (const type of WEBHOOK_EVENT_TYPES) {
      const event = analysisEvent(analysis, type, analysis.completedAt);
      expectSchema(harness.app, schemaOf(type), event);
      expect(() => expectSchema(harness.app, schemaOf(type), { ...event, type: 'analysis.other' })).toThrow();
    }
    expectSchema(harness.app, schemaOf('webhook.ping'), pingEvent(analysis.id, analysis.completedAt));
  });

  it('documents every problem of the table', async () => {
    const { examples } = (await get('/openapi.json')).json().components;
    const undocumented = Object.keys(PROBLEMS).filter((slug) => !(slug in examples));
    // These two belong to addresses and methods that do not exist, which no document can list.
    expect(undocumented).toEqual(['not-found', 'method-not-allowed']);
  });
});

describe('what a killed process left in the spool folder', () => {
  it('is removed when it is old and nobody owns it', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'leukodiff-spool-'));
    const spool = join(dataDir, 'spool');
    const old = new Date(Date.now() - 2 * 24 * 60 * 60 * 1000);
    // No process has the largest number that Linux can give.
    const folders = { gone: '4194304-a', young: '4194304-b', running: `${process.pid}-c` };
    for (const [kind, name] of Object.entries(folders)) {
      await mkdir(join(spool, name, 'upload-x'), { recursive: true });
      await writeFile(join(spool, name, 'upload-x', '0'), 'image');
      if (kind !== 'young') await utimes(join(spool, name), old, old);
    }
    const other = await startHarness({ dataDir });
    try {
      expect((await readdir(spool)).filter((name) => Object.values(folders).includes(name)).sort()).toEqual(
        [folders.young, folders.running].sort(),
      );
    } finally {
      await other.close();
      await rm(dataDir, { recursive: true });
    }
  });
});

describe('bodies that nobody asked for', () => {
  it('do not matter', async () => {
    const url = '/analyses/0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e';
    for (const contentType of ['application/json', 'text/plain', 'image/png']) {
      const headers = { 'content-type': contentType };
      const response = await harness.app.inject({ method: 'DELETE', url, headers, payload: '{' });
      expect(response.statusCode).toBe(404);
      expectContract(harness.app, response, 'delete', '/analyses/{id}');
    }
  });
});

describe('failures', () => {
  it('tells nothing of an unexpected failure but its request id', async () => {
    const { app, database } = harness;
    const original = database.pool.query;
    Object.assign(database.pool, { query: () => Promise.reject(new Error('relation "secret_table" does not exist')) });
    try {
      const response = await app.inject('/analyses/0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e');
      expect(response.statusCode).toBe(500);
      expectContract(app, response, 'get', '/analyses/{id}');
      expect(response.body).not.toContain('secret_table');
      expect(response.body).not.toContain('.ts');
      expect(response.json().requestId).toBe(response.headers['x-request-id']);
      expect(harness.log()).toContain('request failed unexpectedly');
      expect(harness.log()).toContain(response.json().requestId);
    } finally {
      Object.assign(database.pool, { query: original });
    }
  });

  it('answers 503 with Retry-After while the database is away', async () => {
    const own = await startHarness({}, 'own');
    try {
      const [pid] = (await readFile(join(own.config.dataDir, 'postgres', 'postmaster.pid'), 'utf8')).split('\n');
      // The server that this harness started: a fast shutdown, as on a restart of the machine that has it.
      process.kill(Number(pid), 'SIGINT');
      while (
        await own.database.ping().then(
          () => true,
          () => false,
        )
      ) {
        await sleep(20);
      }
      const png = await picture('png');
      for (const response of [
        await own.app.inject('/analyses/0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e'),
        await own.app.inject('/analyses'),
        await post(own.app, [['images', blob(png), 'a.png']]),
      ]) {
        expect(response.json(), own.log()).toMatchObject({
          type: 'https://leukodiff.dev/problems/database-unavailable',
          status: 503,
        });
        expect(response.statusCode).toBe(503);
        expect(Number(response.headers['retry-after'])).toBeGreaterThan(0);
      }
      expect((await own.app.inject('/health/live')).statusCode).toBe(200);
      expect(await own.spooled()).toEqual([]);
    } finally {
      await own.close();
    }
  });
});
