/**
 * `npm run bench`: what the service costs on top of the networks' own arithmetic, and what others cost who do the same job.
 *
 *     npm run bench                             six rounds of six seconds, about half an hour
 *     npm run bench -- --rounds 1 --seconds 5   a quick look
 *
 * All contestants are started and warmed up once; then they take turns of some seconds, and who has no turn stands still. What counts are
 * ratios within a round, so that a machine that gets slower does so for all. Everything goes to bench/results: service.json,
 * service.md, throughput.svg.
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { sizingFor } from '../src/vision/sizing.js';
import { type BareLoop, type BareSetting, openBare } from './bare-process.js';
import { barChart } from './chart.js';
import {
  type Contestant,
  doneIn,
  emptyRedis,
  inTurn,
  leukodiff,
  type PeerKind,
  peer,
  type Started,
  saturateService,
  service,
  serviceTarget,
  type Tuned,
  tuned,
  waitingIn,
} from './contestants.js';
import { growth } from './growth.js';
import { cameraFrames, largeFields, tinyFields } from './images.js';
import {
  Client,
  formOf,
  medianOf,
  ordersOf,
  type Reads,
  readAgain,
  SHORT_WARM_UP_SECONDS,
  type Target,
  type Throughput,
  TURN_WARM_UP_SECONDS,
  WARM_UP_SECONDS,
} from './load.js';
import { readOptions } from './options.js';
import { logEntry, peakMemoryMb } from './processes.js';
import { busyCores, conditions, describe, resultFile, writeResult } from './results.js';
import { type Place, startServers } from './servers.js';
import { type ServiceResult, serviceReport } from './service-report.js';
import { figure, median, quantile, spread } from './statistics.js';

const options = readOptions({ rounds: 6, seconds: 6 });
const cores = availableParallelism();
const measuredUnder = conditions();
const begun = performance.now();
const turn = { warmUpSeconds: TURN_WARM_UP_SECONDS, seconds: options.seconds };
/** Who reads at once; each asks again when it is answered. */
const READERS = [4, 8, 16];
/** By turns, as everything else. */
const ROUNDS_OF_READS = 3;
/** Of a program that has done nothing yet; its first turn tells nothing. */
const firstTurn = { warmUpSeconds: WARM_UP_SECONDS - 1, seconds: 1 };

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
  // One session with all cores, as many as the service has, and one on each core; images on their way at once as many as cores, and
  // twice that.
  const { sessions: ownSessions } = sizingFor(cores, 'cpu');
  const loops = [...new Set([1, ownSessions, cores])].map((sessions) => {
    const setting: BareSetting = { sessions, threads: cores };
    return { setting, loop: openBare(setting) };
  });
  const tried = [];
  for (const { setting, loop } of loops) {
    await loop.run({ lanes: 2 * cores, ...firstTurn });
    for (const lanes of [cores, 2 * cores]) {
      const { imagesPerSecond } = await loop.run({ lanes, warmUpSeconds: TURN_WARM_UP_SECONDS, seconds: trial });
      tried.push({ setting: { ...setting, lanes }, imagesPerSecond, loop });
      console.log(`  ${JSON.stringify({ ...setting, lanes })}: ${figure(imagesPerSecond)} images/s`);
    }
  }
  // A short trial tells the good from the bad, not the best of two good ones: both run in every round.
  const promising = [...tried]
    .sort((a, b) => b.imagesPerSecond - a.imagesPerSecond)
    .slice(0, 2)
    .map(({ setting, loop }) => ({ setting, loop, rounds: [] as number[], processorMs: [] as number[] }));
  // Alone on the machine, with all cores for its one image: as the service does it when idle.
  const idleLoop = loops.find(({ setting }) => setting.sessions === ownSessions)?.loop;
  if (idleLoop === undefined) throw new Error(`no bare loop of ${ownSessions} sessions`);

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

  heading('all are started and warmed up');
  const running: { contestant: Contestant; started: Started; rounds: Throughput[] }[] = [];
  for (const contestant of contestants) {
    const started = await contestant.start();
    running.push({ contestant, started, rounds: [] });
    const { imagesPerSecond } = await inTurn(started, () => started.saturate(frames, firstTurn));
    console.log(`  ${contestant.name}: ${figure(imagesPerSecond)} images/s`);
  }
  const restingCores = busyCores();
  console.log(`  while all stand still, ${figure(restingCores)} cores are busy`);

  const bareIdle: number[] = [];
  const idle: number[] = [];
  for (let round = 1; round <= options.rounds; round++) {
    heading(`round ${round} of ${options.rounds}`);
    for (const { loop, setting, rounds, processorMs } of promising) {
      const result = await loop.run({ lanes: setting.lanes, ...turn });
      rounds.push(result.imagesPerSecond);
      processorMs.push(result.processorMs);
    }
    console.log(`  bare: ${promising.map(({ rounds }) => figure(rounds.at(-1) ?? 0)).join(' and ')} images/s`);
    for (const { contestant, started, rounds } of running) {
      await inTurn(started, async () => {
        if (contestant.name === 'Leukodiff') {
          const alone = await idleLatencies(idleLoop, started.target, forms, 2 * trial);
          bareIdle.push(alone.bare);
          idle.push(alone.service);
          console.log(`  one image when idle: bare ${figure(alone.bare)} ms, Leukodiff ${figure(alone.service)} ms`);
        }
        const result = await started.saturate(frames, turn);
        rounds.push(result);
        console.log(
          `  ${contestant.name}: ${figure(result.imagesPerSecond)} images/s, answers ${figure(quantile(result.latenciesMs, 0.5))} ms`,
        );
      });
    }
  }
  const [first] = running;
  if (first === undefined) throw new Error('nobody is measured');
  const storedBytesAnImage = await storedBytes(first.started.place);
  for (const { loop } of loops) await loop.stop();
  for (const { started } of running) await started.stop();

  heading('reads');
  const reads = await measureReads(forms);
  for (const { connections, perSecond, p99 } of reads) {
    console.log(`  ${connections} connections: ${figure(perSecond)} a second, p99 ${figure(p99)} ms`);
  }

  heading('memory of a worker with images of 12 megapixels');
  const workerPeakMb = await measureMemory();
  console.log(`  ${figure(workerPeakMb)} MB`);

  heading('growth: images in an analysis, analyses in the tables');
  const grown = await growth(servers, await tinyFields(1000), (text) => console.log(`  ${text}`));

  const [limit] = [...promising].sort((a, b) => median(b.rounds) - median(a.rounds));
  if (limit === undefined) throw new Error('no setting');
  const result: ServiceResult = {
    conditions: measuredUnder,
    options,
    restingCores,
    bare: {
      setting: limit.setting,
      trials: tried.map(({ setting, imagesPerSecond }) => ({ setting, imagesPerSecond })),
      rounds: limit.rounds,
      processorMs: limit.processorMs,
      idleMs: bareIdle,
    },
    idleMs: idle,
    throughput: Object.fromEntries(
      running.map(({ contestant: { name, setting }, rounds }) => {
        const latencies = rounds.flatMap(({ latenciesMs }) => latenciesMs);
        const imagesPerSecond = rounds.map((round) => round.imagesPerSecond);
        const processorMs = rounds.map((round) => round.processorMs);
        const [p50, p99] = [quantile(latencies, 0.5), quantile(latencies, 0.99)];
        return [name, { setting, imagesPerSecond, processorMs, p50, p99 }];
      }),
    ),
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
    { name: 'bare loop, no server', spread: spread(result.bare.rounds), ours: true },
    ...Object.entries(result.throughput).map(([name, { imagesPerSecond }]) => ({
      name,
      spread: spread(imagesPerSecond),
      ours: name.startsWith('Leukodiff'),
    })),
  ];
  writeFileSync(resultFile('throughput.svg'), barChart(`Camera frames of 640×480 on ${cores} cores`, 'images/s', bars));
  console.log(`\n${report}`);
} finally {
  await servers.stop();
}

