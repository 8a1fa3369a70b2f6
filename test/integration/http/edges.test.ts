/** What is at the edge of every request: limits, headers for browsers, TLS, and what names a request across systems. */
import { get as httpsGet } from 'node:https';
import { describe, expect, it } from 'vitest';
import { createApiKey } from '../../../src/storage/api-keys.js';
import { claimDelivery } from '../../../src/storage/deliveries.js';
import { selfSignedCertificate } from '../../support/certificate.js';
import { analyzeRequest, blob, finish, type Harness, picture, startHarness } from './harness.js';

async function withHarness(overrides: Parameters<typeof startHarness>[0], work: (harness: Harness) => Promise<void>) {
  const harness = await startHarness(overrides);
  try {
    await work(harness);
  } finally {
    await harness.close();
  }
}

describe('the rate limit', () => {
  it('is told with every answer, and holds for each key alone', async () => {
    await withHarness({ access: 'keys', rateLimitPerMinute: 3 }, async ({ app, database }) => {
      const headersOf = async () => {
        const made = { laboratory: 'a', name: 'x', scopes: ['read' as const], createdBy: null };
        return { authorization: `Bearer ${(await createApiKey(database, made)).token}` };
      };
      const headers = await headersOf();
      const first = await app.inject({ url: '/analyses', headers });
      expect(first.headers['ratelimit-policy']).toBe('"caller";q=3;w=60');
      expect(first.headers['ratelimit']).toMatch(/^"caller";r=2;t=\d+$/);
      await app.inject({ url: '/analyses', headers });
      await app.inject({ url: '/analyses', headers });
      const refused = await app.inject({ url: '/analyses', headers });
      expect(refused.statusCode).toBe(429);
      expect(refused.json()).toMatchObject({ type: 'https://leukodiff.dev/problems/rate-limited' });
      expect(Number(refused.headers['retry-after'])).toBeGreaterThanOrEqual(1);
      expect(Number(refused.headers['retry-after'])).toBeLessThanOrEqual(20);
      expect((await app.inject({ url: '/analyses', headers: await headersOf() })).statusCode).toBe(200);
      expect((await app.inject('/health/live')).statusCode).toBe(200);
    });
  });
});

describe('a browser', () => {
  it('is told to take nothing for anything else, and that no page may call', async () => {
    await withHarness({}, async ({ app }) => {
      for (const url of ['/analyses', '/nowhere', '/health/live']) {
        const { headers } = await app.inject({ url, headers: { origin: 'https://portal.example' } });
        expect(headers).toMatchObject({
          'x-content-type-options': 'nosniff',
          'x-frame-options': 'DENY',
          'referrer-policy': 'no-referrer',
          'content-security-policy': "default-src 'none';frame-ancestors 'none'",
        });
        expect(headers['access-control-allow-origin']).toBeUndefined();
        expect(headers['strict-transport-security']).toBeUndefined();
        expect(headers['x-powered-by']).toBeUndefined();
      }
      const preflight = { origin: 'https://portal.example', 'access-control-request-method': 'DELETE' };
      const refused = await app.inject({ method: 'OPTIONS', url: '/analyses', headers: preflight });
      expect(refused.statusCode).toBeGreaterThanOrEqual(400);
      const docs = await app.inject('/docs');
      expect(String(docs.headers['content-security-policy'])).toContain("script-src 'self'");
    });
  });

  it('may call from the pages of the configured origins alone', async () => {
    await withHarness({ access: 'keys', corsOrigins: ['https://portal.example'] }, async ({ app }) => {
      const ask = (origin: string) =>
        app.inject({
          method: 'OPTIONS',
          url: '/analyses',
          headers: {
            origin,
            'access-control-request-method': 'GET',
            'access-control-request-headers': 'authorization',
          },
        });
      const allowed = await ask('https://portal.example');
      expect(allowed.statusCode).toBe(204);
      expect(allowed.headers['access-control-allow-origin']).toBe('https://portal.example');
      expect(allowed.headers['access-control-allow-credentials']).toBeUndefined();
      for (const origin of ['https://portal.example.evil', 'http://portal.example', 'null']) {
        expect((await ask(origin)).headers['access-control-allow-origin']).toBeUndefined();
      }
      // An address that does not exist is still none, and a request still needs its key.
      expect((await app.inject('/nowhere')).statusCode).toBe(404);
      const headers = { origin: 'https://portal.example' };
      expect((await app.inject({ url: '/analyses', headers })).statusCode).toBe(401);
    });
  });
});

describe('the address of a client', () => {
  it('is taken from a proxy only where that proxy is trusted', async () => {
    const remoteOf = async ({ app, database }: Harness): Promise<unknown> => {
      const headers = { 'x-forwarded-for': '203.0.113.9' };
      await app.inject({ url: '/analyses', headers, remoteAddress: '10.0.0.1' });
      await app.audit.flush();
      return (await database.pool.query('SELECT remote FROM audit_entries')).rows[0]?.remote;
    };
    await withHarness({}, async (harness) => expect(await remoteOf(harness)).toBe('10.0.0.1'));
    await withHarness({ trustedProxies: ['10.0.0.0/8'] }, async (harness) =>
      expect(await remoteOf(harness)).toBe('203.0.113.9'),
    );
  });
});

describe('TLS', () => {
  it('is spoken where a certificate is configured', async () => {
    const { cert: tlsCert, key: tlsKey } = selfSignedCertificate();
    await withHarness({ tlsKey, tlsCert }, async (harness) => {
      const port = await harness.listen();
      const answer = await new Promise<{ status: number | undefined; hsts: string | undefined }>((settle, fail) => {
        httpsGet({ host: '127.0.0.1', port, path: '/health/live', ca: tlsCert }, (response) => {
          response.resume();
          settle({ status: response.statusCode, hsts: response.headers['strict-transport-security'] });
        }).on('error', fail);
      });
      expect(answer.status).toBe(200);
      expect(answer.hsts).toBe('max-age=31536000');
      await expect(fetch(`http://127.0.0.1:${port}/health/live`)).rejects.toThrow();
    });
  });
});

describe('a request', () => {
  const TRACE = '0af7651916cd43dd8448eb211c80319c';

  it('is named in the log, in the row, and in what is delivered, as its sender named it', async () => {
    await withHarness({}, async (harness) => {
      const { app, database } = harness;
      const request = await analyzeRequest(
        [
          ['images', blob(await picture('png')), 'a.png'],
          ['callbackUrl', 'https://1.1.1.1/hook'],
        ],
        { 'x-request-id': 'lis-4711', traceparent: `00-${TRACE}-b7ad6b7169203331-01`, tracestate: 'lis=abc, x=1' },
      );
      const accepted = await app.inject(request);
      expect(accepted.headers['x-request-id']).toBe('lis-4711');
      const { id } = accepted.json<{ id: string }>();
      await finish(harness, id, { images: 1 });
      const { rows } = await database.pool.query<{ id: string }>('SELECT id FROM deliveries');
      const claim = await claimDelivery(database, rows[0]?.id ?? '', { leaseMs: 1000, lane: 'prompt' });
      const delivery = claim.kind === 'claimed' ? claim.delivery : null;
      expect(delivery).toMatchObject({ requestId: 'lis-4711', tracestate: 'lis=abc, x=1' });
      expect(delivery?.traceparent).toMatch(new RegExp(`^00-${TRACE}-[0-9a-f]{16}-01$`));
      expect(delivery?.traceparent).not.toContain('b7ad6b7169203331');
      expect(harness.log()).toContain(TRACE);
    });
  });
});
