/** Looks API keys up, and remembers for a moment what it found: a client polls, and its key does not change meanwhile. */
import type { Logger } from 'pino';
import { type ApiKey, checkApiKey, type KeyCheck, touchApiKey } from '../../storage/api-keys.js';
import type { Database } from '../../storage/database.js';

/** A key that is revoked elsewhere goes on for at most this long; docs/operations.md says so. */
export const KEY_MEMORY_MS = 2_000;
const REMEMBERED_KEYS = 1_000;
/** `last_used_at` is kept to the minute. */
const TOUCH_INTERVAL_MS = 60_000;

export interface KeyRing {
  check(token: string): Promise<KeyCheck>;
  /** After a key was changed by this process. */
  forget(): void;
}

export function createKeyRing(database: Database, log: Pick<Logger, 'warn'>): KeyRing {
  const remembered = new Map<string, { readonly key: ApiKey; readonly untilMs: number }>();
  const touched = new Map<string, number>();

  function touch(id: string): void {
    const now = Date.now();
    if (now - (touched.get(id) ?? 0) < TOUCH_INTERVAL_MS) return;
    touched.set(id, now);
    // Off the path of the request, which does not depend on it.
    touchApiKey(database, id).catch(() => {
      touched.delete(id);
      log.warn('the last use of a key could not be kept');
    });
  }

  return {
    check: async (token) => {
      const known = remembered.get(token);
      if (known !== undefined && known.untilMs > Date.now()) {
        touch(known.key.id);
        return { ok: true, key: known.key };
      }
      remembered.delete(token);
      const check = await checkApiKey(database, token);
      if (!check.ok) return check;
      if (remembered.size >= REMEMBERED_KEYS) remembered.clear();
      const expiresMs = check.key.expiresAt === null ? Number.POSITIVE_INFINITY : Date.parse(check.key.expiresAt);
      remembered.set(token, { key: check.key, untilMs: Math.min(Date.now() + KEY_MEMORY_MS, expiresMs) });
      touch(check.key.id);
      return check;
    },
    forget: () => remembered.clear(),
  };
}
