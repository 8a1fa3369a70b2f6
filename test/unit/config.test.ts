import { resolve } from 'node:path';
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
    ['WEBHOOK_SECRET', 'hunter2'],
    ['WEBHOOK_SECRET', `whsec_${Buffer.alloc(23).toString('base64')}`],
    ['WEBHOOK_SECRET', `whsec_${Buffer.alloc(65).toString('base64')}`],
    ['WEBHOOK_SECRET', Array.from({ length: 3 }, () => `whsec_${Buffer.alloc(32).toString('base64')}`).join(' ')],
    ['WEBHOOK_ENCRYPTION_KEY', Buffer.alloc(31).toString('base64')],
    ['WEBHOOK_ENCRYPTION_KEY', 'hunter2'],
    ['WEBHOOK_ALLOW_NETWORKS', '10.0.0.0/33'],
    ['WEBHOOK_ALLOW_NETWORKS', 'lis.example'],
    ['WEBHOOK_PORTS', '80,http'],
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
    ['WEBHOOK_ALLOW_NETWORKS', '10.0.0.0/8', { webhookNetworks: [{ family: 4, base: 0x0a000000n, prefixLength: 8 }] }],
    ['WEBHOOK_SECRET', `${TWO_SECRETS[0]}   ${TWO_SECRETS[1]}`, { webhookSecret: TWO_SECRETS.join(' ') }],
  ])('takes %s=%s', (name, value, expected) => {
    expect(loadConfig({ [name]: value })).toMatchObject(expected);
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
