/**
 * The way of entries into the audit trail. A change is answered only after its entry is stored; reads are collected and
 * written together every second, so that they cost no statement each.
 */
import type { Logger } from 'pino';
import { appendAudit, type NewAuditEntry } from '../../storage/audit.js';
import type { Database } from '../../storage/database.js';

const FLUSH_INTERVAL_MS = 1_000;
/** More are not collected: whoever brings the next entry waits until there is room. */
const MOST_COLLECTED = 10_000;
/** Entries of one statement. */
const BATCH = 1_000;

export interface AuditTrail {
  /** Stored when this resolves. Where the database refuses it stays collected and is tried again. */
  write(entry: NewAuditEntry): Promise<void>;
  /** Collects; waits only while there is no room. */
  collect(entry: NewAuditEntry): Promise<void>;
  /** Stores what is collected; rejects where it cannot. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

export function createAuditTrail(database: Database, log: Pick<Logger, 'error' | 'warn'>): AuditTrail {
  let collected: NewAuditEntry[] = [];
  let flushing: Promise<void> = Promise.resolve();

  async function flushOnce(): Promise<void> {
    while (collected.length > 0) {
      const batch = collected.slice(0, BATCH);
      await appendAudit(database.pool, batch);
      collected = collected.slice(batch.length);
    }
  }

  function flush(): Promise<void> {
    // One after the other: two at once would write the same entries.
    flushing = flushing.catch(() => undefined).then(flushOnce);
    return flushing;
  }

  const timer = setInterval(() => {
    flush().catch((error: unknown) => {
      const code = error instanceof Error && 'code' in error ? String(error.code) : undefined;
      log.warn({ entries: collected.length, code }, 'audit entries wait: the database does not take them');
    });
  }, FLUSH_INTERVAL_MS);
  timer.unref();

  return {
    write: async (entry) => {
      try {
        await appendAudit(database.pool, [entry]);
      } catch {
        collected.push(entry);
      }
    },
    collect: async (entry) => {
      if (collected.length >= MOST_COLLECTED) await flush();
      collected.push(entry);
    },
    flush,
    close: async () => {
      clearInterval(timer);
      await flush().catch(() => {
        log.error(
          { entries: collected.length },
          'audit entries are lost: the database did not take them before the end',
        );
      });
    },
  };
}
