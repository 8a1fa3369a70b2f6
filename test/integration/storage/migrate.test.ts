import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openDatabase } from '../../../src/storage/database.js';
import { MIGRATIONS_DIR, migrate } from '../../../src/storage/migrate.js';
import { createTestDatabase, SILENT } from '../../support/database.js';

let url: string;
let drop: () => Promise<void>;
let directory: string;

beforeEach(async () => {
  ({ url, drop } = await createTestDatabase({ empty: true }));
  directory = mkdtempSync(join(tmpdir(), 'leukodiff-migrations-'));
  cpSync(MIGRATIONS_DIR, directory, { recursive: true });
});
afterEach(async () => {
  await drop();
  rmSync(directory, { recursive: true, force: true });
});

function addMigration(name: string, sql: string): void {
  mkdirSync(join(directory, name));
  writeFileSync(join(directory, name, 'migration.sql'), sql);
}

async function query<T extends pg.QueryResultRow>(sql: string): Promise<T[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<T>(sql)).rows;
  } finally {
    await client.end();
  }
}

describe('migrate', () => {
  it('applies every migration once, also from several processes at the same time', async () => {
    const all = await Promise.all(Array.from({ length: 4 }, () => migrate(url, SILENT)));
    expect(all.filter((applied) => applied.length > 0)).toHaveLength(1);
    expect(await migrate(url, SILENT)).toEqual([]);
    // The table is Prisma's own, so that `prisma migrate deploy` agrees.
    const rows = await query(
      `SELECT migration_name, finished_at IS NOT NULL AS done, applied_steps_count AS steps FROM _prisma_migrations
        ORDER BY migration_name`,
    );
    const folders = readdirSync(MIGRATIONS_DIR, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    const names = folders.map(({ name }) => name).sort();
    expect(names[0]).toBe('20261123000000_init');
    expect(rows).toEqual(names.map((name) => ({ migration_name: name, done: true, steps: 1 })));
  });

  it('applies what is new', async () => {
    await migrate(url, SILENT, directory);
    addMigration('20990101000000_more', 'CREATE TABLE more (n int);');
    expect(await migrate(url, SILENT, directory)).toEqual(['20990101000000_more']);
    expect(await query('SELECT * FROM more')).toEqual([]);
  });

  it('uses a database to which a newer version has added something', async () => {
    addMigration('20990101000000_future', 'CREATE TABLE future (n int);');
    await migrate(url, SILENT, directory);
    expect(await migrate(url, SILENT)).toEqual([]);
    const database = await openDatabase({ databaseUrl: url, dataDir: '/nonexistent', log: SILENT });
    await database.close();
  });

  it('refuses a database from which a newer version has taken something', async () => {
    addMigration('20990101000000_future', 'CREATE TABLE future (n int);');
    addMigration('20990102000000_breaking_past', 'ALTER TABLE images DROP COLUMN filename;');
    await migrate(url, SILENT, directory);
    await expect(migrate(url, SILENT)).rejects.toThrow(
      /another version of Leukodiff \(20990101000000_future, 20990102000000_breaking_past\)/,
    );
  });

  it('refuses a database that went another way', async () => {
    await migrate(url, SILENT);
    await query(`DELETE FROM _prisma_migrations WHERE migration_name LIKE '%_turns'`);
    await query(
      `INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at, applied_steps_count)
       VALUES ('x', 'x', '20990101000000_other', now(), 1) RETURNING id`,
    );
    await expect(migrate(url, SILENT)).rejects.toThrow(/another version of Leukodiff \(20990101000000_other\)/);
  });

  it('says which migration failed, and goes no further with a half-changed database', async () => {
    addMigration('20990101000000_broken', 'CREATE TABLE half (n int); SELECT nonsense;');
    await expect(migrate(url, SILENT, directory)).rejects.toThrow(/20990101000000_broken/);
    await expect(migrate(url, SILENT, directory)).rejects.toThrow(/20990101000000_broken failed earlier/);
  });
});

describe('opening a database', () => {
  it('says without the password why a server cannot be used', async () => {
    const open = (databaseUrl: string) => openDatabase({ databaseUrl, dataDir: '/nonexistent', log: SILENT });
    const wrong = new URL(url);
    wrong.password = 'topsecret';
    const refusal = open(wrong.href);
    await expect(refusal).rejects.toThrow(/cannot be used: password authentication failed/);
    await expect(refusal).rejects.not.toThrow(/topsecret/);
    await expect(open('postgresql://u:topsecret@127.0.0.1:1/x')).rejects.toThrow(
      /^The database at postgresql:\/\/127.0.0.1:1\/x cannot be used: .*ECONNREFUSED/,
    );
  });

  it('refuses an encoding that cannot store every name', async () => {
    const [{ name } = { name: '' }] = await query<{ name: string }>('SELECT current_database() AS name');
    await query(`CREATE DATABASE ${name}_latin ENCODING 'LATIN1' TEMPLATE template0`);
    const latin = new URL(url);
    latin.pathname = `/${name}_latin`;
    await expect(openDatabase({ databaseUrl: latin.href, dataDir: '/nonexistent', log: SILENT })).rejects.toThrow(
      /ENCODING 'UTF8'/,
    );
    await query(`DROP DATABASE ${name}_latin WITH (FORCE)`);
  });
});
