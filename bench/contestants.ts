/** Who is measured: each can be started on a database of its own, saturated, and stopped. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { MAIN, NODE_FLAGS } from '../test/support/main.js';
import { MODEL_DIR } from '../test/support/model-dir.js';
import {
  type Orders,
  ordersOf,
  saturateDirect,
  saturateQueue,
  type Target,
  type Throughput,
  type Window,
} from './load.js';
import { allocator, freePort, logEntry, type Running, start, until } from './processes.js';
import type { Place, Servers } from './servers.js';
import { figure } from './statistics.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const PEERS = join(ROOT, 'bench', 'peers');
const PYTHON = join(ROOT, 'bench', '.venv', 'bin', 'python');
export const INSTALL_PEERS =
  'python3 -m venv bench/.venv && bench/.venv/bin/pip install -r bench/peers/requirements.txt';
/** Images that wait while the queue is full. */
const DEPTH = 64;

export interface Started {
  readonly target: Target;
  /** Processes whose group uses the processor for it. */
  readonly processes: readonly Running[];
  readonly place: Place;
  /** With orders of these images; returns when all of them are done. */
  saturate(frames: readonly Buffer[], window: Window): Promise<Throughput>;
  stop(): Promise<void>;
}

/** Nobody else moves: some look around a hundred times a second for something to do. */
export async function inTurn<T>({ processes }: Started, work: () => Promise<T>): Promise<T> {
  for (const one of processes) one.resume();
  try {
    return await work();
  } finally {
    for (const one of processes) one.pause();
  }
}

export interface Contestant {
  readonly name: string;
  /** What is tuned, in words. */
  readonly setting: string;
  start(): Promise<Started>;
}

/** Starts the program as an operator does, with a key of its first start. */
export function leukodiff(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  nodeFlags: readonly string[] = [],
): Running {
  if (!existsSync(MAIN)) throw new Error('dist/start.cjs is missing: npm run build');
  return start(process.execPath, [...NODE_FLAGS, ...nodeFlags, MAIN, ...args], {
    MODEL_DIR,
    EXECUTION_PROVIDER: 'cpu',
    NODE_ENV: 'production',
    ...allocator(),
    LOG_FORMAT: 'json',
    PORT: '0',
    RATE_LIMIT_PER_MINUTE: '0',
    ACCESS: 'open',
    ...env,
  });
}

export async function serviceTarget(running: Running): Promise<Target> {
  const { address } = await logEntry(running, 'listening');
  return { address: String(address), headers: {} };
}

async function countIn(place: Place, rows: string): Promise<number> {
  const [found] = await place.query<{ count: string }>(`SELECT count(*) FROM ${rows}`);
  return Number(found?.count);
}

/** Images of the service that are not done. Asked several times a second: an index answers it. */
export const waitingIn = (place: Place): Promise<number> =>
  countIn(place, `images WHERE status IN ('queued', 'processing')`);

/** @throws Error when an image failed: nothing that is measured here may */
export async function doneIn(place: Place): Promise<number> {
  const failed = await countIn(place, `images WHERE status = 'failed'`);
  if (failed > 0) throw new Error(`${failed} images failed`);
  return countIn(place, `images WHERE status = 'completed'`);
}

/** Fills the service's queue with orders; fails when an image does. */
export async function saturateService(
  target: Target,
  place: Place,
  orders: Orders,
  window: Window,
  depth = DEPTH,
): Promise<Throughput> {
  const result = await saturateQueue(target, orders, depth, window, () => waitingIn(place));
  await doneIn(place);
  return result;
}

export interface ServiceOptions {
  readonly queue?: 'postgres' | 'redis';
  /** Default: as it is. */
  readonly env?: Readonly<Record<string, string>>;
  readonly nodeFlags?: readonly string[];
  /** Default 1. */
  readonly imagesPerOrder?: number;
}

/** `leukodiff serve`. */
export function service(
  servers: Servers,
  { queue = 'postgres', env = {}, nodeFlags = [], imagesPerOrder = 1 }: ServiceOptions = {},
): Contestant {
  const loaded = imagesPerOrder === 1 ? '' : `, orders of ${imagesPerOrder} images`;
  return {
    name: `Leukodiff${queue === 'redis' ? ', queue on Redis' : ''}${loaded}`,
    setting: Object.keys(env).length === 0 ? 'defaults' : JSON.stringify(env),
    start: async () => {
      const place = await servers.database();
      // A queue of one round must not be found by the next: databases of Redis are numbered.
      const redis = queue === 'redis' ? { REDIS_URL: await emptyRedis(servers) } : {};
      const settings = {
        DATABASE_URL: place.url,
        DATA_DIR: servers.folder(),
        MAX_QUEUE_DEPTH: String(DEPTH),
        ...redis,
        ...env,
      };
      const running = leukodiff(['serve'], settings, nodeFlags);
      const target = await serviceTarget(running);
      return {
        target,
        place,
        processes: [running],
        saturate: (frames, window) => saturateService(target, place, ordersOf(frames, imagesPerOrder), window),
        stop: async () => {
          await running.stop();
          await place.drop();
        },
      };
    },
  };
}

let redisDatabase = 0;
/** One of the sixteen databases of the Redis server; by then what the first held is done or forgotten. */
export async function emptyRedis({ redisUrl }: Servers): Promise<string> {
  if (redisUrl === undefined) throw new Error('no redis-server in the path');
  const url = `${redisUrl}/${redisDatabase++ % 16}`;
  const client = new Redis(url);
  await client.flushdb();
  client.disconnect();
  return url;
}

