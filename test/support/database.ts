/** A database and queues of its own for a test file, on the servers that the run started. */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { type Logger, pino } from 'pino';
import { inject } from 'vitest';
import { openQueues, type Queues } from '../../src/jobs/queues.js';
import { type Database, type ImageObjects, openDatabase } from '../../src/storage/database.js';
import { TEMPLATE } from './database-setup.js';
import { objectsAt } from './object-store.js';

export const SILENT: Logger = pino({ level: 'silent' });

export interface TestDatabase {
  readonly database: Database;
  readonly url: string;
  /** Closes it and drops it. */
  readonly close: () => Promise<void>;
}

/** Where this run keeps posted images; null: in PostgreSQL. */
export const testObjects = (): ImageObjects | null => objectsAt(inject('s3Url'));

/** A migrated, empty database. */
export async function openTestDatabase(objects: ImageObjects | null = testObjects()): Promise<TestDatabase> {
  const created = await createTestDatabase();
  const database = await openDatabase({
    databaseUrl: created.url,
    dataDir: '/nonexistent',
    log: SILENT,
    objects,
  });
  return {
    database,
    url: created.url,
    close: async () => {
      await database.close();
      await created.drop();
    },
  };
}

/** A database that nobody has opened yet; migrated unless `empty`. */
export async function createTestDatabase({ empty = false } = {}): Promise<{ url: string; drop: () => Promise<void> }> {
  const name = `test_${randomBytes(8).toString('hex')}`;
  const server = inject('postgresUrl');
  await admin(server, `CREATE DATABASE ${name}${empty ? '' : ` TEMPLATE ${TEMPLATE}`}`);
  const url = new URL(server);
  url.pathname = `/${name}`;
  return { url: url.href, drop: () => admin(server, `DROP DATABASE ${name} WITH (FORCE)`) };
}

/** Which backend this run is about: every integration test passes on both. */
export const QUEUE_BACKEND: 'postgres' | 'redis' = process.env['TEST_QUEUE'] === 'redis' ? 'redis' : 'postgres';

/** Where the queues of one test file live, kept apart from those of others. */
export interface QueuePlace {
  readonly databaseUrl: string;
  readonly redisUrl?: string;
  readonly prefix?: string;
}

export function queuePlace(database: Database): QueuePlace {
  if (QUEUE_BACKEND === 'postgres') return { databaseUrl: database.url };
  const redisUrl = process.env['TEST_REDIS_URL'];
  if (redisUrl === undefined) throw new Error('TEST_QUEUE=redis needs TEST_REDIS_URL');
  return { databaseUrl: database.url, redisUrl, prefix: `test-${randomBytes(8).toString('hex')}` };
}

/** Queues on the backend of this run. */
export async function openTestQueues(
  database: Database,
  log: Logger = SILENT,
  place: QueuePlace = queuePlace(database),
): Promise<Queues> {
  return openQueues({ ...place, log });
}

async function admin(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}
