import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CONFIG_VARIABLES, loadConfig } from '../../src/config.js';
import { ExpectedError } from '../../src/errors.js';

describe('the configuration', () => {
  it('needs no variable', () => {
    expect(loadConfig({})).toMatchObject({
      host: '127.0.0.1',
      port: 3000,
      databaseUrl: undefined,
      redisUrl: undefined,
      dataDir: resolve('data'),
      executionProvider: 'auto',
      maxImages: 200,
      webhookSecret: undefined,
      publicUrl: undefined,
    });
  });

  it('takes an empty variable as not set, as compose files write it', () => {
    expect(loadConfig({ PORT: '', DATABASE_URL: ' ', WEBHOOK_SECRET: '' })).toEqual(loadConfig({}));
  });

  it('names every variable that cannot be used, in one message', () => {
    const load = () => loadConfig({ PORT: '70000', MAX_IMAGES: '0', EXECUTION_PROVIDER: 'tpu', LOG_LEVEL: 'loud' });
    expect(load).toThrow(ExpectedError);
    expect(load).toThrow(/PORT .*0 to 65535.*"70000".*EXECUTION_PROVIDER .*auto, cuda, cpu.*MAX_IMAGES .*LOG_LEVEL/);
  });

  it.each([
    ['PORT', '3000.5'],
    ['PORT', '-1'],
    ['PORT', '1e3'],
    ['PORT', '0x10'],
    ['HOST', 'http://localhost'],
    ['MAX_IMAGE_BYTES', '12MB'],
    ['DATABASE_URL', 'mysql://db/x'],
    ['DATABASE_URL', 'db.local'],
    ['REDIS_URL', 'http://redis'],
    ['PUBLIC_URL', 'lab.example'],
    ['ACCESS', 'closed'],
    ['OIDC_ISSUER', 'http://idp.example'],
    ['OIDC_ISSUER', 'https://user:pw@idp.example'],
    ['OIDC_JWKS_URL', 'ftp://idp.example/keys'],
    ['METRICS_TOKEN', 'short'],
    ['CORS_ORIGINS', '*'],
    ['CORS_ORIGINS', 'https://portal.example/'],
    ['TRUSTED_PROXIES', 'proxy.local'],
    ['TRUSTED_PROXIES', '10.0.0.0/33'],
    ['TLS_CERT', 'cert.pem'],
    ['TLS_KEY', '-----BEGIN CERTIFICATE-----'],
    ['RATE_LIMIT_PER_MINUTE', '-1'],
    ['IDEMPOTENCY_HOURS', '0'],
    ['WEBHOOK_SECRET', 'hunter2'],
    ['WEBHOOK_SECRET', `whsec_${Buffer.alloc(23).toString('base64')}`],
    ['WEBHOOK_SECRET', `whsec_${Buffer.alloc(65).toString('base64')}`],
  ])('refuses %s=%s', (name, value) => {
    expect(() => loadConfig({ [name]: value })).toThrow(new RegExp(`: ${name} must be`));
  });

  it.each([
    ['PORT', '0', { port: 0 }],
    ['PORT', ' 8080 ', { port: 8080 }],
    ['HOST', '::1', { host: '::1' }],
    ['EXECUTION_PROVIDER', 'CPU', { executionProvider: 'cpu' }],
    ['DATABASE_URL', 'postgresql://u:p@db/x', { databaseUrl: 'postgresql://u:p@db/x' }],
    ['REDIS_URL', 'rediss://redis:6380/1', { redisUrl: 'rediss://redis:6380/1' }],
    ['RETENTION_DAYS', '0', { retentionDays: 0 }],
    ['ACCESS', 'open', { access: 'open' }],
    [
      'CORS_ORIGINS',
      'https://a.example, http://b.example:8080',
      { corsOrigins: ['https://a.example', 'http://b.example:8080'] },
    ],
    ['TRUSTED_PROXIES', '10.0.0.0/8,::1', { trustedProxies: ['10.0.0.0/8', '::1'] }],
    ['RATE_LIMIT_PER_MINUTE', '0', { rateLimitPerMinute: 0 }],
  ])('takes %s=%s', (name, value, expected) => {
    expect(loadConfig({ [name]: value })).toMatchObject(expected);
  });

  it('asks for what belongs together', () => {
    expect(() => loadConfig({ OIDC_ISSUER: 'https://idp.example' })).toThrow(/OIDC_ISSUER needs OIDC_AUDIENCE/);
    expect(() => loadConfig({ TLS_KEY: '-----BEGIN EC PRIVATE KEY-----' })).toThrow(/TLS_CERT and TLS_KEY/);
    expect(loadConfig({ OIDC_ISSUER: 'https://idp.example', OIDC_AUDIENCE: 'us' }).oidcAudience).toBe('us');
  });

  it('reads secrets from files, and says what is wrong with one without telling it', () => {
    const folder = mkdtempSync(join(tmpdir(), 'leukodiff-config-'));
    const file = join(folder, 'database-url');
    writeFileSync(file, 'postgresql://u:geheim@db/x\n');
    expect(loadConfig({ DATABASE_URL_FILE: file }).databaseUrl).toBe('postgresql://u:geheim@db/x');
    expect(() => loadConfig({ DATABASE_URL_FILE: file, DATABASE_URL: 'postgresql://db/y' })).toThrow(
      /DATABASE_URL and DATABASE_URL_FILE are both set/,
    );
    expect(() => loadConfig({ DATABASE_URL_FILE: join(folder, 'absent') })).toThrow(/DATABASE_URL_FILE \(ENOENT\)/);
    writeFileSync(file, ' \n');
    expect(() => loadConfig({ REDIS_URL_FILE: file })).toThrow(/REDIS_URL is empty in the file/);
    writeFileSync(file, 'geheim');
    for (const { name } of CONFIG_VARIABLES.filter(({ secret }) => secret)) {
      const load = () => loadConfig({ [`${name}_FILE`]: file });
      expect(load, name).toThrow(new RegExp(`: ${name} must`));
      expect(load, name).not.toThrow(/geheim/);
    }
    rmSync(folder, { recursive: true });
  });

  it('never repeats a value that may hold a password', () => {
    const load = () =>
      loadConfig({ DATABASE_URL: 'mysql://root:geheim@db', REDIS_URL: 'geheim', WEBHOOK_SECRET: 'geheim' });
    expect(load).toThrow(/DATABASE_URL.*REDIS_URL.*WEBHOOK_SECRET/);
    expect(load).not.toThrow(/geheim/);
  });

  it('says of every variable what it means, once, with a default that it accepts itself', () => {
    expect(new Set(CONFIG_VARIABLES.map(({ name }) => name)).size).toBe(CONFIG_VARIABLES.length);
    expect(new Set(CONFIG_VARIABLES.map(({ key }) => key)).size).toBe(CONFIG_VARIABLES.length);
    for (const { name, meaning, default: fallback } of CONFIG_VARIABLES) {
      expect(meaning, name).toMatch(/\.$/);
      if (fallback !== null) expect(() => loadConfig({ [name]: fallback }), name).not.toThrow();
    }
  });
});
