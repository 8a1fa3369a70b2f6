/** Secrets that the service makes for itself and keeps in its data folder, readable by its user alone. */
import { randomBytes } from 'node:crypto';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { isErrno } from './embedded/errno.js';

/** The secret in `file`; on the first call it is made by `create` and written with mode 0600. */
export function readOrCreateSecret(file: string, create: () => string): string {
  try {
    writeFileSync(file, `${create()}\n`, { flag: 'wx', mode: 0o600, flush: true });
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
    chmodSync(file, 0o600);
  }
  const secret = readFileSync(file, 'utf8').trim();
  if (secret === '') throw new Error(`${file} is empty: delete it, or restore it from a backup`);
  return secret;
}

/** A secret that signs webhooks, in the form of Standard Webhooks: 24 to 64 random bytes. */
export function newWebhookSecret(): string {
  return `whsec_${randomBytes(32).toString('base64')}`;
}
