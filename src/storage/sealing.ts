/**
 * Secrets in the database: webhooks are signed with them, so they cannot be hashed. They are sealed with AES-256-GCM
 * under a key that is not in the database, so that a backup of it or a look into its tables gives nobody a signature.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { readOrCreateSecret } from './secrets.js';

const KEY_BYTES = 32;
const FORMAT = 1;
/** As NIST SP 800-38D recommends for GCM. */
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

export interface Sealer {
  /** @param place Where it is kept, such as the id of its row: sealed text that was moved elsewhere does not open. */
  seal(text: string, place: string): Uint8Array<ArrayBuffer>;
  /** Throws an `Error` where it was sealed with another key, for another place, or was changed. */
  open(sealed: Uint8Array, place: string): string;
}

export function createSealer(key: Buffer): Sealer {
  if (key.length !== KEY_BYTES) throw new Error(`the key must have ${KEY_BYTES} bytes`);
  return {
    seal: (text, place) => {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES });
      cipher.setAAD(Buffer.from(place));
      const body = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
      return Uint8Array.from(Buffer.concat([Buffer.of(FORMAT), nonce, cipher.getAuthTag(), body]));
    },
    open: (sealed, place) => {
      const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
      const body = 1 + NONCE_BYTES + TAG_BYTES;
      if (bytes[0] !== FORMAT || bytes.length < body) throw new Error('not a sealed secret');
      const nonce = bytes.subarray(1, 1 + NONCE_BYTES);
      const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES });
      decipher.setAAD(Buffer.from(place));
      decipher.setAuthTag(bytes.subarray(1 + NONCE_BYTES, body));
      return Buffer.concat([decipher.update(bytes.subarray(body)), decipher.final()]).toString('utf8');
    },
  };
}

/** With the configured key, or with one that is made once and kept in the data folder. */
export function loadSealer(config: { webhookEncryptionKey: string | undefined; dataDir: string }): Sealer {
  if (config.webhookEncryptionKey !== undefined)
    return createSealer(Buffer.from(config.webhookEncryptionKey, 'base64'));
  mkdirSync(config.dataDir, { recursive: true });
  const file = join(config.dataDir, 'webhook-encryption-key');
  const text = readOrCreateSecret(file, () => randomBytes(KEY_BYTES).toString('base64'));
  return createSealer(Buffer.from(text, 'base64'));
}
