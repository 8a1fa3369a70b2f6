/** The whole system on this machine, every part a process, every way between two of them a network that can be spoilt. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Queues } from '../../src/jobs/queues.js';
import { freePort } from '../support/free-port.js';
import { MAIN, NODE_FLAGS } from '../support/main.js';
import { type Network, openNetwork } from '../support/network.js';
import { type Disk, mountDisk, plainFolder } from './disk.js';
import { type Postgres, supervisePostgres } from './postgres.js';
import { type Supervised, supervise } from './process.js';

const LIS = fileURLToPath(new URL('./lis.mjs', import.meta.url));
const WORKERS = 2;

export interface System {
  readonly folder: string;
  readonly api: Supervised;
  readonly workers: readonly Supervised[];
  /** Null: the queue is in PostgreSQL. */
  readonly redis: { readonly server: Supervised; readonly url: string } | null;
  readonly lis: Supervised;
  readonly postgres: Postgres;
  /** By the two that they join. */
  readonly networks: Readonly<Record<string, Network>>;
  readonly disks: Readonly<Record<string, Disk>>;
  readonly address: string;
  readonly callbackUrl: string;
  /** What the LIS noted. */
  readonly received: string;
  /** Whether one of the workers has an image under way. */
  busy(worker: number): Promise<boolean>;
  /** API and workers, as a load balancer asks them. */
  ready(): Promise<boolean>;
  /** `keep`: its folder stays, for a look at the logs. */
  stop(keep?: boolean): Promise<void>;
}

/** Where the jobs lie. */
export type QueueBackend = Queues['backend'];

/** @throws Error for what is none */
export function backendOf(name: string): QueueBackend {
  if (name === 'redis' || name === 'postgres') return name;
  throw new Error('--queue is redis or postgres');
}

export interface SystemOptions {
  /** Default `redis`. */
  readonly queue?: QueueBackend;
  /** Whether disks can be filled and clocks moved; default true. */
  readonly spoilable?: boolean;
}