export interface PeerSetting {
  readonly workers: number;
  readonly threads: number;
}

/** What a careful user would try on so many cores: a process for each, one process for all, and half as many of both. */
function peerSettings(cores: number): PeerSetting[] {
  const half = Math.max(1, Math.round(cores / 2));
  const all = [
    { workers: cores, threads: 1 },
    { workers: 1, threads: cores },
    { workers: half, threads: Math.max(1, Math.floor(cores / half)) },
  ];
  return all.filter((one, i) => all.findIndex((other) => JSON.stringify(other) === JSON.stringify(one)) === i);
}

export type PeerKind = 'direct' | 'queued' | 'litserve';
const PEER_NAMES: Readonly<Record<PeerKind, string>> = {
  direct: 'FastAPI + uvicorn, synchronous',
  queued: 'FastAPI + arq (Redis)',
  litserve: 'LitServe',
};

/** Ends the name of a peer that does no more than run the networks on an image and store what they say (bench/peers/pipeline.py). */
export const THE_LEAST = ', the least';

/**
 * With the job of the service's answer (bench/peers/whole.py), or the least of it.
 * @throws Error where Python's packages are missing, with the command that installs them
 */
export function peer(
  servers: Servers,
  kind: PeerKind,
  { workers, threads }: PeerSetting,
  job: 'whole' | 'least' = 'whole',
): Contestant {
  if (!existsSync(PYTHON)) throw new Error(`no ${PYTHON}: ${INSTALL_PEERS}`);
  return {
    name: `${PEER_NAMES[kind]}${job === 'least' ? THE_LEAST : ''}`,
    setting: `${workers} process${workers === 1 ? '' : 'es'} × ${threads} thread${threads === 1 ? '' : 's'}`,
    start: async () => {
      const place = await servers.database(false);
      const port = await freePort();
      const env = {
        MODEL_DIR,
        PEER_JOB: job,
        PEER_THREADS: String(threads),
        PEER_WORKERS: String(workers),
        PEER_PORT: String(port),
        PEER_DATABASE_URL: place.url,
        PYTHONPATH: PEERS,
        PYTHONDONTWRITEBYTECODE: '1',
        ...(kind === 'queued' ? { PEER_REDIS_URL: await emptyRedis(servers), PEER_QUEUE: 'peer' } : {}),
      };
      const uvicorn = (module: string, count: number): Running =>
        start(
          PYTHON,
          [
            '-m',
            'uvicorn',
            `${module}:app`,
            '--port',
            String(port),
            '--workers',
            String(count),
            '--log-level',
            'warning',
          ],
          env,
        );
      const processes =
        kind === 'direct'
          ? [uvicorn('direct', workers)]
          : kind === 'litserve'
            ? [start(PYTHON, [join(PEERS, 'litserve_server.py')], env)]
            : [
                uvicorn('queued', 1),
                ...Array.from({ length: workers }, () => start(PYTHON, ['-m', 'arq', 'queued.WorkerSettings'], env)),
              ];
      const target = { address: `http://127.0.0.1:${port}`, headers: {} };
      const [front] = processes;
      if (front === undefined) throw new Error('nothing was started');
      await until(front, () => answers(`${target.address}/health`));
      const waiting = (): Promise<number> => countIn(place, `peer_images WHERE status = 'queued'`);
      return {
        target,
        place,
        processes,
        saturate: (frames, window) =>
          kind === 'queued'
            ? saturateQueue(target, ordersOf(frames), DEPTH, window, waiting)
            : saturateDirect(target, ordersOf(frames), Math.max(2, 2 * workers), window),
        stop: async () => {
          await Promise.all(processes.map((one) => one.stop()));
          await place.drop();
        },
      };
    },
  };
}

async function answers(url: string): Promise<true | undefined> {
  try {
    return (await fetch(url)).ok ? true : undefined;
  } catch {
    return undefined;
  }
}

export interface Tuned {
  readonly best: PeerSetting;
  readonly imagesPerSecond: number;
  readonly tried: readonly { readonly setting: string; readonly imagesPerSecond: number }[];
}

/** Of a trial: a peer has nothing to compile. */
const TRIAL_WARM_UP_SECONDS = 5;

/** The best of a peer's settings by a short trial of each. */
export async function tuned(
  servers: Servers,
  kind: PeerKind,
  cores: number,
  frames: readonly Buffer[],
  seconds: number,
): Promise<Tuned> {
  const tried: { setting: string; imagesPerSecond: number; which: PeerSetting }[] = [];
  for (const which of peerSettings(cores)) {
    const contestant = peer(servers, kind, which);
    const started = await contestant.start();
    try {
      const { imagesPerSecond } = await started.saturate(frames, { warmUpSeconds: TRIAL_WARM_UP_SECONDS, seconds });
      tried.push({ setting: contestant.setting, imagesPerSecond, which });
      console.log(`  ${contestant.name}, ${contestant.setting}: ${figure(imagesPerSecond)} images/s`);
    } finally {
      await started.stop();
    }
  }
  const [first] = [...tried].sort((a, b) => b.imagesPerSecond - a.imagesPerSecond);
  if (first === undefined) throw new Error('nothing to choose from');
  return {
    best: first.which,
    imagesPerSecond: first.imagesPerSecond,
    tried: tried.map(({ setting, imagesPerSecond }) => ({ setting, imagesPerSecond })),
  };
}
