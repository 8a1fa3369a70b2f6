/** Tells waiting requests that an analysis ended: one LISTEN connection for the whole process, and what ends in it without that way. */
import pg from 'pg';
import type { Logger } from 'pino';
import type { AnalysisDocument } from './documents.js';

/** Notified with the id of an analysis, in the transaction that ends it: PostgreSQL delivers it when that commits. */
export const COMPLETED_CHANNEL = 'leukodiff_completed';
const RECONNECT_MS = 1_000;

/** With the result where this process made it. */
type Listener = (result?: AnalysisDocument) => void;

export interface Completions {
  /** Calls `listener` when the analysis ends; call the returned function to stop. */
  subscribe(analysisId: string, listener: Listener): () => void;
  /** Tells who waits in this process of a result that is committed. */
  ended(result: AnalysisDocument): void;
  close(): Promise<void>;
}

/**
 * Connects on the first subscription. While the connection is down nothing is delivered: waiters also look at the row
 * from time to time.
 */
export function createCompletions(databaseUrl: string, log: Logger): Completions {
  const listeners = new Map<string, Set<Listener>>();
  let client: pg.Client | null = null;
  let retry: NodeJS.Timeout | null = null;
  let closed = false;

  async function connect(): Promise<void> {
    if (closed || client !== null) return;
    const fresh = new pg.Client({
      connectionString: databaseUrl,
      keepAlive: true,
      connectionTimeoutMillis: 10_000,
      application_name: 'leukodiff-completions',
    });
    client = fresh;
    fresh.on('notification', ({ payload }) => {
      for (const listener of listeners.get(payload ?? '') ?? []) listener();
    });
    const lost = (error?: Error): void => {
      if (client !== fresh) return;
      client = null;
      if (closed) return;
      if (error !== undefined) log.warn({ reason: error.message }, 'completion notices interrupted, connecting again');
      void fresh.end().catch(() => undefined);
      retry = setTimeout(() => void connect(), RECONNECT_MS);
      retry.unref();
    };
    fresh.on('error', lost);
    fresh.on('end', () => lost());
    try {
      await fresh.connect();
      await fresh.query(`LISTEN ${COMPLETED_CHANNEL}`);
    } catch (error) {
      lost(error instanceof Error ? error : new Error(String(error)));
    }
  }

  return {
    subscribe: (analysisId, listener) => {
      void connect();
      const set = listeners.get(analysisId) ?? new Set<Listener>();
      listeners.set(analysisId, set.add(listener));
      return () => {
        set.delete(listener);
        if (set.size === 0) listeners.delete(analysisId);
      };
    },
    ended: (result) => {
      for (const listener of listeners.get(result.id) ?? []) listener(result);
    },
    close: async () => {
      closed = true;
      if (retry !== null) clearTimeout(retry);
      await client?.end().catch(() => undefined);
    },
  };
}
