/**
 * Secrets that sign webhooks. An order's own callback address is signed with the service's secret (configured, or made
 * once and kept in the data folder); every registered endpoint has one of its own.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Webhook } from 'standardwebhooks';
import { newWebhookSecret, readOrCreateSecret } from '../storage/secrets.js';

export interface WebhookSecret {
  /** One, or two during a change: the newest first, separated by a space. */
  readonly value: string;
  /** Where a receiver's operator finds it; null when it was configured. */
  readonly file: string | null;
}

export function loadWebhookSecret(config: { webhookSecret: string | undefined; dataDir: string }): WebhookSecret {
  if (config.webhookSecret !== undefined) return { value: config.webhookSecret, file: null };
  mkdirSync(config.dataDir, { recursive: true });
  const file = join(config.dataDir, 'webhook-secret');
  return { value: readOrCreateSecret(file, newWebhookSecret), file };
}

/** The header `webhook-signature`: one signature for each secret, separated by spaces. */
export function signatures(secrets: readonly string[], id: string, timestamp: Date, body: string): string {
  return secrets.map((secret) => new Webhook(secret).sign(id, timestamp, body)).join(' ');
}
