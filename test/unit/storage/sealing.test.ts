import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createSealer, loadSealer } from '../../../src/storage/sealing.js';

const key = Buffer.alloc(32, 7);

describe('a sealed secret', () => {
  it('opens with the same key in the same place', () => {
    const sealed = createSealer(key).seal('whsec_geheim', 'endpoint-1');
    expect(createSealer(key).open(sealed, 'endpoint-1')).toBe('whsec_geheim');
    expect(Buffer.from(sealed).toString('latin1')).not.toContain('geheim');
  });

  it('is another text each time', () => {
    const sealer = createSealer(key);
    expect(sealer.seal('a', 'x')).not.toEqual(sealer.seal('a', 'x'));
  });

  it('does not open with another key, in another place, or after any change', () => {
    const sealer = createSealer(key);
    const sealed = sealer.seal('whsec_geheim', 'endpoint-1');
    expect(() => createSealer(randomBytes(32)).open(sealed, 'endpoint-1')).toThrow();
    expect(() => sealer.open(sealed, 'endpoint-2')).toThrow();
    for (let n = 0; n < sealed.length; n++) {
      const changed = Uint8Array.from(sealed, (byte, at) => (at === n ? byte ^ 1 : byte));
      expect(() => sealer.open(changed, 'endpoint-1'), `byte ${n}`).toThrow();
    }
    expect(() => sealer.open(sealed.subarray(0, 20), 'endpoint-1')).toThrow();
    expect(() => sealer.open(new Uint8Array(), 'endpoint-1')).toThrow();
  });

  it('needs a key of 32 bytes', () => {
    expect(() => createSealer(Buffer.alloc(16))).toThrow(/32 bytes/);
  });
});

describe('the key', () => {
  it('is made once and kept for its user alone, unless one is configured', () => {
    const folder = mkdtempSync(join(tmpdir(), 'leukodiff-sealing-'));
    try {
      const dataDir = join(folder, 'data');
      const sealed = loadSealer({ webhookEncryptionKey: undefined, dataDir }).seal('a', 'x');
      const file = join(dataDir, 'webhook-encryption-key');
      expect(statSync(file).mode & 0o777).toBe(0o600);
      expect(loadSealer({ webhookEncryptionKey: undefined, dataDir }).open(sealed, 'x')).toBe('a');
      const webhookEncryptionKey = readFileSync(file, 'utf8').trim();
      expect(loadSealer({ webhookEncryptionKey, dataDir: '/nonexistent' }).open(sealed, 'x')).toBe('a');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
