import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterEach, describe, expect, it } from 'vitest';
import { ExpectedError } from '../../../src/errors.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../../src/storage/embedded-postgres.js';
import { SILENT } from '../../support/database.js';

const folders: string[] = [];
const children: ChildProcess[] = [];
const servers: EmbeddedPostgres[] = [];

afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  for (const server of servers.splice(0)) await server.stop();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** Private to us, as `mktemp -d` makes it: for root that means closed to the user that runs PostgreSQL. */
function dataDir(): string {
  const folder = mkdtempSync(join(tmpdir(), 'leukodiff-embedded-'));
  chmodSync(folder, 0o700);
  folders.push(folder);
  return join(folder, 'data');
}

async function start(folder: string): Promise<EmbeddedPostgres> {
  const server = await startEmbeddedPostgres({ dataDir: folder, log: SILENT });
  servers.push(server);
  return server;
}

async function query<T extends pg.QueryResultRow>(url: string, sql: string): Promise<T[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<T>(sql)).rows;
  } finally {
    await client.end();
  }
}

/** Another program that holds the folder, as `leukodiff serve` does. */
async function startElsewhere(folder: string): Promise<{ child: ChildProcess; url: string }> {
  const script = `
    import { pino } from 'pino';
    import { startEmbeddedPostgres } from './src/storage/embedded-postgres.ts';
    const server = await startEmbeddedPostgres({ dataDir: process.argv[1], log: pino({ level: 'silent' }) });
    console.log(server.url);
    setInterval(() => undefined, 1000);
  `;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script, folder], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const url = await new Promise<string>((settle, fail) => {
    child.stdout?.once('data', (chunk: Buffer) => settle(chunk.toString().trim()));
    child.once('exit', (code) => fail(new Error(`ended with ${code}`)));
  });
  return { child, url };
}

function postmaster(folder: string): number {
  return Number.parseInt(readFileSync(join(folder, 'postgres', 'postmaster.pid'), 'utf8'), 10);
}

function isRunning(pid: number): boolean {
  return spawnSync('kill', ['-0', String(pid)]).status === 0;
}

describe('the embedded PostgreSQL', () => {
  it('makes a UTF-8 database that a restart keeps, and says durability is on', async () => {
    const folder = dataDir();
    const first = await start(folder);
    const [settings] = await query<Record<string, string>>(
      first.url,
      `SELECT current_setting('server_encoding') AS encoding, current_setting('fsync') AS fsync,
              current_setting('synchronous_commit') AS commit, current_setting('listen_addresses') AS listen,
              (SELECT datcollate FROM pg_database WHERE datname = current_database()) AS collation`,
    );
    expect(settings).toEqual({ encoding: 'UTF8', fsync: 'on', commit: 'on', listen: '127.0.0.1', collation: 'C' });
    await query(first.url, `CREATE TABLE kept AS SELECT 'Größe 血' AS word`);
    await first.stop();
    const second = await start(folder);
    expect(await query(second.url, 'SELECT word FROM kept')).toEqual([{ word: 'Größe 血' }]);
  });

  it('keeps its password to its user', async () => {
    const folder = dataDir();
    const server = await start(folder);
    const file = join(folder, 'postgres-password');
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(statSync(join(folder, 'postgres')).mode & 0o077).toBe(0);
    const wrong = new URL(server.url);
    wrong.password = 'guess';
    await expect(query(wrong.href, 'SELECT 1')).rejects.toThrow(/password authentication failed/);
  });

  it('refuses a folder that another process uses, in words, and takes it when that one is gone', async () => {
    const folder = dataDir();
    const { child, url } = await startElsewhere(folder);
    const refusal = start(folder);
    await expect(refusal).rejects.toThrow(ExpectedError);
    await expect(refusal).rejects.toThrow(new RegExp(`in use by another Leukodiff \\(process ${child.pid}\\)`));
    // The one that was there first is none the worse.
    await query(url, 'CREATE TABLE kept AS SELECT 1 AS n');
    child.kill('SIGKILL');
    await new Promise((settle) => child.once('exit', settle));
    const server = await start(folder);
    expect(await query(server.url, 'SELECT n FROM kept')).toEqual([{ n: 1 }]);
  });

  it('ends with its program, also when that is killed', async () => {
    const folder = dataDir();
    const { child } = await startElsewhere(folder);
    const pid = postmaster(folder);
    expect(isRunning(pid)).toBe(true);
    child.kill('SIGKILL');
    for (let waited = 0; isRunning(pid) && waited < 10_000; waited += 50) await sleep(50);
    expect(isRunning(pid)).toBe(false);
  });

  it('recovers when the server itself was killed', async () => {
    const folder = dataDir();
    const server = await start(folder);
    await query(server.url, 'CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n');
    const pid = postmaster(folder);
    process.kill(pid, 'SIGKILL');
    expect(await server.died).toMatch(/SIGKILL/);
    await server.stop();
    expect(existsSync(join(folder, 'postgres', 'postmaster.pid'))).toBe(true);
    const again = await start(folder);
    expect(await query(again.url, 'SELECT count(*)::int AS n FROM kept')).toEqual([{ n: 1000 }]);
  });

  it('recovers when the number in a stale postmaster.pid belongs to somebody else by now', async () => {
    const folder = dataDir();
    const server = await start(folder);
    const pidFile = join(folder, 'postgres', 'postmaster.pid');
    const stale = readFileSync(pidFile, 'utf8').replace(/^\d+/, String(process.pid));
    await server.stop();
    writeFileSync(pidFile, stale);
    const again = await start(folder);
    expect(await query(again.url, 'SELECT 1 AS n')).toEqual([{ n: 1 }]);
  });

  it('takes over a lock file that a crash cut off', async () => {
    const folder = dataDir();
    await (await start(folder)).stop();
    writeFileSync(join(folder, 'leukodiff.lock'), '{"tok');
    const server = await start(folder);
    expect(await query(server.url, 'SELECT 1 AS n')).toEqual([{ n: 1 }]);
  });

  it('leaves nothing behind that stops a first start which was cut off', async () => {
    const folder = dataDir();
    const { child } = await startElsewhere(folder);
    child.kill('SIGKILL');
    await new Promise((settle) => child.once('exit', settle));
    // As a crash in the middle of initdb leaves it.
    const half = dataDir();
    spawnSync('mkdir', ['-p', join(half, 'postgres.new', 'base')]);
    writeFileSync(join(half, 'postgres.new', 'PG_VERSION'), '18\n');
    const server = await start(half);
    expect(await query(server.url, 'SELECT 1 AS n')).toEqual([{ n: 1 }]);
  });

  it('refuses data of another version, and a password file that was lost, in words', async () => {
    const folder = dataDir();
    await (await start(folder)).stop();
    const version = join(folder, 'postgres', 'PG_VERSION');
    writeFileSync(version, '17\n');
    await expect(start(folder)).rejects.toThrow(/written by PostgreSQL 17; this Leukodiff brings 18/);
    writeFileSync(version, '18\n');
    rmSync(join(folder, 'postgres-password'));
    await expect(start(folder)).rejects.toThrow(/Restore that file from a backup/);
    // A refusal gives the folder back.
    expect(existsSync(join(folder, 'leukodiff.lock'))).toBe(false);
  });

  it('refuses a data folder that cannot be one', async () => {
    const folder = dataDir();
    writeFileSync(folder, 'a file');
    await expect(start(folder)).rejects.toThrow(/Set DATA_DIR to another folder/);
  });
});