export async function startSystem({ queue = 'redis', spoilable = true }: SystemOptions = {}): Promise<System> {
  const folder = mkdtempSync(join(tmpdir(), 'leukodiff-chaos-'));
  const path = (...parts: string[]): string => join(folder, ...parts);
  for (const name of ['logs', 'clocks']) mkdirSync(path(name));
  const openDisk = (place: string, mebibytes: number): Disk =>
    spoilable ? mountDisk(place, mebibytes) : plainFolder(place);
  const disks = {
    spool: openDisk(path('api'), 8),
    postgres: openDisk(path('postgres'), 3072),
    ...(queue === 'redis' ? { redis: openDisk(path('redis'), 96) } : {}),
  };
  const part = (name: string) => ({
    ...{ name, log: path('logs', `${name}.log`) },
    ...(spoilable ? { clock: path('clocks', name) } : {}),
  });
  const [apiPort, lisPort] = [await freePort(), await freePort()];
  const toPostgres = { api: await openNetwork(0), workers: await openNetwork(0) };
  const postgres = await supervisePostgres(path('postgres'), path('logs', 'postgres.log'), (port) => {
    for (const network of Object.values(toPostgres)) network.lead(port);
  });
  const redis = queue === 'redis' ? await superviseRedis(path('redis'), path('logs', 'redis.log')) : null;
  const received = path('received.jsonl');
  const lis = supervise({
    name: 'lis',
    log: path('logs', 'lis.log'),
    program: process.execPath,
    args: [LIS, `${lisPort}`, received],
  });
  const toLis = await openNetwork(lisPort);
  const shared = {
    WEBHOOK_SECRET: `whsec_${randomBytes(32).toString('base64')}`,
    WEBHOOK_ENCRYPTION_KEY: randomBytes(32).toString('base64'),
    WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8',
    EXECUTION_PROVIDER: 'cpu',
    LOG_FORMAT: 'json',
  };
  const through = (who: 'api' | 'workers'): Record<string, string> => {
    const url = new URL(postgres.url());
    url.port = String(toPostgres[who].port);
    const toRedis = redis === null ? {} : { REDIS_URL: `redis://127.0.0.1:${redis.networks[who].port}` };
    return { ...shared, DATABASE_URL: url.href, ...toRedis };
  };
  // Two that migrate an empty database at once are tested elsewhere.
  const api = supervise({
    ...part('api'),
    program: process.execPath,
    args: [...NODE_FLAGS, MAIN, 'serve', '--no-worker'],
    env: {
      ...through('api'),
      ...{ DATA_DIR: path('api'), PORT: String(apiPort), ACCESS: 'open', RATE_LIMIT_PER_MINUTE: '0' },
    },
  });
  const metricsPorts: number[] = [];
  const workers: Supervised[] = [];
  for (let n = 0; n < WORKERS; n++) {
    const metricsPort = await freePort();
    metricsPorts.push(metricsPort);
    const worker = supervise({
      ...part(`worker-${n}`),
      program: process.execPath,
      args: [...NODE_FLAGS, MAIN, 'work'],
      env: {
        ...through('workers'),
        ...{ DATA_DIR: path(`worker-${n}`), METRICS_PORT: String(metricsPort) },
        ...{ WORKER_CONCURRENCY: '2', INFERENCE_THREADS: '1' },
      },
    });
    workers.push(worker);
  }
  const address = `http://127.0.0.1:${apiPort}`;
  const ask = async (url: string): Promise<Response | null> =>
    fetch(url, { signal: AbortSignal.timeout(4_000) }).catch(() => null);
  const system: System = {
    ...{ folder, api, workers, lis, postgres, disks, address, received },
    redis: redis === null ? null : { server: redis.server, url: redis.url },
    networks: {
      ...{ 'api-postgres': toPostgres.api, 'workers-postgres': toPostgres.workers },
      ...(redis === null ? {} : { 'api-redis': redis.networks.api, 'workers-redis': redis.networks.workers }),
      ...{ 'workers-lis': toLis },
    },
    callbackUrl: `http://127.0.0.1:${toLis.port}/results`,
    busy: async (worker) => {
      const metrics = await ask(`http://127.0.0.1:${metricsPorts[worker]}/metrics`);
      return /^leukodiff_worker_images [1-9]/m.test((await metrics?.text().catch(() => '')) ?? '');
    },
    ready: async () => {
      const places = [address, ...metricsPorts.map((port) => `http://127.0.0.1:${port}`)];
      const answers = await Promise.all(places.map((place) => ask(`${place}/health/ready`)));
      for (const answer of answers) await answer?.arrayBuffer().catch(() => undefined);
      return answers.every((answer) => answer?.status === 200);
    },
    stop: async (keep = false) => {
      await Promise.all([api, ...workers, lis].map((one) => one.stop()));
      await redis?.server.stop();
      await postgres.stop();
      for (const network of Object.values(system.networks)) await network.close();
      for (const disk of Object.values(disks)) disk.unmount();
      if (keep) return;
      rmSync(folder, { recursive: true, force: true });
    },
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => void system.stop().finally(() => process.exit(1)));
  }
  const deadline = Date.now() + 120_000;
  while (!(await system.ready())) {
    if (Date.now() > deadline) {
      await system.stop(true);
      throw new Error(`The system did not start; its logs are in ${path('logs')}.`);
    }
    await sleep(200);
  }
  return system;
}

async function superviseRedis(folder: string, log: string) {
  const port = await freePort();
  // libfaketime and Redis's allocator do not go together: its clock, like PostgreSQL's, stays true.
  const server = supervise({
    ...{ name: 'redis', log },
    program: 'redis-server',
    args: Object.entries({
      ...{ bind: '127.0.0.1', port, dir: folder },
      // As docs/operations.md says.
      ...{ 'maxmemory-policy': 'noeviction', appendonly: 'yes', save: '' },
    }).flatMap(([name, value]) => [`--${name}`, `${value}`]),
  });
  const networks = { api: await openNetwork(port), workers: await openNetwork(port) };
  return { server, url: `redis://127.0.0.1:${port}`, networks };
}
