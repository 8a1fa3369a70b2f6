/** Processes that end in the middle of their work: by an image that crashes them, by a signal, by an update. */
import { randomBytes } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/storage/embedded-postgres.js';
import { MIGRATIONS_DIR, migrate } from '../../src/storage/migrate.js';
import { MODEL_DIR } from '../support/model-dir.js';
import { ended, post, read, smallSmear } from '../support/orders.js';
import { POISON_HOOK, poisoned } from '../support/poison.js';
import {
  cleanUp,
  logEntry,
  type Program,
  preparedDataDir,
  run,
  type Service,
  serve,
  stopAll,
  temporaryFolder,
} from '../support/program.js';

let server: EmbeddedPostgres;
let env: Record<string, string>;
const smears: Buffer[] = [];

beforeAll(async () => {
  for (let seed = 1; seed <= 6; seed++) smears.push(await smallSmear(seed));
});
beforeEach(async () => {
  // The embedded database of one folder plays the server for the others.
  server = await startEmbeddedPostgres({ dataDir: await preparedDataDir(), log: pino({ level: 'silent' }) });
  env = { DATABASE_URL: server.url, WEBHOOK_SECRET: `whsec_${randomBytes(32).toString('base64')}` };
});
afterEach(async () => {
  await stopAll();
  await server.stop();
});
afterAll(cleanUp);

const startApi = (more: Record<string, string> = {}): Promise<Service> =>
  serve({ ...env, DATA_DIR: temporaryFolder(), ...more }, ['serve', '--no-worker']);

/** Starts a worker again whenever it ends by itself, as a supervisor does. */
function supervise(more: Record<string, string>): { readonly ends: string[]; stop(): Promise<void> } {
  const ends: string[] = [];
  let stopping = false;
  let worker: Program;
  const running = (async () => {
    while (!stopping) {
      worker = run(['work'], { ...env, DATA_DIR: temporaryFolder(), ...more });
      const { code, signal } = await worker.ended;
      if (!stopping) ends.push(String(signal ?? code));
    }
  })();
  return {
    ends,
    stop: async () => {
      stopping = true;
      worker.child.kill('SIGTERM');
      await running;
    },
  };
}

describe('images that crash the process', () => {
  it('are given up with a reason after bounded tries, and all others are analysed', async () => {
    const api = await startApi();
    const good = [await post(api, smears.slice(0, 2))];
    const poison = [
      await post(api, [poisoned(smears[2] ?? Buffer.of())]),
      await post(api, [poisoned(smears[3] ?? Buffer.of())]),
    ];
    const mixed = await post(api, [smears[4] ?? Buffer.of(), poisoned(smears[5] ?? Buffer.of())]);
    good.push(await post(api, smears.slice(0, 2)));
    const worker = supervise({ NODE_OPTIONS: POISON_HOOK, WORKER_CONCURRENCY: '2' });
    for (const id of poison) {
      expect(await ended(api, id)).toMatchObject({ status: 'failed', problem: { code: 'image-interrupted' } });
    }
    for (const id of good) expect((await ended(api, id)).status).toBe('completed');
    const { status, images } = await ended(api, mixed);
    expect([status, ...images.map((image) => image.problem?.code ?? image.status)]).toEqual([
      'completed',
      'completed',
      'image-interrupted',
    ]);
    // Each of the three ends a worker at most once; after that it can only end a process of its own.
    expect(worker.ends.length).toBeGreaterThan(0);
    expect(worker.ends.length).toBeLessThanOrEqual(3);
    expect(new Set(worker.ends)).toEqual(new Set(['SIGSEGV']));
    await worker.stop();
  }, 300_000);
});

