/**
 * `npm run bench:scale`: API and workers in processes of their own, joined by Redis and PostgreSQL. First with the real networks, one
 * thread a worker, from one worker to one for each core; then with workers that sleep instead of computing, to see what the queue
 * carries. Writes bench/results/scale.json and scale.md.
 *
 *     npm run bench:scale -- --rounds 1 --seconds 5
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Redis } from 'ioredis';
import { openQueues, type Queues } from '../src/jobs/queues.js';
import { createLogger } from '../src/observability/logger.js';
import { uuidv7 } from '../src/storage/ids.js';
import { emptyRedis, leukodiff, saturateService, serviceTarget } from './contestants.js';
import { cameraFrames, tinyFields } from './images.js';
import { type Orders, ordersOf, SHORT_WARM_UP_SECONDS } from './load.js';
import { readOptions } from './options.js';
import { cpuSeconds, logEntry, machineSeconds, type Running, start, until } from './processes.js';
import { conditions, resultFile, writeResult } from './results.js';
import { type ScaleResult, scaleReport } from './scale-report.js';
import { startServers } from './servers.js';
import type { SimulatedWorkerSetting } from './simulated-worker.js';
import { figure, quantile, spread } from './statistics.js';

const options = readOptions({ rounds: 3, seconds: 10 });
const cores = availableParallelism();
const measuredUnder = conditions();
const window = { warmUpSeconds: SHORT_WARM_UP_SECONDS, seconds: options.seconds };
const SLEEP_MS = 25;
const SLEEPERS = Math.max(2, cores);

const servers = await startServers();
try {
  if (servers.redisUrl === undefined) throw new Error('no redis-server in the path (apt-get install redis-server)');
  const orders = ordersOf(await cameraFrames());
  // One, two, four … and one for each core.
  const counts = [...new Set([1, 2, 4, 8, 16, cores].filter((n) => n <= cores))].sort((a, b) => a - b);
  const real = new Map<number, RealRun[]>(counts.map((workers) => [workers, []]));
  for (let round = 0; round < options.rounds; round++) {
    for (const [workers, runs] of real) {
      const run = await realWorkers(workers, orders);
      runs.push(run);
      console.log(
        `${workers} worker(s) of one thread: ${figure(run.imagesPerSecond)} images/s, ${figure(run.busyCores)} cores busy`,
      );
    }
  }
  const redisBytesAnImage = await bytesOfWaiting();
  console.log(`an image that waits takes ${figure(redisBytesAnImage)} bytes of Redis`);
  const queueAlone = await sleepersOnQueue();
  console.log(
    `the queue alone, ${queueAlone.workers} sleeping workers: ${figure(queueAlone.imagesPerSecond)} images/s`,
  );
  const stored = await sleepersWithStorage();
  console.log(`queue and storage, ${stored.workers} sleeping workers: ${figure(stored.imagesPerSecond)} images/s`);
  const result: ScaleResult = {
    conditions: measuredUnder,
    options,
    cores,
    real: [...real].map(([workers, runs]) => ({
      workers,
      imagesPerSecond: spread(runs.map(({ imagesPerSecond }) => imagesPerSecond)),
      busyCores: quantile(
        runs.map(({ busyCores }) => busyCores),
        0.5,
      ),
    })),
    redisBytesAnImage,
    queueAlone,
    stored,
  };
  writeResult('scale', result);
  writeFileSync(resultFile('scale.md'), scaleReport(result));
  console.log(`\n${scaleReport(result)}`);
} finally {
  await servers.stop();
}

interface RealRun {
  readonly imagesPerSecond: number;
  /** Of the whole machine: workers, API, servers and load. */
  readonly busyCores: number;
}

/** So many `leukodiff work`, one inference thread each. */
async function realWorkers(count: number, orders: Orders): Promise<RealRun> {
  const place = await servers.database();
  const env = { DATABASE_URL: place.url, REDIS_URL: await emptyRedis(servers) };
  const api = leukodiff(['serve', '--no-worker'], { ...env, DATA_DIR: servers.folder() });
  const workers = Array.from({ length: count }, () =>
    leukodiff(['work'], { ...env, DATA_DIR: servers.folder(), INFERENCE_THREADS: '1', WORKER_CONCURRENCY: '2' }),
  );
  try {
    await Promise.all(workers.map((worker) => logEntry(worker, 'working')));
    const target = await serviceTarget(api);
    const [begun, before] = [performance.now(), machineSeconds()];
    const { imagesPerSecond } = await saturateService(target, place, orders, window);
    const busyCores = (machineSeconds() - before) / ((performance.now() - begun) / 1000);
    return { imagesPerSecond, busyCores };
  } finally {
    await Promise.all([api, ...workers].map((one) => one.stop()));
    await place.drop();
  }
}

