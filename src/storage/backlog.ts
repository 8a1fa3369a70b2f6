/** What is committed and still to be done, whatever the queue knows of it. */
import type { Backlog } from '../observability/backlog-metrics.js';
import type { Database } from './database.js';

export async function readBacklog(db: Database): Promise<Backlog> {
  const { rows } = await db.pool.query<Backlog>(
    `SELECT (SELECT count(*)::int FROM images WHERE status IN ('queued', 'processing')) AS images,
            (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM analyses
              WHERE status IN ('queued', 'processing')) AS "oldestSeconds",
            (SELECT count(*)::int FROM deliveries WHERE status = 'pending') AS deliveries,
            (SELECT count(*)::int FROM report_deliveries WHERE status = 'pending') AS reports`,
  );
  const [backlog] = rows;
  if (backlog === undefined) throw new Error('a query without FROM gives one row');
  return backlog;
}
