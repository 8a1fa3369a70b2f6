import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { CONFIG_VARIABLES, loadConfig } from '../../src/config.js';
import { ExpectedError } from '../../src/errors.js';

const TWO_SECRETS = [1, 2].map((fill) => `whsec_${Buffer.alloc(32, fill).toString('base64')}`);

describe('the configuration', () => {
  it('needs no variable', () => {
    expect(loadConfig({})).toMatchObject({
      host: '127.0.0.1',
      port: 3000,
      databaseUrl: undefined,
      redisUrl: undefined,
      dataDir: resolve('data'),
      executionProvider: 'auto',
      cudaDevice: 0,
      workerConcurrency: undefined,
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
    ['CUDA_DEVICE', '-1'],
    ['CUDA_DEVICE', '0.5'],
    ['CUDA_DEVICE', 'GPU-0'],
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
    ['METRICS_SITES', Array.from({ length: 51 }, (_, n) => `site-${n}`).join(',')],
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
    ['WEBHOOK_SECRET', Array.from({ length: 3 }, () => `whsec_${Buffer.alloc(32).toString('base64')}`).join(' ')],
    ['WEBHOOK_ENCRYPTION_KEY', Buffer.alloc(31).toString('base64')],
    ['WEBHOOK_ENCRYPTION_KEY', 'hunter2'],
    ['WEBHOOK_ALLOW_NETWORKS', '10.0.0.0/33'],
    ['WEBHOOK_ALLOW_NETWORKS', 'lis.example'],
    ['WEBHOOK_PORTS', '80,http'],
    ['SIGNATURES', 'two'],
    ['WEBHOOK_DISABLE_AFTER_DAYS', '0'],
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
    [
      'WEBHOOK_PORTS',
      '443, 8000-8100',
      {
        webhookPorts: [
          { from: 443, to: 443 },
          { from: 8000, to: 8100 },
        ],
      },
    ],
    ['WEBHOOK_ALLOW_NETWORKS', '10.0.0.0/8', { webhookNetworks: [[{ octets: [10, 0, 0, 0] }, 8]] }],
    ['WEBHOOK_SECRET', `${TWO_SECRETS[0]}   ${TWO_SECRETS[1]}`, { webhookSecret: TWO_SECRETS.join(' ') }],
    ['ACCESS', 'open', { access: 'open' }],
    ['SIGNATURES', 'four-eyes', { signatures: 'four-eyes' }],
    [
      'CORS_ORIGINS',
      'https://a.example, http://b.example:8080',
      { corsOrigins: ['https://a.example', 'http://b.example:8080'] },
    ],
    ['METRICS_SITES', 'north, south/ward 3', { metricsSites: ['north', 'south/ward 3'] }],
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
    // Nothing takes a space: a token, a URL, a key or PEM.
    writeFileSync(file, 'geheim es Wort');
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

describe('HL7_DESTINATION', () => {
  it.each([
    ['mllp://10.20.0.5:2575', { host: '10.20.0.5', port: 2575, tls: false }],
    ['mllps://lis.hospital.example:6661/', { host: 'lis.hospital.example', port: 6661, tls: true }],
    ['mllp://[fd00::5]:2575', { host: 'fd00::5', port: 2575, tls: false }],
  ])('%s', (text, expected) => {
    expect(loadConfig({ HL7_DESTINATION: text }).hl7Destination).toEqual(expected);
  });

  it.each(['10.20.0.5:2575', 'mllp://lis', 'tcp://lis:1', 'mllp://:2575', 'mllp://u:p@lis:1', 'mllp://lis:1/path'])(
    'is not %s',
    (text) => {
      expect(() => loadConfig({ HL7_DESTINATION: text })).toThrow(/HL7_DESTINATION must be mllp/);
    },
  );

  it('never repeats the token of the FHIR server', () => {
    expect(() => loadConfig({ FHIR_SERVER_TOKEN: 'se cret' })).toThrow(/^(?!.*cret)/);
  });
});
