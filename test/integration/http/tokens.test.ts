/** Tokens of an identity provider: a real issuer with real keys, that the service fetches them from. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, exportSPKI, generateKeyPair, type JWTPayload, SignJWT } from 'jose';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Harness, startHarness } from './harness.js';

interface Issuer {
  readonly url: string;
  readonly server: Server;
  readonly asked: string[];
  document: () => object;
  available: boolean;
}

const AUDIENCE = 'leukodiff';
let keys: Awaited<ReturnType<typeof generateKeyPair>>;
let strangers: Awaited<ReturnType<typeof generateKeyPair>>;
let issuer: Issuer;
let harness: Harness;

async function startIssuer(): Promise<Issuer> {
  const jwk = { ...(await exportJWK(keys.publicKey)), kid: 'k1', alg: 'RS256', use: 'sig' };
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(request.url ?? '');
    if (!started.available) return void response.writeHead(503).end();
    const body = request.url === '/jwks' ? { keys: [jwk] } : started.document();
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const started: Issuer = {
    url,
    server,
    asked,
    available: true,
    document: () => ({ issuer: url, jwks_uri: `${url}/jwks` }),
  };
  return started;
}

beforeAll(async () => {
  keys = await generateKeyPair('RS256', { extractable: true });
  strangers = await generateKeyPair('RS256', { extractable: true });
  issuer = await startIssuer();
  harness = await startHarness({ access: 'keys', oidcIssuer: issuer.url, oidcAudience: AUDIENCE });
});
afterAll(async () => {
  await harness.close();
  issuer.server.close();
});

const GOOD = { laboratory: 'north', scope: 'openid leukodiff:read submit' };

interface Making {
  readonly key?: Parameters<SignJWT['sign']>[0];
  readonly header?: object;
  readonly issuer?: string;
  readonly audience?: string;
  readonly expires?: string | null;
  readonly subject?: string | null;
}

function token(claims: JWTPayload = GOOD, making: Making = {}): Promise<string> {
  const jwt = new SignJWT(claims)
    .setProtectedHeader({ alg: 'RS256', kid: 'k1', ...making.header })
    .setIssuer(making.issuer ?? issuer.url)
    .setAudience(making.audience ?? AUDIENCE)
    .setIssuedAt();
  if (making.subject !== null) jwt.setSubject(making.subject ?? 'anna');
  if (making.expires !== null) jwt.setExpirationTime(making.expires ?? '5m');
  return jwt.sign(making.key ?? keys.privateKey);
}

const get = async (bearer: string, url = '/analyses', of = harness) =>
  of.app.inject({ url, headers: { authorization: `Bearer ${bearer}` } });

describe('a token of the configured issuer', () => {
  it('lets its bearer do what its scopes say, in its laboratory', async () => {
    expect((await get(await token())).statusCode).toBe(200);
    expect((await get(await token(), '/keys')).statusCode).toBe(403);
    expect((await get(await token({ laboratory: 'north', scope: ['admin'] }), '/keys')).statusCode).toBe(200);
    const audit = await token({ laboratory: 'north', scope: 'admin' });
    await harness.app.audit.flush();
    expect((await get(audit, '/audit')).json()).toMatchObject({
      items: expect.arrayContaining([
        expect.objectContaining({
          actorKind: 'token',
          actorId: 'anna',
          laboratory: 'north',
          operation: 'listAnalyses',
        }),
      ]),
    });
    expect((await get(await token({ laboratory: 'south', scope: 'admin' }), '/audit')).body).not.toContain('anna');
  });

  it('is checked with keys that are asked for once', async () => {
    const before = issuer.asked.length;
    for (let n = 0; n < 5; n += 1) await get(await token());
    expect(issuer.asked.length - before).toBe(0);
    expect(issuer.asked.filter((path) => path === '/.well-known/openid-configuration')).toHaveLength(1);
  });

  it.each<[string, () => Promise<string>]>([
    ['signed by somebody else', () => token(GOOD, { key: strangers.privateKey })],
    ['of another issuer', () => token(GOOD, { issuer: 'https://elsewhere.example' })],
    ['made for another service', () => token(GOOD, { audience: 'another' })],
    ['expired', () => token(GOOD, { expires: '-2m' })],
    ['that never expires', () => token(GOOD, { expires: null })],
    ['of nobody', () => token(GOOD, { subject: null })],
    ['without a laboratory', () => token({ scope: 'read' })],
    ['of two laboratories', () => token({ laboratory: ['north', 'south'], scope: 'read' })],
    ['with a laboratory that is none', () => token({ laboratory: '../north', scope: 'read' })],
    [
      'that is not signed',
      async () => `${Buffer.from('{"alg":"none"}').toString('base64url')}.${(await token()).split('.')[1]}.`,
    ],
    [
      // The classic: the public key taken as a shared secret.
      'signed with the public key as a secret',
      async () =>
        token(GOOD, { key: new TextEncoder().encode(await exportSPKI(keys.publicKey)), header: { alg: 'HS256' } }),
    ],
    [
      'with a key of its own in the header',
      async () => token(GOOD, { key: strangers.privateKey, header: { jwk: await exportJWK(strangers.publicKey) } }),
    ],
    [
      'that names its keys elsewhere',
      () => token(GOOD, { key: strangers.privateKey, header: { jku: `${issuer.url}/evil`, kid: 'k2' } }),
    ],
    [
      'with changed claims',
      async () => {
        const [head, , signature] = (await token()).split('.');
        const claims = { ...GOOD, scope: 'admin read', iss: issuer.url, aud: AUDIENCE, sub: 'anna', exp: 9e9 };
        return `${head}.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.${signature}`;
      },
    ],
    ['cut short', async () => (await token()).slice(0, -20)],
    ['that is no token', async () => 'a.b.c'],
  ])('is refused when it is one %s', async (_name, make) => {
    const response = await get(await make());
    expect(response.statusCode).toBe(401);
    expect(response.headers['www-authenticate']).toContain('error="invalid_token"');
    expect(issuer.asked.filter((path) => path.includes('evil'))).toEqual([]);
  });

  it('can carry laboratory and scopes in claims of another name', async () => {
    const own = await startHarness({
      access: 'keys',
      oidcIssuer: issuer.url,
      oidcAudience: AUDIENCE,
      oidcLaboratoryClaim: 'https://hospital.example/lab',
      oidcScopeClaim: 'realm_access.roles',
    });
    const claims = { 'https://hospital.example/lab': 'north', realm_access: { roles: ['leukodiff.read', 'other'] } };
    expect((await get(await token(claims), '/analyses', own)).statusCode).toBe(200);
    expect((await get(await token(claims), '/keys', own)).statusCode).toBe(403);
    expect((await get(await token(GOOD), '/analyses', own)).statusCode).toBe(401);
    await own.close();
  });
});

describe('an issuer', () => {
  it('that is away is a reason to try again, not to refuse', async () => {
    const away = await startIssuer();
    away.available = false;
    const own = await startHarness({ access: 'keys', oidcIssuer: away.url, oidcAudience: AUDIENCE });
    const response = await get(await token(GOOD, { issuer: away.url }), '/analyses', own);
    expect(response.statusCode).toBe(503);
    expect(response.json()).toMatchObject({ type: 'https://leukodiff.dev/problems/identity-provider-unavailable' });
    expect(response.headers['retry-after']).toBe('10');
    await own.close();
    away.server.close();
  });

  it.each<[string, (url: string) => object]>([
    ['keys on another host', () => ({ issuer: 'same', jwks_uri: 'https://elsewhere.example/jwks' })],
    ['another issuer', (url) => ({ issuer: 'https://elsewhere.example', jwks_uri: `${url}/jwks` })],
    ['no keys', () => ({ issuer: 'same' })],
  ])('whose document names %s is not believed', async (_name, document) => {
    const odd = await startIssuer();
    odd.document = () => {
      const named = document(odd.url) as { issuer: string };
      return { ...named, issuer: named.issuer === 'same' ? odd.url : named.issuer };
    };
    const own = await startHarness({ access: 'keys', oidcIssuer: odd.url, oidcAudience: AUDIENCE });
    expect((await get(await token(GOOD, { issuer: odd.url }), '/analyses', own)).statusCode).toBe(503);
    expect(odd.asked).toEqual(['/.well-known/openid-configuration']);
    await own.close();
    odd.server.close();
  });
});
