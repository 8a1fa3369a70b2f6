import { chmodSync, existsSync, mkdirSync, mkdtempSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadWebhookSecret } from '../../../src/jobs/webhook-secret.js';
import { linkLibraries } from '../../../src/storage/embedded/binaries.js';
import { readOrCreateSecret } from '../../../src/storage/secrets.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'leukodiff-secrets-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('a secret that the service makes', () => {
  it('is made once and readable by its user alone', () => {
    const file = join(folder, 'secret');
    expect(readOrCreateSecret(file, () => 'first')).toBe('first');
    expect(readOrCreateSecret(file, () => 'second')).toBe('first');
    expect(statSync(file).mode & 0o777).toBe(0o600);
  });

  it('is closed again when its mode was loosened, and refused when it is empty', () => {
    const file = join(folder, 'secret');
    writeFileSync(file, 'kept\n');
    chmodSync(file, 0o644);
    expect(readOrCreateSecret(file, () => 'new')).toBe('kept');
    expect(statSync(file).mode & 0o777).toBe(0o600);
    writeFileSync(file, '\n');
    expect(() => readOrCreateSecret(file, () => 'new')).toThrow(/is empty/);
  });

  it('signs webhooks, unless one is configured', () => {
    const made = loadWebhookSecret({ webhookSecret: undefined, dataDir: join(folder, 'data') });
    expect(made.file).toBe(join(folder, 'data', 'webhook-secret'));
    expect(made.value).toMatch(/^whsec_/);
    expect(loadWebhookSecret({ webhookSecret: undefined, dataDir: join(folder, 'data') })).toEqual(made);
    expect(new Webhook(made.value).sign('msg_1', new Date(), '{}')).toMatch(/^v1,/);
    expect(loadWebhookSecret({ webhookSecret: 'whsec_x', dataDir: '/nonexistent' })).toEqual({
      value: 'whsec_x',
      file: null,
    });
  });
});

describe('the library links of the embedded PostgreSQL', () => {
  it('are made where the install script was blocked, and left alone where they are', () => {
    const native = join(folder, 'package', 'native');
    mkdirSync(join(native, 'lib'), { recursive: true });
    writeFileSync(join(native, 'lib', 'libpq.so.5.18'), '');
    writeFileSync(
      join(native, 'pg-symlinks.json'),
      JSON.stringify([{ source: 'native/lib/libpq.so.5.18', target: 'native/lib/libpq.so.5' }]),
    );
    expect(linkLibraries(native, folder)).toBeNull();
    expect(readlinkSync(join(native, 'lib', 'libpq.so.5'))).toBe('libpq.so.5.18');
    expect(existsSync(join(native, 'lib', 'libpq.so.5'))).toBe(true);
    expect(linkLibraries(native, folder)).toBeNull();
  });
});
