/** Opens the database: a server by its URL, or the embedded one in the data folder. */
import { PrismaPg } from '@prisma/adapter-pg';
import pg from 'pg';
import type { Logger } from 'pino';
import { ExpectedError } from '../errors.js';
import { type Completions, createCompletions } from './completions.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.js';
import { PrismaClient } from './generated/client.js';
import { migrate } from './migrate.js';
import type { ObjectStore } from './object-store.js';
import { createPool } from './pool.js';
import { RecentImages } from './recent-images.js';

/** PostgreSQL 14 is the oldest that its makers still maintain, and more than the queue needs (13). */
const MINIMUM_SERVER_VERSION = 140_000;
const DEFAULT_POOL_SIZE = 10;
const JOURNAL_POOL_SIZE = 2;

export interface Database {
  readonly prisma: PrismaClient;
  readonly pool: pg.Pool;
  readonly url: string;
  readonly embedded: boolean;
  readonly completions: Completions;
  /** Where posted images lie that do not lie in PostgreSQL; null: there is no such place. */
  readonly objects: ImageObjects | null;
  /** What this process has just stored; null: it has no worker to read it. */
  readonly recentImages: RecentImages | null;
  /**
   * For what must stand although the transaction beside it fails: a pool of its own, so that nobody who holds a connection
   * waits for a second one of the same pool.
   */
  readonly journal: pg.Pool;
  /** Resolves with the reason when the embedded server ends by itself; never for a server of its own. */
  readonly died: Promise<string>;
  /** Rejects when the database does not answer. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

export interface ImageObjects {
  readonly store: ObjectStore;
  /** Whether new images go there; those that are there already are read in any case. */
  readonly writable: boolean;
}

export interface DatabaseOptions {
  /** Undefined: the embedded database below `dataDir`. */
  readonly databaseUrl?: string | undefined;
  readonly dataDir: string;
  readonly log: Logger;
  readonly poolSize?: number;
  /** Closed with the database. */
  readonly objects?: ImageObjects | null;
  /** Whether this process has a worker, which is given images without their way through the database. Default false. */
  readonly worker?: boolean;
  /** Default true. Several processes may do it at once. */
  readonly migrate?: boolean;
}

/** Throws `ExpectedError` when there is no database to work with. */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const { databaseUrl, dataDir, log } = options;
  const embedded = databaseUrl === undefined ? await startEmbeddedPostgres({ dataDir, log }) : null;
  try {
    return await open(embedded?.url ?? databaseUrl ?? '', embedded, options);
  } catch (error) {
    await embedded?.stop();
    throw error;
  }
}

async function open(url: string, embedded: EmbeddedPostgres | null, options: DatabaseOptions): Promise<Database> {
  const { log, objects = null } = options;
  await refuseUnusable(url);
  if (options.migrate ?? true) await migrate(url, log);
  const pool = openPool(url, options.poolSize ?? DEFAULT_POOL_SIZE, log);
  const journal = openPool(url, JOURNAL_POOL_SIZE, log);
  const prisma = new PrismaClient({ adapter: new PrismaPg(pool) });
  const completions = createCompletions(url, log);
  return {
    prisma,
    pool,
    journal,
    objects,
    recentImages: options.worker === true ? new RecentImages() : null,
    url,
    embedded: embedded !== null,
    completions,
    died: embedded?.died ?? new Promise<string>(() => undefined),
    ping: async () => {
      await pool.query('SELECT 1');
    },
    close: async () => {
      await completions.close();
      await prisma.$disconnect();
      for (const each of [pool, journal]) if (!each.ended) await each.end();
      objects?.store.close();
      await embedded?.stop();
    },
  };
}

function openPool(connectionString: string, max: number, log: Logger): pg.Pool {
  const config = {
    connectionString,
    max,
    idleTimeoutMillis: 30_000,
    statement_timeout: 60_000,
    idle_in_transaction_session_timeout: 60_000,
    application_name: 'leukodiff',
  };
  return createPool(config, log, 'an idle database connection was lost');
}

/** Says in words why a server cannot be used, before anything is built on it. */
async function refuseUnusable(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ version: number; encoding: string }>(
      `SELECT current_setting('server_version_num')::int AS version, current_setting('server_encoding') AS encoding`,
    );
    const [server] = rows;
    if (server !== undefined && server.version < MINIMUM_SERVER_VERSION) {
      throw new ExpectedError(
        `The PostgreSQL server has version ${server.version / 10_000}; at least ${MINIMUM_SERVER_VERSION / 10_000} is needed.`,
      );
    }
    if (server !== undefined && server.encoding !== 'UTF8') {
      throw new ExpectedError(
        `The database has the encoding ${server.encoding}; create it with ENCODING 'UTF8', so that names can be stored.`,
      );
    }
  } catch (error) {
    if (error instanceof ExpectedError) throw error;
    throw new ExpectedError(
      `The database at ${withoutPassword(url)} cannot be used: ${reason(error)}. Check DATABASE_URL.`,
    );
  } finally {
    await client.end().catch(() => undefined);
  }
}

function reason(error: unknown): string {
  // A name with several addresses fails with one error for each and an empty message of its own.
  if (error instanceof AggregateError) return error.errors.map(reason).join('; ');
  return error instanceof Error ? error.message : String(error);
}

function withoutPassword(url: string): string {
  try {
    const { protocol, hostname, port, pathname } = new URL(url);
    return `${protocol}//${hostname}${port === '' ? '' : `:${port}`}${pathname}`;
  } catch {
    return 'DATABASE_URL';
  }
}

/** Runs `work` in one transaction on one connection. */
export async function inTransaction<T>(pool: pg.Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    await client.query('BEGIN');
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    // A connection that cannot even roll back is not given back to the pool.
    await client.query('ROLLBACK').catch((failure: Error) => {
      broken = failure;
    });
    throw error;
  } finally {
    client.release(broken);
  }
}
