/**
 * Global setup of the integration tests: one embedded PostgreSQL for the run, and in it a migrated template from which
 * every test file gets a database of its own in some milliseconds.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { pino } from 'pino';
import type { TestProject } from 'vitest/node';
import { openQueues } from '../../src/jobs/queues.js';
import { startEmbeddedPostgres } from '../../src/storage/embedded-postgres.js';
import { migrate } from '../../src/storage/migrate.js';
import { startS3Server } from './s3-server.js';

export const TEMPLATE = 'leukodiff_template';

declare module 'vitest' {
  export interface ProvidedContext {
    /** URL of the server's maintenance database. */
    postgresUrl: string;
    s3Url: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const dataDir = await mkdtemp(join(tmpdir(), 'leukodiff-test-'));
  const log = pino({ level: 'warn' });
  const server = await startEmbeddedPostgres({
    dataDir,
    log,
    // Nothing here has to outlive a power cut.
    settings: { fsync: 'off', max_connections: '200' },
  });
  const template = new URL(server.url);
  template.pathname = `/${TEMPLATE}`;
  const admin = new pg.Client({ connectionString: server.url });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${TEMPLATE}`);
  await admin.end();
  await migrate(template.href, log);
  await (await openQueues({ databaseUrl: template.href, log })).close();
  project.provide('postgresUrl', server.url);
  const s3 = await startS3Server();
  project.provide('s3Url', s3.url);
  return async () => {
    await s3.close();
    await server.stop();
    await rm(dataDir, { recursive: true, force: true });
  };
}