function sleeping(env: Readonly<Record<string, string>>, setting: SimulatedWorkerSetting): Running {
  return start('npx', ['tsx', 'bench/simulated-worker.ts', JSON.stringify(setting)], {
    ...env,
    DATA_DIR: servers.folder(),
    WEBHOOK_SECRET: '',
  });
}

/** Orders of ten images straight into the queue; its jobs only sleep. */
async function sleepersOnQueue(): Promise<ScaleResult['queueAlone']> {
  const place = await servers.database();
  const env = { DATABASE_URL: place.url, REDIS_URL: await emptyRedis(servers) };
  const log = createLogger({ level: 'error', format: 'json' });
  const queues = await openQueues({ redisUrl: env.REDIS_URL, databaseUrl: place.url, log });
  const lanes = 64;
  const workers = Array.from({ length: SLEEPERS }, () => sleeping(env, { sleepMs: SLEEP_MS, lanes, queueAlone: true }));
  try {
    await Promise.all(workers.map((one) => until(one, () => saysWorking(one))));
    const done = (): number =>
      workers.reduce((sum, one) => sum + Number([...one.output().matchAll(/done (\d+)/g)].at(-1)?.[1] ?? 0), 0);
    const adding = new AbortController();
    let added = 0;
    const feed = async (): Promise<void> => {
      while (!adding.signal.aborted) {
        // Enough that no worker ever waits, and no more.
        if (added - done() > 4000) await new Promise((settle) => setTimeout(settle, 20));
        else {
          await addTen(queues);
          added += 10;
        }
      }
    };
    const feeders = Array.from({ length: 8 }, feed);
    await new Promise((settle) => setTimeout(settle, 1500));
    const [before, begun] = [done(), performance.now()];
    const cpuBefore = cpu(workers);
    await new Promise((settle) => setTimeout(settle, options.seconds * 1000));
    const seconds = (performance.now() - begun) / 1000;
    const rate = (done() - before) / seconds;
    const used = (cpu(workers) - cpuBefore) / seconds;
    adding.abort();
    await Promise.all(feeders);
    return { workers: SLEEPERS, lanes, sleepMs: SLEEP_MS, imagesPerSecond: rate, workerCores: used };
  } finally {
    await Promise.all(workers.map((one) => one.stop()));
    await queues.close();
    await place.drop();
  }
}

/** What a queue of 10,000 images nobody takes adds to Redis' memory. */
async function bytesOfWaiting(): Promise<number> {
  const place = await servers.database();
  const url = await emptyRedis(servers);
  const queues = await openQueues({
    redisUrl: url,
    databaseUrl: place.url,
    log: createLogger({ level: 'error', format: 'json' }),
  });
  const redis = new Redis(url);
  const used = async (): Promise<number> => Number(/used_memory:(\d+)/.exec(await redis.info('memory'))?.[1]);
  const before = await used();
  for (let n = 0; n < 1000; n++) await addTen(queues);
  const bytes = (await used()) - before;
  await redis.flushdb();
  redis.disconnect();
  await queues.close();
  await place.drop();
  return bytes / 10_000;
}

function addTen(queues: Queues): Promise<void> {
  return queues.addAnalysis(
    uuidv7(),
    Array.from({ length: 10 }, (_, i) => i),
    { priority: 'routine', turn: 0 },
  );
}

function cpu(workers: readonly Running[]): number {
  return workers.reduce((sum, { pid }) => sum + cpuSeconds(pid), 0);
}

/** The whole way, over HTTP and with everything stored, except that inference sleeps. */
async function sleepersWithStorage(): Promise<ScaleResult['stored']> {
  const place = await servers.database();
  const env = { DATABASE_URL: place.url, REDIS_URL: await emptyRedis(servers) };
  const api = leukodiff(['serve', '--no-worker'], { ...env, DATA_DIR: servers.folder(), MAX_QUEUE_DEPTH: '100000' });
  const lanes = 16;
  const workers = Array.from({ length: SLEEPERS }, () =>
    sleeping(env, { sleepMs: SLEEP_MS, lanes, queueAlone: false }),
  );
  try {
    await Promise.all(workers.map((one) => until(one, () => saysWorking(one))));
    // Ten images an order: what a laboratory sends.
    const orders = ordersOf(await tinyFields(100), 10);
    const { imagesPerSecond } = await saturateService(await serviceTarget(api), place, orders, window, 1_000);
    return { workers: SLEEPERS, lanes, sleepMs: SLEEP_MS, imagesPerSecond };
  } finally {
    await Promise.all([api, ...workers].map((one) => one.stop()));
    await place.drop();
  }
}

function saysWorking(worker: Running): true | undefined {
  return worker.output().split('\n').includes('working') ? true : undefined;
}
