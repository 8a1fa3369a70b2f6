/** docs/operations.md, backing up a PostgreSQL server: pg_dump while the service runs, pg_restore into an empty database. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { freePort } from '../support/free-port.js';
import { ended, post, read, smallSmear } from '../support/orders.js';
import { cleanUp, serve, stopAll, temporaryFolder } from '../support/program.js';

/** Debian's: the server with the tools of its own version. */
const VERSIONS = '/usr/lib/postgresql';

let bin: string;
let port: number;
let server: ChildProcess;

function run(program: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(join(bin, program), args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${program} failed: ${stderr}`);
  return stdout;
}

beforeAll(async () => {
  const newest = existsSync(VERSIONS) ? readdirSync(VERSIONS).toSorted((a, b) => Number(b) - Number(a))[0] : undefined;
  if (newest === undefined) throw new Error('There is no PostgreSQL server: apt-get install postgresql');
  bin = join(VERSIONS, newest, 'bin');
  port = await freePort();
  const folder = temporaryFolder();
  const cluster = join(folder, 'cluster');
  mkdirSync(cluster, { mode: 0o700 });
  // PostgreSQL refuses to be root.
  const account = process.getuid?.() === 0 ? ownerOf('postgres') : null;
  if (account !== null) {
    for (const path of [folder, cluster]) chownSync(path, account.uid, account.gid);
  }
  const made = spawnSync(join(bin, 'initdb'), ['-D', cluster, '-U', 'leukodiff', '-A', 'trust', '-E', 'UTF8'], {
    ...account,
    encoding: 'utf8',
  });
  if (made.status !== 0) throw new Error(made.stderr);
  const settings = { port: String(port), listen_addresses: '127.0.0.1', unix_socket_directories: '' };
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  server = spawn(join(bin, 'postgres'), ['-D', cluster, ...flags], { ...account, stdio: 'ignore' });
  for (
    let attempt = 0;
    spawnSync(join(bin, 'pg_isready'), ['-h', '127.0.0.1', '-p', `${port}`]).status !== 0;
    attempt++
  ) {
    if (attempt > 200) throw new Error('PostgreSQL did not start.');
    await sleep(100);
  }
});
afterEach(stopAll);
afterAll(async () => {
  const exit = new Promise((settle) => server.once('exit', settle));
  server.kill('SIGINT');
  await exit;
  await cleanUp();
});

function ownerOf(user: string): { uid: number; gid: number } {
  const [uid, gid] = ['-u', '-g'].map((flag) => Number(spawnSync('id', [flag, user], { encoding: 'utf8' }).stdout));
  return { uid: uid ?? -1, gid: gid ?? -1 };
}

it('a dump of the running service brings everything back that it held, and finishes what was waiting', async () => {
  const url = (database: string): string => `postgresql://leukodiff@127.0.0.1:${port}/${database}`;
  run('createdb', '-h', '127.0.0.1', '-p', `${port}`, '-U', 'leukodiff', 'leukodiff');
  const DATA_DIR = temporaryFolder();
  const env = { DATA_DIR, ACCESS: 'open' };
  const images = [await smallSmear(1), await smallSmear(2)];
  const service = await serve({ ...env, DATABASE_URL: url('leukodiff'), WORKER_CONCURRENCY: '1' });
  const done = await ended(service, await post(service, images));
  const waiting = await Promise.all(Array.from({ length: 10 }, () => post(service, images)));
  const dump = join(temporaryFolder(), 'leukodiff.dump');
  run('pg_dump', '--format=custom', `--file=${dump}`, url('leukodiff'));
  const later = await post(service, images);
  await service.stop();

  run('createdb', '-h', '127.0.0.1', '-p', `${port}`, '-U', 'leukodiff', 'restored');
  run('pg_restore', '--exit-on-error', '--no-owner', `--dbname=${url('restored')}`, dump);
  const restored = await serve({ ...env, DATABASE_URL: url('restored') });
  const withoutLinks = (value: unknown): unknown =>
    JSON.parse(JSON.stringify(value, (key, inner: unknown) => (key === 'links' ? undefined : inner)));
  expect(withoutLinks(await read(restored, done.id))).toEqual(withoutLinks(done));
  for (const id of waiting) expect((await ended(restored, id)).status).toBe('completed');
  await expect(read(restored, later)).rejects.toThrow(/404/);
  expect(await restored.stop()).toMatchObject({ code: 0 });
});
