/** Brings the tables up to date; safe to run from several processes at once. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { MigrationList } from '@prisma/schema-engine-wasm';
import pg from 'pg';
import type { Logger } from 'pino';
import { ExpectedError } from '../errors.js';
import { openSchemaEngine } from './schema-engine.js';

/** "LEUK" as a number: the advisory lock that lets one process migrate while the others wait. */
const MIGRATION_LOCK = 0x4c45554b;

/** Where the migrations lie, seen from both `src/storage` and `dist/storage`. */
export const MIGRATIONS_DIR = fileURLToPath(new URL('../../prisma/migrations', import.meta.url));

/** After the time stamp in the name of a migration that older versions cannot live with. */
const BREAKING = /^\d+_breaking_/;

/**
 * Applies the migrations that `databaseUrl` lacks and returns their names. A database that a newer version migrated is
 * used as it is: migrations add, and those that take something away say so by their name. Throws `ExpectedError` when
 * the history does not fit: a migration failed before, or a newer one breaks this version.
 */
export async function migrate(
  databaseUrl: string,
  log: Logger,
  directory = MIGRATIONS_DIR,
): Promise<readonly string[]> {
  // The lock belongs to a connection, so it has one of its own.
  const holder = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: 10_000 });
  // A lost connection also rejects the query in flight; without a listener it would end the process as well.
  holder.on('error', () => undefined);
  await holder.connect();
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 1, connectionTimeoutMillis: 10_000 });
  pool.on('error', () => undefined);
  try {
    await holder.query('SELECT pg_advisory_lock($1)', [MIGRATION_LOCK]);
    const migrationsList = await readMigrations(directory);
    const filters = { externalTables: [], externalEnums: [] };
    if (await isUpToDate(holder, migrationsList)) return [];
    const engine = await openSchemaEngine(pool);
    try {
      const diagnosis = await engine.diagnoseMigrationHistory({
        migrationsList,
        optInToShadowDatabase: false,
        filters,
      });
      const [failed] = diagnosis.failedMigrationNames;
      if (failed !== undefined) {
        throw new ExpectedError(
          `The migration ${failed} failed earlier and left the database half changed. Restore it from a backup, or ` +
            'repair it by hand and mark the migration with `npx prisma migrate resolve`.',
        );
      }
      const { history } = diagnosis;
      if (
        history?.diagnostic === 'migrationsDirectoryIsBehind' &&
        !history.unpersistedMigrationNames.some(isBreaking)
      ) {
        log.warn({ migrations: history.unpersistedMigrationNames }, 'a newer version has migrated the database');
        return [];
      }
      if (history !== null && history.diagnostic !== 'databaseIsBehind') {
        throw new ExpectedError(
          `The database was migrated by another version of Leukodiff (${history.unpersistedMigrationNames.join(', ')}). ` +
            'Run that version or a newer one.',
        );
      }
      const { appliedMigrationNames } = await engine.applyMigrations({ migrationsList, filters });
      if (appliedMigrationNames.length > 0) log.info({ migrations: appliedMigrationNames }, 'database migrated');
      return appliedMigrationNames;
    } finally {
      engine.free();
    }
  } finally {
    await pool.end();
    // Ending the connection also releases the lock.
    await holder.end();
  }
}

function isBreaking(name: string): boolean {
  return BREAKING.test(name);
}

/** The usual case at start, answered by one query: instantiating the engine costs a good part of a second. */
async function isUpToDate(client: pg.Client, { migrationDirectories }: MigrationList): Promise<boolean> {
  const { rows: table } = await client.query<{ present: boolean }>(
    `SELECT to_regclass('_prisma_migrations') IS NOT NULL AS present`,
  );
  if (table[0]?.present !== true) return false;
  const { rows } = await client.query<{ name: string; done: boolean }>(
    'SELECT migration_name AS name, bool_or(finished_at IS NOT NULL AND rolled_back_at IS NULL) AS done ' +
      'FROM _prisma_migrations GROUP BY migration_name',
  );
  const done = new Set(rows.filter((row) => row.done).map((row) => row.name));
  return (
    rows.length === done.size &&
    done.size === migrationDirectories.length &&
    migrationDirectories.every(({ path }) => done.has(path))
  );
}

async function readMigrations(directory: string): Promise<MigrationList> {
  const entries = await readdir(directory, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  return {
    baseDir: directory,
    lockfile: { path: 'migration_lock.toml', content: await readFile(join(directory, 'migration_lock.toml'), 'utf8') },
    shadowDbInitScript: '',
    migrationDirectories: await Promise.all(
      names.sort().map(async (name) => ({
        path: name,
        migrationFile: {
          path: 'migration.sql',
          content: { tag: 'ok' as const, value: await readFile(join(directory, name, 'migration.sql'), 'utf8') },
        },
      })),
    ),
  };
}
