/**
 * API keys: `lk_<id>_<secret>`. The secret is 256 random bits, so a plain SHA-256 of it is all that has to be kept: what
 * slow hashes protect is passwords, which can be guessed (docs/decisions/0020-keys-and-laboratories.md).
 */
import { createHash, randomBytes, randomInt, timingSafeEqual } from 'node:crypto';
import { type Database, inTransaction } from './database.js';
import { DEFAULT_LABORATORY } from './laboratory.js';

export const SCOPES = ['submit', 'read', 'review', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

const LABORATORY = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** A laboratory's slug: what a DNS label may be. */
export function isLaboratory(text: string): boolean {
  return LABORATORY.test(text);
}

export const KEY_NAME_MAX_LENGTH = 100;

const ID_LENGTH = 12;
const ID_ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';
const SECRET_BYTES = 32;
/** 43: what 32 bytes take in base64url. */
const TOKEN = /^lk_([a-z0-9]{12})_([A-Za-z0-9_-]{43})$/;
const KEY_ID = /^[a-z0-9]{12}$/;

/** "KEYS" as a number: lets one process make the first key. */
const FIRST_KEY_LOCK = 0x4b455953;

export interface NewApiKey {
  readonly laboratory: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly expiresAt?: Date | null;
  /** Who makes it; null: the command line. */
  readonly createdBy: string | null;
}

/** A key as it is listed: everything but the secret. */
export interface ApiKey {
  readonly id: string;
  readonly laboratory: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly createdAt: string;
  readonly createdBy: string | null;
  readonly expiresAt: string | null;
  readonly revokedAt: string | null;
  readonly lastUsedAt: string | null;
  readonly replacedBy: string | null;
}

export interface CreatedApiKey {
  readonly key: ApiKey;
  /** The whole token; it is told once and can never be read again. */
  readonly token: string;
}

export type KeyCheck =
  | { readonly ok: true; readonly key: ApiKey }
  /** `laboratory` only where the secret was right: whoever does not hold it learns nothing. */
  | {
      readonly ok: false;
      readonly reason: 'unknown' | 'revoked' | 'expired';
      readonly id: string;
      readonly laboratory: string | null;
    };

export async function createApiKey(db: Database, input: NewApiKey): Promise<CreatedApiKey> {
  const made = newKey();
  const row = await db.prisma.apiKey.create({ data: { ...rowOf(input), id: made.id, secretHash: made.secretHash } });
  return { key: toKey(row), token: made.token };
}

/** The key that a fresh database starts with, all scopes, in the default laboratory; null where there are keys already. */
export async function createFirstApiKey(db: Database): Promise<CreatedApiKey | null> {
  return inTransaction(db.pool, async (client) => {
    await client.query('SELECT pg_advisory_xact_lock($1)', [FIRST_KEY_LOCK]);
    const { rows: present } = await client.query('SELECT 1 FROM api_keys LIMIT 1');
    if (present.length > 0) return null;
    const { id, secretHash, token } = newKey();
    const name = 'first key';
    const { rows } = await client.query<{ createdAt: Date }>(
      `INSERT INTO api_keys (id, laboratory, name, scopes, secret_hash) VALUES ($1, $2, $3, $4, $5)
       RETURNING created_at AS "createdAt"`,
      [id, DEFAULT_LABORATORY, name, [...SCOPES], secretHash],
    );
    const [row] = rows;
    if (row === undefined) throw new Error('the first key was not stored');
    const key: ApiKey = {
      id,
      laboratory: DEFAULT_LABORATORY,
      name,
      scopes: SCOPES,
      createdAt: row.createdAt.toISOString(),
      createdBy: null,
      expiresAt: null,
      revokedAt: null,
      lastUsedAt: null,
      replacedBy: null,
    };
    return { key, token };
  });
}

/** Keys of one laboratory, or of all with null; oldest first. */
export async function listApiKeys(db: Database, laboratory: string | null): Promise<ApiKey[]> {
  const rows = await db.prisma.apiKey.findMany({
    where: laboratory === null ? {} : { laboratory },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    omit: { secretHash: true },
  });
  return rows.map(toKey);
}

/** Null: the laboratory has no such key. With null as laboratory every key is looked at. */
export async function getApiKey(db: Database, laboratory: string | null, id: string): Promise<ApiKey | null> {
  if (!KEY_ID.test(id)) return null;
  const row = await db.prisma.apiKey.findFirst({ where: { id, ...within(laboratory) }, omit: { secretHash: true } });
  return row === null ? null : toKey(row);
}

/** Ends a key at once. Null: the laboratory has no such key. Revoking twice keeps the first time. */
export async function revokeApiKey(db: Database, laboratory: string | null, id: string): Promise<ApiKey | null> {
  if (!KEY_ID.test(id)) return null;
  await db.prisma.apiKey.updateMany({
    where: { id, ...within(laboratory), revokedAt: null },
    data: { revokedAt: new Date() },
  });
  return getApiKey(db, laboratory, id);
}

/**
 * Makes a successor with the same name, laboratory and scopes; the old key goes on for `overlapSeconds`, so that a client
 * can change over without a gap. Null: there is no such key, or it is not valid any more.
 */
export async function rotateApiKey(
  db: Database,
  laboratory: string | null,
  id: string,
  options: { readonly overlapSeconds: number; readonly createdBy: string | null },
): Promise<CreatedApiKey | null> {
  if (!KEY_ID.test(id)) return null;
  const made = newKey();
  const rotated = await inTransaction(db.pool, async (client) => {
    const { rowCount } = await client.query(
      `UPDATE api_keys
          SET replaced_by = $2, expires_at = least(expires_at, now() + $3 * interval '1 second')
        WHERE id = $1 AND ($4::text IS NULL OR laboratory = $4) AND revoked_at IS NULL AND replaced_by IS NULL
          AND (expires_at IS NULL OR expires_at > now())`,
      [id, made.id, options.overlapSeconds, laboratory],
    );
    if (rowCount === 0) return false;
    await client.query(
      `INSERT INTO api_keys (id, laboratory, name, scopes, secret_hash, created_by)
       SELECT $2, laboratory, name, scopes, $3, $4 FROM api_keys WHERE id = $1`,
      [id, made.id, made.secretHash, options.createdBy],
    );
    return true;
  });
  const key = rotated ? await getApiKey(db, laboratory, made.id) : null;
  return key === null ? null : { key, token: made.token };
}

/** Whether a token has the form of a key; what has not is not looked up. */
export function isApiKeyToken(token: string): boolean {
  return token.startsWith('lk_');
}

/** Whether `token` is a key that may be used now. */
export async function checkApiKey(db: Database, token: string): Promise<KeyCheck> {
  const [, id, secret] = TOKEN.exec(token) ?? [];
  if (id === undefined || secret === undefined) return { ok: false, reason: 'unknown', id: '', laboratory: null };
  const row = await db.prisma.apiKey.findUnique({ where: { id } });
  if (row === null || !timingSafeEqual(row.secretHash, hashOf(secret))) {
    return { ok: false, reason: 'unknown', id, laboratory: null };
  }
  const { laboratory } = row;
  if (row.revokedAt !== null) return { ok: false, reason: 'revoked', id, laboratory };
  if (row.expiresAt !== null && row.expiresAt.getTime() <= Date.now()) {
    return { ok: false, reason: 'expired', id, laboratory };
  }
  return { ok: true, key: toKey(row) };
}

/** Keeps when a key was used, to the minute: several processes may tell, and one writes. */
export async function touchApiKey(db: Database, id: string): Promise<void> {
  await db.pool.query(
    `UPDATE api_keys SET last_used_at = now()
      WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')`,
    [id],
  );
}

function newKey(): { id: string; secretHash: Buffer<ArrayBuffer>; token: string } {
  const id = Array.from({ length: ID_LENGTH }, () => ID_ALPHABET[randomInt(ID_ALPHABET.length)]).join('');
  const secret = randomBytes(SECRET_BYTES).toString('base64url');
  return { id, secretHash: hashOf(secret), token: `lk_${id}_${secret}` };
}

function hashOf(secret: string): Buffer<ArrayBuffer> {
  return createHash('sha256').update(secret).digest();
}

function within(laboratory: string | null): { laboratory?: string } {
  return laboratory === null ? {} : { laboratory };
}

function rowOf({ laboratory, name, scopes, expiresAt, createdBy }: NewApiKey) {
  return { laboratory, name, scopes: [...scopes], expiresAt: expiresAt ?? null, createdBy };
}

interface KeyRow {
  readonly id: string;
  readonly laboratory: string;
  readonly name: string;
  readonly scopes: readonly string[];
  readonly createdAt: Date;
  readonly createdBy: string | null;
  readonly expiresAt: Date | null;
  readonly revokedAt: Date | null;
  readonly lastUsedAt: Date | null;
  readonly replacedBy: string | null;
}

function toKey(row: KeyRow): ApiKey {
  return {
    id: row.id,
    laboratory: row.laboratory,
    name: row.name,
    // A scope that a newer version gave means nothing here.
    scopes: SCOPES.filter((scope) => row.scopes.includes(scope)),
    createdAt: row.createdAt.toISOString(),
    createdBy: row.createdBy,
    expiresAt: row.expiresAt?.toISOString() ?? null,
    revokedAt: row.revokedAt?.toISOString() ?? null,
    lastUsedAt: row.lastUsedAt?.toISOString() ?? null,
    replacedBy: row.replacedBy,
  };
}
