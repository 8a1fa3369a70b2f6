/** `leukodiff migrate`: brings the tables of service and queue up to date, and nothing else. */
import type { Config } from '../config.js';
import { openQueues } from '../jobs/queues.js';
import { createLogger } from '../observability/logger.js';
import { openDatabase } from '../storage/database.js';
import { migrate as applyMigrations } from '../storage/migrate.js';

export async function migrate(config: Config): Promise<void> {
  const log = createLogger({
    level: config.logLevel === 'info' ? 'warn' : config.logLevel,
    format: config.logFormat,
    stream: 'stderr',
  });
  const db = await openDatabase({ databaseUrl: config.databaseUrl, dataDir: config.dataDir, log, migrate: false });
  try {
    const applied = await applyMigrations(db.url, log);
    // On Redis the queue has no tables; on PostgreSQL opening it brings them up to date.
    if (config.redisUrl === undefined) await (await openQueues({ databaseUrl: db.url, log })).close();
    process.stdout.write(applied.length === 0 ? 'The database is up to date.\n' : `Applied: ${applied.join(', ')}\n`);
  } finally {
    await db.close();
  }
}