describe('SIGTERM', () => {
  it('takes the readiness of the API first, while orders are still taken', async () => {
    const api = await startApi({ SHUTDOWN_DELAY_SECONDS: '6' });
    expect((await fetch(`${api.address}/health/ready`)).status).toBe(200);
    api.child.kill('SIGTERM');
    await logEntry(api, 'shutting down: running images are finished first');
    const ready = await fetch(`${api.address}/health/ready`);
    expect([ready.status, await ready.json()]).toMatchObject([503, { errors: [{ field: 'process' }] }]);
    expect((await fetch(`${api.address}/health/live`)).status).toBe(200);
    const id = await post(api, smears.slice(0, 1));
    expect(await api.ended).toMatchObject({ code: 0 });
    // What it took is there for the next.
    const next = await startApi();
    expect((await read({ ...next, headers: api.headers }, id)).status).toBe('queued');
  });

  it('lets a worker finish or hand back its images, which another one then ends', async () => {
    const api = await startApi();
    const first = run(['work'], {
      ...env,
      ...{ DATA_DIR: temporaryFolder(), METRICS_PORT: '0', WORKER_CONCURRENCY: '1' },
      ...{ SHUTDOWN_DELAY_SECONDS: '1', SHUTDOWN_TIMEOUT_SECONDS: '20' },
    });
    const { metricsPort } = await logEntry(first, 'working');
    const orders = await Promise.all(Array.from({ length: 30 }, () => post(api, smears.slice(0, 2))));
    await logEntry(first, 'image analysed');
    first.child.kill('SIGTERM');
    await logEntry(first, 'shutting down: running images are finished first');
    const ready = await fetch(`http://127.0.0.1:${metricsPort}/health/ready`);
    expect([ready.status, await ready.json()]).toMatchObject([503, { checks: [{ name: 'process' }] }]);
    expect(await first.ended).toMatchObject({ code: 0 });
    const left = await Promise.all(orders.map((id) => read(api, id)));
    const states = left.flatMap(({ images }) => images.map((image) => image.status));
    expect(states).toContain('queued');
    expect(states).not.toContain('processing');
    const second = run(['work'], { ...env, DATA_DIR: temporaryFolder() });
    for (const id of orders) expect((await ended(api, id)).status).toBe('completed');
    const client = new pg.Client({ connectionString: server.url });
    await client.connect();
    // Not one was cut off.
    expect((await client.query('SELECT max(attempts) AS runs FROM images')).rows).toEqual([{ runs: 1 }]);
    await client.end();
    second.child.kill('SIGTERM');
    expect(await second.ended).toMatchObject({ code: 0 });
  });
});

describe('an update', () => {
  /** The same networks under the name of another version. */
  function modelVersion(version: string): string {
    const folder = join(temporaryFolder(), version);
    cpSync(MODEL_DIR, folder, { recursive: true });
    const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')) as object;
    writeFileSync(join(folder, 'manifest.json'), JSON.stringify({ ...manifest, version }));
    return folder;
  }

  it('changes schema and model under load without dropping a job, and every result names what made it', async () => {
    const started = (MODEL_DIR: string): Program =>
      run(['work'], { ...env, DATA_DIR: temporaryFolder(), WORKER_CONCURRENCY: '1', MODEL_DIR });
    const api = await startApi();
    const old = started(modelVersion('7.0.0'));
    const orders = await Promise.all(Array.from({ length: 12 }, () => post(api, smears.slice(0, 3))));
    await logEntry(old, 'image analysed');
    // A newer version migrates while this one runs.
    const migrations = temporaryFolder();
    cpSync(MIGRATIONS_DIR, migrations, { recursive: true });
    mkdirSync(join(migrations, '20990101000000_novelty'));
    writeFileSync(
      join(migrations, '20990101000000_novelty', 'migration.sql'),
      'ALTER TABLE images ADD COLUMN novelty int NOT NULL DEFAULT 0; CREATE TABLE novelties (n int PRIMARY KEY);',
    );
    expect(await migrate(server.url, pino({ level: 'silent' }), migrations)).toHaveLength(1);
    // Of this version, started on the newer schema.
    const fresh = started(modelVersion('7.1.0'));
    let working = false;
    const analysed = logEntry(fresh, 'image analysed').finally(() => {
      working = true;
    });
    analysed.catch(() => undefined);
    const client = new pg.Client({ connectionString: server.url });
    await client.connect();
    const waiting = async (): Promise<number> =>
      (await client.query(`SELECT count(*)::int AS n FROM images WHERE status = 'queued'`)).rows[0].n;
    // The load lasts until both work on it, however quick the old one is, and does not pile up, however slow the new one starts.
    while (!working) {
      if ((await waiting()) < 12) orders.push(await post(api, smears.slice(0, 3)));
      await sleep(50);
    }
    await analysed;
    old.child.kill('SIGTERM');
    expect(await old.ended).toMatchObject({ code: 0 });
    orders.push(await post(api, smears.slice(3, 5)));
    const versions = new Set<string | undefined>();
    for (const id of orders) {
      const { status, model, images } = await ended(api, id);
      expect(status).toBe('completed');
      for (const image of images) versions.add(image.model?.version);
      expect(images.map((image) => image.model?.version)).toContain(model?.version);
    }
    expect([...versions].toSorted()).toEqual(['7.0.0', '7.1.0']);
    const { rows } = await client.query('SELECT max(attempts) AS runs, count(*)::int AS images FROM images');
    expect(rows).toEqual([{ runs: 1, images: 3 * orders.length - 1 }]);
    await client.end();
    fresh.child.kill('SIGTERM');
    await fresh.ended;
  });
});
