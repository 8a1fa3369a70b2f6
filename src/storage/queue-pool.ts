/** Connections for the queue's own tables, which lie in the schema `bullmq` of the service's database. */
import pg from 'pg';
import type { Logger } from 'pino';
import { PreparingClient } from './preparing-client.js';

/** Shared by the queues of one process: one LISTEN for each worker, the rest for queries. */
const POOL_SIZE = 12;

export function openQueuePool(databaseUrl: string, log: Logger): pg.Pool {
  const pool = new pg.Pool({
    Client: PreparingClient,
    connectionString: databaseUrl,
    // BullMQ's statements name its tables without their schema. A job that a crash of the server takes back is put there again by the
    // sweep, from the rows that it stands for: waiting for the disk would only cost time (docs/decisions/0086).
    options: '-c search_path=bullmq -c synchronous_commit=off',
    max: POOL_SIZE,
    keepAlive: true,
    connectionTimeoutMillis: 10_000,
    application_name: 'leukodiff-queue',
  });
  // Every queue and worker adds an error listener to the pool they share.
  pool.setMaxListeners(50);
  pool.on('error', (error) => log.warn({ reason: error.message }, 'an idle queue connection was lost'));
  // A connection that is lost while it is lent has no listener of the pool's: without one it would end the process.
  // Whoever has it learns of the loss from its next query.
  pool.on('connect', (client) => client.on('error', () => undefined));
  return pool;
}
