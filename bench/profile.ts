/**
 * `npm run bench:profile`: where the service's time goes. Runs it at saturation, once as it is, for the processor time of each of its parts,
 * and once under Node's profiler; writes a flame graph for its main thread and one for each inference thread to bench/results, with a
 * table of what took longest.
 *
 *     npm run bench:profile -- --seconds 10
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { doneIn, service } from './contestants.js';
import { type CpuProfile, callTree, flameGraph, selfTimes } from './flame.js';
import { cameraFrames } from './images.js';
import { SHORT_WARM_UP_SECONDS, WARM_UP_SECONDS } from './load.js';
import { readOptions } from './options.js';
import { type Part, secondsByPart, secondsWithChildren } from './processes.js';
import { conditions, describe, resultFile } from './results.js';
import { startServers } from './servers.js';

const { seconds } = readOptions({ rounds: 1, seconds: 10 });
const measuredUnder = conditions();
const IDLE = '(idle)';
const LISTED = 15;

const PARTS: Readonly<Record<Part, string>> = {
  networks: 'networks (ONNX Runtime), with the threads that call it',
  main: 'main thread: crops, outlines, PNGs, database client, HTTP, queue, log',
  helpers: "V8's helpers and libuv's: garbage collection, compiling, decoding",
  libvips: 'libvips: decoding',
};

const servers = await startServers();
try {
  const frames = await cameraFrames();
  const alone = await partsOf(1, frames);
  const tens = await partsOf(10, frames);
  const folder = join(servers.folder(), 'profiles');
  mkdirSync(folder);
  const profiled = service(servers, { nodeFlags: ['--cpu-prof', `--cpu-prof-dir=${folder}`] });
  const started = await profiled.start();
  await started.saturate(frames, { warmUpSeconds: SHORT_WARM_UP_SECONDS, seconds });
  const done = await doneIn(started.place);
  // Node writes the profiles when the process ends.
  await started.stop();
  const sections = readdirSync(folder)
    .sort((a, b) => threadOf(a) - threadOf(b))
    .map((file, i) => {
      const tree = callTree(JSON.parse(readFileSync(join(folder, file), 'utf8')) as CpuProfile);
      const threads = i === 0 ? 'main thread' : `inference thread ${i}`;
      writeFileSync(resultFile(`flame-${i === 0 ? 'main' : `inference-${i}`}.svg`), flameGraph(threads, tree));
      const times = selfTimes(tree).filter(({ name }) => name !== IDLE);
      return [
        `### ${threads[0]?.toUpperCase()}${threads.slice(1)}`,
        '',
        '| function itself | ms an image |',
        '|---|---|',
        ...times.slice(0, LISTED).map(({ name, us }) => `| \`${name}\` | ${(us / 1000 / done).toFixed(2)} |`),
        '',
      ].join('\n');
    });
  const page = [
    '# Where the time goes',
    '',
    describe(measuredUnder),
    '',
    '## Processor time',
    '',
    "By Linux' own accounting of threads, at saturation; everything on one machine, the queue in PostgreSQL, which the client that posts shares too.",
    '',
    '| ms an image | an order of its own | orders of ten |',
    '|---|---|---|',
    ...Object.keys(alone).map((part) => `| ${part} | ${ms(alone[part])} | ${ms(tens[part])} |`),
    `| together | ${ms(total(alone))} | ${ms(total(tens))} |`,
    '',
    '## Profiles',
    '',
    `The service at saturation, ${done} camera frames from its start to its end. Waiting is left out; native code (networks, libvips) on`,
    'other threads does not show, a run of a network shows as `(anonymous) backend.js`.',
    '',
    ...sections,
  ].join('\n');
  writeFileSync(resultFile('profile.md'), page);
  console.log(page.replaceAll(fileURLToPath(new URL('..', import.meta.url)), ''));
} finally {
  await servers.stop();
}

/** Milliseconds of processor time that an image costs, by part; the first seconds do not count. */
async function partsOf(imagesPerOrder: number, frames: readonly Buffer[]): Promise<Record<string, number>> {
  const started = await service(servers, { imagesPerOrder }).start();
  const [{ pid } = { pid: 0 }] = started.processes;
  const now = async () => ({
    parts: secondsByPart(pid),
    postgres: secondsWithChildren(servers.postgresPid),
    client: process.cpuUsage(),
    done: await doneIn(started.place),
  });
  try {
    const load = started.saturate(frames, { warmUpSeconds: WARM_UP_SECONDS, seconds });
    await sleep(WARM_UP_SECONDS * 1000);
    const before = await now();
    await sleep(seconds * 1000 - 500);
    const after = await now();
    await load;
    const images = after.done - before.done;
    const client = after.client.user + after.client.system - before.client.user - before.client.system;
    return {
      ...Object.fromEntries(
        (Object.keys(PARTS) as Part[]).map((part) => [
          PARTS[part],
          ((after.parts[part] - before.parts[part]) * 1000) / images,
        ]),
      ),
      PostgreSQL: ((after.postgres - before.postgres) * 1000) / images,
      'the client that posts': client / 1000 / images,
    };
  } finally {
    await started.stop();
  }
}

function total(parts: Readonly<Record<string, number>>): number {
  return Object.values(parts).reduce((sum, one) => sum + one, 0);
}

function ms(value: number | undefined): string {
  return (value ?? Number.NaN).toFixed(1);
}

/** Node names a profile `CPU.date.time.process.thread.number.cpuprofile`; the main thread is 0. */
function threadOf(file: string): number {
  return Number(file.split('.')[4]);
}
