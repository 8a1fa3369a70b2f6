/** The key that a fresh database starts with: made once, told once, and kept in a file for the first request. */
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from '../observability/logger.js';
import { type ApiKey, createFirstApiKey } from '../storage/api-keys.js';
import { appendAudit } from '../storage/audit.js';
import type { Database } from '../storage/database.js';
import { commandEntry } from './audit-entry.js';

export interface FirstKey {
  readonly key: ApiKey;
  readonly token: string;
  /** Null: the data folder cannot be written. */
  readonly file: string | null;
}

export function firstKeyFile(dataDir: string): string {
  return join(dataDir, 'first-key');
}

/** Null where the database has keys already, whatever became of them. */
export async function makeFirstKey(db: Database, dataDir: string): Promise<FirstKey | null> {
  const created = await createFirstApiKey(db);
  if (created === null) return null;
  await appendAudit(db.pool, [commandEntry('serve: first key', created.key.laboratory, created.key.id)]);
  const file = firstKeyFile(dataDir);
  const kept = await keep(file, dataDir, created.token);
  return { ...created, file: kept ? file : null };
}

async function keep(file: string, dataDir: string, token: string): Promise<boolean> {
  try {
    await mkdir(dataDir, { recursive: true });
    await writeFile(file, `${token}\n`, { mode: 0o600 });
    // The mode above counts for a new file only.
    await chmod(file, 0o600);
    return true;
  } catch {
    return false;
  }
}

/**
 * Tells the key on standard error, which is not the log. In a container (NODE_ENV=production) both are collected, so there
 * only the file is named, unless there is none.
 */
export function announceFirstKey({ key, token, file }: FirstKey, log: Logger): void {
  log.info({ keyId: key.id, file }, 'a first API key was made');
  if (process.env['NODE_ENV'] === 'production' && file !== null) return;
  const lines = [
    '',
    '  The first API key, with every scope. It is shown this once:',
    '',
    `    ${token}`,
    '',
    ...(file === null ? [] : [`  It also lies in ${file}, for you alone.`]),
    '  `leukodiff keys` makes others, and revokes this one.',
    '',
    '',
  ];
  process.stderr.write(lines.join('\n'));
}
