/**
 * `npm run bench`: what the service costs on top of the networks' own arithmetic, and what others cost who do the same job.
 *
 *     npm run bench                             three rounds of ten seconds, about a quarter of an hour
 *     npm run bench -- --rounds 1 --seconds 5   a quick look
 *
 * Contestants run one after the other in every round, so that a machine that gets slower does so for all. Everything goes to
 * bench/results: service.json, service.md, throughput.svg.
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { sizingFor } from '../src/vision/sizing.js';
import { type BareSetting, runBare } from './bare-process.js';
import { barChart } from './chart.js';
import {
  type Contestant,
  counted,
  emptyRedis,
  leukodiff,
  type PeerKind,
  peer,
  service,
  serviceTarget,
  type Tuned,
  tuned,
} from './contestants.js';
import { growth } from './growth.js';
import { cameraFrames, largeFields, tinyFields } from './images.js';
import { Client, formOf, ordersOf, readAgain, saturateQueue, WARM_UP_SECONDS } from './load.js';
import { readOptions } from './options.js';
import { logEntry, peakMemoryMb } from './processes.js';
import { conditions, describe, resultFile, writeResult } from './results.js';
import { type Place, startServers } from './servers.js';
import { type ServiceResult, serviceReport, type Throughputs } from './service-report.js';
import { figure, quantile, spread } from './statistics.js';

const options = readOptions({ rounds: 3, seconds: 10 });
const cores = availableParallelism();
const measuredUnder = conditions();
const begun = performance.now();

const heading = (text: string): void => {
  console.log(`\n── ${text} (${Math.round((performance.now() - begun) / 1000)} s)`);
};

console.log(describe(measuredUnder));
const servers = await startServers();
try {
  const frames = await cameraFrames();
  const forms = frames.map((frame) => formOf([frame]));
  const trial = Math.min(4, options.seconds);

  heading('the bare limit: which setting is best');
  // One session with all cores, and one on each core; images on their way at once as many as cores, and twice that.
  const candidates = [
    { sessions: 1, threads: cores, lanes: cores },
    { sessions: 1, threads: cores, lanes: 2 * cores },
    { sessions: cores, threads: cores, lanes: cores },
    { sessions: cores, threads: cores, lanes: 2 * cores },
  ];
  const trials: { setting: Omit<BareSetting, 'seconds'>; imagesPerSecond: number }[] = [];
  for (const setting of candidates) {
    const { imagesPerSecond } = await runBare({ ...setting, seconds: trial });
    trials.push({ setting, imagesPerSecond });
    console.log(`  ${JSON.stringify(setting)}: ${figure(imagesPerSecond)} images/s`);
  }
  // A short trial tells the good from the bad, not the best of two good ones: both run in every round.
  const promising = [...trials]
    .sort((a, b) => b.imagesPerSecond - a.imagesPerSecond)
    .slice(0, 2)
    .map(({ setting }) => ({ setting, rounds: [] as number[] }));

  heading('peers: which setting is best');
  const contestants: Contestant[] = [service(servers), service(servers, { imagesPerOrder: 10 })];
  const peers: Record<string, unknown> = {};
  if (servers.redisUrl === undefined) console.log('  no redis-server in the path: without Redis and arq');
  else contestants.push(service(servers, { queue: 'redis' }));
  let quickest: { kind: PeerKind; choice: Tuned } | undefined;
  for (const kind of ['direct', 'queued', 'litserve'] as const) {
    if (kind === 'queued' && servers.redisUrl === undefined) continue;
    const choice = await tuned(servers, kind, cores, frames, trial);
    const contestant = peer(servers, kind, choice.best);
    peers[contestant.name] = { setting: contestant.setting, tried: choice.tried };
    contestants.push(contestant);
    if (quickest === undefined || choice.imagesPerSecond > quickest.choice.imagesPerSecond) quickest = { kind, choice };
  }
  if (quickest !== undefined) contestants.push(peer(servers, quickest.kind, quickest.choice.best, 'least'));

  const bareIdle: number[] = [];
  const idle: number[] = [];
  const measured: Record<string, Throughputs> = {};
  let storedBytesAnImage = { pictures: Number.NaN, numbers: Number.NaN };
  for (let round = 1; round <= options.rounds; round++) {
    heading(`round ${round} of ${options.rounds}`);
    for (const { setting, rounds } of promising) {
      rounds.push((await runBare({ ...setting, seconds: options.seconds })).imagesPerSecond);
    }
    // Alone on the machine, with all cores for its one image: as the service does it when idle.
    const { sessions } = sizingFor(cores, 'cpu');
    bareIdle.push((await runBare({ sessions, threads: cores, lanes: 1, seconds: trial })).p50);
    console.log(
      `  bare: ${promising.map(({ rounds }) => figure(rounds.at(-1) ?? 0)).join(' and ')} images/s; ` +
        `one image alone ${figure(bareIdle.at(-1) ?? 0)} ms`,
    );
    for (const contestant of contestants) {
      const started = await contestant.start();
      try {
        if (contestant.name === 'Leukodiff') {
          idle.push(await idleLatency(started.target, forms, trial));
          console.log(`  Leukodiff, one image when idle: ${figure(idle.at(-1) ?? 0)} ms`);
        }
        const result = await started.saturate(frames, options.seconds);
        if (contestant.name === 'Leukodiff') storedBytesAnImage = await storedBytes(started.place);
        measured[contestant.name] ??= { setting: contestant.setting, rounds: [] };
        measured[contestant.name]?.rounds.push(result);
        const { imagesPerSecond, p50, p99 } = result;
        console.log(
          `  ${contestant.name}: ${figure(imagesPerSecond)} images/s, answers ${figure(p50)} ms, p99 ${figure(p99)} ms`,
        );
      } finally {
        await started.stop();
      }
    }
  }

  heading('reads');
  const reads = await measureReads(forms);
  console.log(`  ${figure(reads.perSecond)} a second, p99 ${figure(reads.p99)} ms`);

  heading('memory of a worker with images of 12 megapixels');
  const workerPeakMb = await measureMemory();
  console.log(`  ${figure(workerPeakMb)} MB`);

  heading('growth: images in an analysis, analyses in the tables');
  const grown = await growth(servers, await tinyFields(1000), (text) => console.log(`  ${text}`));

  const [limit] = promising
    .map(({ setting, rounds }) => ({ setting, imagesPerSecond: spread(rounds) }))
    .sort((a, b) => b.imagesPerSecond.median - a.imagesPerSecond.median);
  if (limit === undefined) throw new Error('no setting');
  const result: ServiceResult = {
    conditions: measuredUnder,
    options,
    bare: { ...limit, trials, idleMs: spread(bareIdle) },
    idleMs: spread(idle),
    throughput: measured,
    peers,
    reads,
    workerPeakMb,
    storedBytesAnImage,
    growth: grown,
    tookSeconds: Math.round((performance.now() - begun) / 1000),
  };
  writeResult('service', result);
  const report = serviceReport(result);
  writeFileSync(resultFile('service.md'), report);
  const bars = [
    { name: 'bare loop, no server', spread: result.bare.imagesPerSecond, ours: true },
    ...Object.entries(measured).map(([name, { rounds }]) => ({
      name,
      spread: spread(rounds.map(({ imagesPerSecond }) => imagesPerSecond)),
      ours: name.startsWith('Leukodiff'),
    })),
  ];
  writeFileSync(resultFile('throughput.svg'), barChart(`Camera frames of 640×480 on ${cores} cores`, 'images/s', bars));
  console.log(`\n${report}`);
} finally {
  await servers.stop();
}

async function idleLatency(
  target: { address: string; headers: Readonly<Record<string, string>> },
  forms: readonly Buffer[],
  seconds: number,
): Promise<number> {
  const client = new Client(target, 1);
  const latencies: number[] = [];
  const from = performance.now() + WARM_UP_SECONDS * 1000;
  const to = from + seconds * 1000;
  for (let n = 0; performance.now() < to; n++) {
    const { status, ms, text } = await client.post(forms[n % forms.length] ?? Buffer.alloc(0), { prefer: 'wait=60' });
    if (status !== 200) throw new Error(`answered ${status}: ${text.slice(0, 500)}`);
    if (performance.now() >= from) latencies.push(ms);
  }
  await client.close();
  return quantile(latencies, 0.5);
}

async function measureReads(forms: readonly Buffer[]) {
  const started = await service(servers).start();
  try {
    const client = new Client(started.target, 2);
    const answers = await Promise.all(forms.map((form) => client.post(form, { prefer: 'wait=60' })));
    await client.close();
    const paths = answers.map(({ text }) => `/analyses/${(JSON.parse(text) as { id: string }).id}`);
    return await readAgain(started.target, paths, options.seconds);
  } finally {
    await started.stop();
  }
}

/** Of an image that is done, tables and indexes; those that still wait have no pictures of results yet and count by their share. */
async function storedBytes(place: Place): Promise<{ pictures: number; numbers: number }> {
  const { done, waiting } = await counted(place)();
  const sizes = await place.query<{ name: string; bytes: string }>(
    'SELECT relname AS name, pg_total_relation_size(relid) AS bytes FROM pg_stat_user_tables',
  );
  const bytesOf = (...names: string[]): number =>
    sizes.reduce((sum, { name, bytes }) => sum + (names.includes(name) ? Number(bytes) : 0), 0);
  return {
    pictures: bytesOf('image_files') / (done + waiting) + bytesOf('image_saliency', 'cell_rasters') / done,
    numbers:
      bytesOf('analyses', 'images') / (done + waiting) +
      bytesOf('cells', 'consistency_scores', 'differential_rows') / done,
  };
}

/** A worker of its own, so that the figure is the worker's and not the API's. */
async function measureMemory(): Promise<number> {
  const place = await servers.database();
  const env = {
    DATABASE_URL: place.url,
    ...(servers.redisUrl === undefined ? {} : { REDIS_URL: await emptyRedis(servers) }),
  };
  const api = leukodiff(['serve', '--no-worker'], { ...env, DATA_DIR: servers.folder() });
  const worker = leukodiff(['work'], { ...env, DATA_DIR: servers.folder() });
  try {
    await logEntry(worker, 'working');
    const orders = ordersOf(await largeFields(2));
    await saturateQueue(await serviceTarget(api), orders, 2 * cores, Math.max(8, options.seconds), counted(place));
    return peakMemoryMb(worker.pid);
  } finally {
    await Promise.all([api.stop(), worker.stop()]);
    await place.drop();
  }
}
