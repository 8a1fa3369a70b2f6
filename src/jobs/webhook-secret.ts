/** The secret that signs webhooks: configured, or made once and kept in the data folder. */
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { readOrCreateSecret } from '../storage/secrets.js';

export interface WebhookSecret {
  readonly value: string;
  /** Where a receiver's operator finds it; null when it was configured. */
  readonly file: string | null;
}

export function loadWebhookSecret(config: { webhookSecret: string | undefined; dataDir: string }): WebhookSecret {
  if (config.webhookSecret !== undefined) return { value: config.webhookSecret, file: null };
  mkdirSync(config.dataDir, { recursive: true });
  const file = join(config.dataDir, 'webhook-secret');
  return { value: readOrCreateSecret(file, () => `whsec_${randomBytes(32).toString('base64')}`), file };
}
