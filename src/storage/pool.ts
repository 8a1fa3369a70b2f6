/** Connections to PostgreSQL, as every pool of the service has them. */
import pg from 'pg';
import type { Logger } from 'pino';
import { PreparingClient } from './preparing-client.js';

/** Opens no connection before it is asked for one. `lost` is said when an idle connection ends. */
export function createPool(config: pg.PoolConfig, log: Logger, lost: string): pg.Pool {
  const pool = new pg.Pool({
    Client: PreparingClient,
    // pg waits for ever by default; a pool that is used up for this long is an outage, not a queue.
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    ...config,
  });
  pool.on('error', (error) => log.warn({ reason: error.message }, lost));
  // A connection that is lost while it is lent has no listener of the pool's: without one it would end the process.
  // Whoever has it learns of the loss from its next query.
  pool.on('connect', (client) => client.on('error', () => undefined));
  return pool;
}
