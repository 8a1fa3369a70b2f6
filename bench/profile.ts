/**
 * `npm run bench:profile`: where the service's time goes. Runs it at saturation: by turns with the bare loop, for the processor time of each
 * of its parts, and once under Node's profiler; writes a flame graph for its main thread and one for each inference thread to
 * bench/results, with a table of what took longest.
 *
 *     npm run bench:profile -- --rounds 5 --seconds 6
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { doneIn, service } from './contestants.js';
import { type CpuProfile, callTree, flameGraph, selfTimes } from './flame.js';
import { cameraFrames } from './images.js';
import { SHORT_WARM_UP_SECONDS } from './load.js';
import { readOptions } from './options.js';
import { ALL_PARTS, costsByTurns } from './parts.js';
import { conditions, describe, resultFile } from './results.js';
import { startServers } from './servers.js';

const { rounds, seconds } = readOptions({ rounds: 5, seconds: 6 });
const measuredUnder = conditions();
const IDLE = '(idle)';
const LISTED = 15;

const servers = await startServers();
try {
  const frames = await cameraFrames();
  const costs = await costsByTurns(servers, frames, { rounds, seconds });
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
    `By Linux' own accounting of threads, at saturation, in ${rounds} round(s) with a turn of ${seconds} s for each; everything on one machine, the queue in`,
    'PostgreSQL, which the client that posts shares too.',
    '',
    row(
      'ms an image',
      costs.map(({ name }) => name),
    ),
    row(
      '---',
      costs.map(() => '---'),
    ),
    ...ALL_PARTS.map((part) =>
      row(
        part,
        costs.map((one) => ms(one.ms[part])),
      ),
    ),
    row(
      'together',
      costs.map((one) => ms(total(one.ms))),
    ),
    row(
      '÷ bare loop',
      costs.map((one) => (total(one.ms) / total(costs[0]?.ms ?? {})).toFixed(2)),
    ),
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

function total(parts: Readonly<Record<string, number>>): number {
  return Object.values(parts).reduce((sum, one) => sum + one, 0);
}

function row(first: string, others: readonly string[]): string {
  return `| ${[first, ...others].join(' | ')} |`;
}

function ms(value: number | undefined): string {
  return (value ?? Number.NaN).toFixed(1);
}

/** Node names a profile `CPU.date.time.process.thread.number.cpuprofile`; the main thread is 0. */
function threadOf(file: string): number {
  return Number(file.split('.')[4]);
}
