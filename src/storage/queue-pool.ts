/** Connections for the queue's own tables, which lie in the schema `bullmq` of the service's database. */
import type pg from 'pg';
import type { Logger } from 'pino';
import { createPool } from './pool.js';

/** Shared by the queues of one process: one listens for all workers, the rest is for queries. */
const POOL_SIZE = 8;

export function openQueuePool(databaseUrl: string, log: Logger): pg.Pool {
  const config = {
    connectionString: databaseUrl,
    // BullMQ's statements name its tables without their schema. A job that a crash of the server takes back is put there again by the
    // sweep, from the rows that it stands for: waiting for the disk would only cost time (docs/decisions/0086).
    options: '-c search_path=bullmq -c synchronous_commit=off',
    max: POOL_SIZE,
    application_name: 'leukodiff-queue',
  };
  const pool = createPool(config, log, 'an idle queue connection was lost');
  // Every queue and worker adds an error listener to the pool they share.
  pool.setMaxListeners(50);
  return pool;
}
