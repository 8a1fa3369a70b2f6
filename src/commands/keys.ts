/** `leukodiff keys`: API keys of every laboratory, for whoever has the database. */
import type { Config } from '../config.js';
import { ExpectedError } from '../errors.js';
import { createLogger } from '../observability/logger.js';
import {
  type ApiKey,
  type CreatedApiKey,
  createApiKey,
  getApiKey,
  isLaboratory,
  KEY_NAME_MAX_LENGTH,
  listApiKeys,
  revokeApiKey,
  rotateApiKey,
  SCOPES,
  type Scope,
} from '../storage/api-keys.js';
import { appendAudit } from '../storage/audit.js';
import { type Database, openDatabase } from '../storage/database.js';
import { commandEntry } from './audit-entry.js';

const DAY_MS = 24 * 60 * 60 * 1000;

export interface CreateOptions {
  readonly laboratory: string;
  readonly name: string;
  /** As typed: separated by commas. */
  readonly scopes: string;
  readonly expiresInDays: number | undefined;
  readonly json: boolean;
}

export async function createKey(config: Config, options: CreateOptions): Promise<void> {
  const { laboratory, name, expiresInDays, json } = options;
  if (!isLaboratory(laboratory)) {
    throw new ExpectedError('--laboratory must be a slug: lower-case letters, digits and hyphens, at most 63.');
  }
  if (name.trim() === '' || name.length > KEY_NAME_MAX_LENGTH || /\p{Cc}/u.test(name)) {
    throw new ExpectedError(`--name must have 1 to ${KEY_NAME_MAX_LENGTH} printable characters.`);
  }
  const scopes = parseScopes(options.scopes);
  const expiresAt = expiresInDays === undefined ? null : new Date(Date.now() + expiresInDays * DAY_MS);
  await withDatabase(config, async (db) => {
    const created = await createApiKey(db, { laboratory, name, scopes, expiresAt, createdBy: null });
    await appendAudit(db.pool, [commandEntry('keys create', laboratory, created.key.id)]);
    tell(created, json);
  });
}

export async function listKeys(
  config: Config,
  { laboratory, json }: { laboratory: string | undefined; json: boolean },
): Promise<void> {
  await withDatabase(config, async (db) => {
    const keys = await listApiKeys(db, laboratory ?? null);
    process.stdout.write(json ? `${JSON.stringify(keys, null, 2)}\n` : table(keys));
  });
}

export async function rotateKey(
  config: Config,
  id: string,
  { overlapHours, json }: { overlapHours: number; json: boolean },
): Promise<void> {
  await withDatabase(config, async (db) => {
    const rotated = await rotateApiKey(db, null, id, { overlapSeconds: overlapHours * 3600, createdBy: null });
    if (rotated === null) {
      const known = (await getApiKey(db, null, id)) !== null;
      throw new ExpectedError(
        known ? `The key ${id} is not valid any more: make a new one with \`keys create\`.` : noSuchKey(id),
      );
    }
    await appendAudit(db.pool, [commandEntry('keys rotate', rotated.key.laboratory, id)]);
    tell(rotated, json);
  });
}

export async function revokeKey(config: Config, id: string): Promise<void> {
  await withDatabase(config, async (db) => {
    const key = await revokeApiKey(db, null, id);
    if (key === null) throw new ExpectedError(noSuchKey(id));
    await appendAudit(db.pool, [commandEntry('keys revoke', key.laboratory, id)]);
    process.stdout.write(`The key ${id} (${key.name}) is revoked.\n`);
  });
}

function parseScopes(text: string): Scope[] {
  const words = text
    .split(/[\s,]+/)
    .map((word) => word.toLowerCase())
    .filter((word) => word !== '');
  const unknown = words.filter((word) => !SCOPES.some((scope) => scope === word));
  if (words.length === 0 || unknown.length > 0) {
    throw new ExpectedError(`--scopes must be some of ${SCOPES.join(', ')}, separated by commas.`);
  }
  return SCOPES.filter((scope) => words.includes(scope));
}

/** The embedded database serves one process: beside a running service, keys are made over its API. */
async function withDatabase(config: Config, work: (db: Database) => Promise<void>): Promise<void> {
  const log = createLogger({
    level: config.logLevel === 'info' ? 'warn' : config.logLevel,
    format: config.logFormat,
    stream: 'stderr',
  });
  let db: Database;
  try {
    db = await openDatabase({ databaseUrl: config.databaseUrl, dataDir: config.dataDir, log });
  } catch (error) {
    if (!(error instanceof ExpectedError) || config.databaseUrl !== undefined) throw error;
    throw new ExpectedError(`${error.message} While a service uses it, manage keys over its API: POST /keys.`);
  }
  try {
    await work(db);
  } finally {
    await db.close();
  }
}

function tell({ key, token }: CreatedApiKey, json: boolean): void {
  if (json) {
    process.stdout.write(`${JSON.stringify({ key, token }, null, 2)}\n`);
    return;
  }
  // The token alone on standard output, so that it can go straight into a file.
  process.stderr.write(
    `${key.name}: key ${key.id} of ${key.laboratory} (${key.scopes.join(', ')}). It is shown this once:\n`,
  );
  process.stdout.write(`${token}\n`);
}

function table(keys: readonly ApiKey[]): string {
  if (keys.length === 0) return 'There are no keys.\n';
  const rows = keys.map((key) => [
    key.id,
    key.laboratory,
    key.scopes.join(','),
    stateOf(key),
    key.lastUsedAt === null ? 'never used' : `used ${key.lastUsedAt.slice(0, 16)}Z`,
    key.name,
  ]);
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows.map((row) => `${row.map((cell, n) => cell.padEnd(widths[n] ?? 0)).join('  ')}\n`).join('');
}

function stateOf({ revokedAt, expiresAt }: ApiKey): string {
  if (revokedAt !== null) return `revoked ${revokedAt.slice(0, 10)}`;
  if (expiresAt === null) return 'valid';
  return `${Date.parse(expiresAt) <= Date.now() ? 'expired' : 'valid until'} ${expiresAt.slice(0, 10)}`;
}

function noSuchKey(id: string): string {
  return `There is no key ${id}. \`leukodiff keys list\` names them.`;
}
