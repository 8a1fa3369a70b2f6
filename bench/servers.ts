/** PostgreSQL and Redis that all contestants share, settings as in production. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { pino } from 'pino';
import { openQueues } from '../src/jobs/queues.js';
import { startEmbeddedPostgres } from '../src/storage/embedded-postgres.js';
import { migrate } from '../src/storage/migrate.js';
import { freePort, has, start, until } from './processes.js';

const TEMPLATE = 'bench_template';
const log = pino({ level: 'error' });

export interface Servers {
  /** PostgreSQL's first process. */
  readonly postgresPid: number;
  /** Undefined: there is no redis-server. */
  readonly redisUrl: string | undefined;
  /** A migrated, empty database of the service; without `migrated` one without tables. */
  database(migrated?: boolean): Promise<Place>;
  /** A folder that goes with the rest. */
  folder(): string;
  stop(): Promise<void>;
}

export interface Place {
  readonly url: string;
  query<T>(statement: string, values?: readonly unknown[]): Promise<T[]>;
  drop(): Promise<void>;
}

export async function startServers(): Promise<Servers> {
  const root = mkdtempSync(join(tmpdir(), 'leukodiff-bench-'));
  const postgres = await startEmbeddedPostgres({
    dataDir: join(root, 'postgres'),
    log,
    settings: { max_connections: '300' },
  });
  const admin = await connect(postgres.url);
  const urlOf = (name: string): string => {
    const url = new URL(postgres.url);
    url.pathname = `/${name}`;
    return url.href;
  };
  await admin.query(`CREATE DATABASE ${TEMPLATE}`);
  await migrate(urlOf(TEMPLATE), log);
  await (await openQueues({ databaseUrl: urlOf(TEMPLATE), log })).close();
  const redis = await startRedis(root);
  let count = 0;
  return {
    postgresPid: Number(readFileSync(join(root, 'postgres', 'postgres', 'postmaster.pid'), 'utf8').split('\n')[0]),
    redisUrl: redis?.url,
    database: async (migrated = true) => {
      const name = `bench_${++count}`;
      await admin.query(`CREATE DATABASE ${name}${migrated ? ` TEMPLATE ${TEMPLATE}` : ''}`);
      const client = await connect(urlOf(name));
      return {
        url: urlOf(name),
        query: async <T>(statement: string, values: readonly unknown[] = []) =>
          (await client.query(statement, [...values])).rows as T[],
        drop: async () => {
          await client.end();
          await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
        },
      };
    },
    folder: () => mkdtempSync(join(root, 'run-')),
    stop: async () => {
      await admin.end();
      await postgres.stop();
      await redis?.stop();
      rmSync(root, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    },
  };
}

/** After a failure the server ends before its clients do: that must not hide what failed. */
async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

async function startRedis(root: string): Promise<{ url: string; stop: () => Promise<void> } | undefined> {
  if (!has('redis-server')) return undefined;
  const port = await freePort();
  const settings = {
    bind: '127.0.0.1',
    port: String(port),
    dir: root,
    'maxmemory-policy': 'noeviction',
    appendonly: 'yes',
    save: '',
  };
  const redis = start(
    'redis-server',
    Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]),
  );
  await until(redis, () => (redis.output().includes('Ready to accept connections') ? true : undefined));
  return { url: `redis://127.0.0.1:${port}`, stop: redis.stop };
}
