#!/usr/bin/env node
// Writes the migration that leads from the committed prisma/schema.prisma to the one in the working tree:
//   npm run build && node scripts/new-migration.mjs add_something
// Needs no binary: the schema engine runs as WebAssembly beside a throw-away embedded database.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { pino } from 'pino';

const name = process.argv[2];
if (!/^[a-z0-9_]+$/.test(name ?? '')) {
  console.error('usage: node scripts/new-migration.mjs <name_in_snake_case>');
  process.exit(1);
}
const { startEmbeddedPostgres } = await import('../dist/storage/embedded-postgres.js');
const { openSchemaEngine } = await import('../dist/storage/schema-engine.js');
const { MIGRATIONS_DIR } = await import('../dist/storage/migrate.js');

const log = pino({ level: 'warn' });
const dataDir = mkdtempSync(join(tmpdir(), 'leukodiff-migration-'));
const server = await startEmbeddedPostgres({ dataDir, log });
const pool = new pg.Pool({ connectionString: server.url, max: 1 });
try {
  const content = readFileSync(fileURLToPath(new URL('../prisma/schema.prisma', import.meta.url)), 'utf8');
  const committed = spawnSync('git', ['show', 'HEAD:prisma/schema.prisma'], { cwd: MIGRATIONS_DIR, encoding: 'utf8' });
  const from =
    committed.status === 0
      ? { tag: 'schemaDatamodel', files: [{ path: 'schema.prisma', content: committed.stdout }] }
      : { tag: 'empty' };
  const engine = await openSchemaEngine(pool, content);
  const { stdout } = await engine.diff({
    from,
    to: { tag: 'schemaDatamodel', files: [{ path: 'schema.prisma', content }] },
    script: true,
    exitCode: null,
    filters: { externalTables: [], externalEnums: [] },
  });
  if (!stdout || /This is an empty migration/.test(stdout)) {
    console.log('The schema has not changed since the last commit.');
  } else {
    const stamp = new Date().toISOString().replace(/\D/g, '').slice(0, 14);
    const folder = join(MIGRATIONS_DIR, `${stamp}_${name}`);
    mkdirSync(folder);
    writeFileSync(join(folder, 'migration.sql'), stdout);
    console.log(`wrote ${join(folder, 'migration.sql')}`);
  }
} finally {
  await pool.end();
  await server.stop();
  rmSync(dataDir, { recursive: true, force: true });
}
