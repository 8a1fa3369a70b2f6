/** Two clocks, this process' and the database's: times in rows are the latter's, and it is the one that all processes share. */
import type { Database } from './database.js';

/** Seconds by which this process' clock is ahead of the database's (below 0: behind), to within half of the time that asking takes. */
export async function readClockOffset(db: Database): Promise<number> {
  // Waiting for a free connection would count as being ahead.
  const client = await db.pool.connect();
  try {
    const asked = Date.now();
    const { rows } = await client.query<{ now: number }>('SELECT extract(epoch FROM clock_timestamp())::float8 AS now');
    const answered = Date.now();
    return (asked + answered) / 2000 - (rows[0]?.now ?? Number.NaN);
  } finally {
    client.release();
  }
}