/**
 * One image after the other, with nothing else to do, by the bare loop and by the service in turn: of two seconds in a row the machine
 * is quicker in one. Medians in milliseconds.
 */
async function idleLatencies(
  loop: BareLoop,
  target: Target,
  forms: readonly Buffer[],
  seconds: number,
): Promise<{ readonly bare: number; readonly service: number }> {
  const client = new Client(target, 1);
  const bare: number[] = [];
  const latencies: number[] = [];
  const from = performance.now() + TURN_WARM_UP_SECONDS * 1000;
  const to = from + seconds * 1000;
  for (let n = 0; performance.now() < to; n++) {
    const { p50: bareMs } = await loop.run({ lanes: 1, images: 1, warmUpSeconds: 0, seconds: 60 });
    const { status, ms, text } = await client.post(forms[n % forms.length] ?? Buffer.alloc(0), { prefer: 'wait=60' });
    if (status !== 200) throw new Error(`answered ${status}: ${text.slice(0, 500)}`);
    if (performance.now() < from) continue;
    bare.push(bareMs);
    latencies.push(ms);
  }
  await client.close();
  return { bare: quantile(bare, 0.5), service: quantile(latencies, 0.5) };
}

async function measureReads(forms: readonly Buffer[]): Promise<Reads[]> {
  const started = await service(servers).start();
  try {
    const client = new Client(started.target, 2);
    const answers = await Promise.all(forms.map((form) => client.post(form, { prefer: 'wait=60' })));
    await client.close();
    const paths = answers.map(({ text }) => `/analyses/${(JSON.parse(text) as { id: string }).id}`);
    const window = { warmUpSeconds: TURN_WARM_UP_SECONDS, seconds: options.seconds };
    await readAgain(started.target, paths, { warmUpSeconds: WARM_UP_SECONDS - 1, seconds: 1 }, median(READERS));
    const rounds: Reads[][] = READERS.map(() => []);
    for (let round = 0; round < ROUNDS_OF_READS; round++) {
      for (const [i, connections] of READERS.entries()) {
        rounds[i]?.push(await readAgain(started.target, paths, window, connections));
      }
    }
    return rounds.map(medianOf);
  } finally {
    await started.stop();
  }
}

/** Of an image that is done, tables and indexes; those that still wait have no pictures of results yet and count by their share. */
async function storedBytes(place: Place): Promise<{ pictures: number; numbers: number }> {
  const [done, waiting] = [await doneIn(place), await waitingIn(place)];
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
    const window = { warmUpSeconds: SHORT_WARM_UP_SECONDS, seconds: Math.max(8, options.seconds) };
    await saturateService(await serviceTarget(api), place, orders, window, 2 * cores);
    return peakMemoryMb(worker.pid);
  } finally {
    await Promise.all([api.stop(), worker.stop()]);
    await place.drop();
  }
}
