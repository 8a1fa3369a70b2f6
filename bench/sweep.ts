/**
 * `npm run bench:sweep`: holds the rule for sessions, threads, images at once and libuv's pool (docs/decisions/0071) against the
 * settings around it, with the bare loop. Says which was best and how far the rule is from it. Writes bench/results/sweep.json and
 * sweep.md.
 *
 *     npm run bench:sweep -- --rounds 1 --seconds 3
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { imagesAtOnce } from '../src/jobs/images-at-once.js';
import { BATCH_CROPS } from '../src/vision/batches.js';
import { sizingFor } from '../src/vision/sizing.js';
import { type BareSetting, runBare } from './bare-process.js';
import { readOptions } from './options.js';
import { conditions, describe, resultFile, writeResult } from './results.js';
import { figure, type Spread, spread, told } from './statistics.js';

interface Setting extends Omit<BareSetting, 'seconds'> {
  readonly uvThreads: number;
}

const options = readOptions({ rounds: 3, seconds: 6 });
const cores = availableParallelism();
const measuredUnder = conditions();

/** Node's own, and what docs/operations.md tells to set on larger machines. */
const uvRule = Math.max(4, cores);
const { sessions } = sizingFor(cores, 'cpu');
const rule: Setting = {
  sessions,
  threads: cores,
  lanes: imagesAtOnce(cores),
  batchCrops: BATCH_CROPS.cpu,
  uvThreads: uvRule,
};
const around: Setting[] = [
  rule,
  ...halvings(cores).map((count) => ({ ...rule, sessions: count })),
  ...[1, cores, 2 * cores, 4 * cores].map((lanes) => ({ ...rule, lanes })),
  ...halvings(cores).map((count) => ({ ...rule, sessions: count, lanes: cores })),
  { ...rule, batchCrops: 1 },
  { ...rule, batchCrops: 4 * BATCH_CROPS.cpu },
  { ...rule, uvThreads: 2 },
  { ...rule, uvThreads: 2 * uvRule },
];
const settings = around.filter((one, i) => around.findIndex((other) => same(one, other)) === i);

const rates = new Map<Setting, number[]>(settings.map((setting) => [setting, []]));
for (let round = 1; round <= options.rounds; round++) {
  for (const setting of settings) {
    const { uvThreads, ...bare } = setting;
    const env = { UV_THREADPOOL_SIZE: String(uvThreads) };
    const { imagesPerSecond } = await runBare({ ...bare, seconds: options.seconds }, env);
    rates.get(setting)?.push(imagesPerSecond);
    console.log(`round ${round}: ${nameOf(setting)}: ${figure(imagesPerSecond)} images/s`);
  }
}
const measured = settings
  .map((setting) => ({ setting, rule: setting === rule, imagesPerSecond: spread(rates.get(setting) ?? []) }))
  .sort((a, b) => b.imagesPerSecond.median - a.imagesPerSecond.median);
writeResult('sweep', { conditions: measuredUnder, options, measured });
const page = report(measured);
writeFileSync(resultFile('sweep.md'), page);
console.log(`\n${page}`);

function report(rows: readonly { setting: Setting; rule: boolean; imagesPerSecond: Spread }[]): string {
  const best = rows[0]?.imagesPerSecond.median ?? Number.NaN;
  const ours = rows.find((row) => row.rule)?.imagesPerSecond.median ?? Number.NaN;
  return [
    '# Sessions and threads, measured',
    '',
    describe(measuredUnder),
    `${options.rounds} round(s) of ${options.seconds} s, bare loop, camera frames; median (lowest–highest).`,
    '',
    `The rule of docs/decisions/0071 gives ${figure(ours)} images/s, ${figure((1 - ours / best) * 100)} % below the best setting tried.`,
    '',
    '| sessions × threads | images at once | crops in a run | libuv | images/s | |',
    '|---|---|---|---|---|---|',
    ...rows.map(
      ({ setting, rule: chosen, imagesPerSecond }) =>
        `| ${setting.sessions} × ${threadsOf(setting)} | ${setting.lanes} | ${setting.batchCrops} | ${setting.uvThreads} | ${told(imagesPerSecond)} | ${chosen ? 'the rule' : ''} |`,
    ),
    '',
  ].join('\n');
}

function threadsOf({ sessions: count, threads }: Setting): number {
  return Math.max(1, Math.floor(threads / count));
}

function nameOf(setting: Setting): string {
  return `${setting.sessions} × ${threadsOf(setting)} threads, ${setting.lanes} images, ≤ ${setting.batchCrops} crops, libuv ${setting.uvThreads}`;
}

/** 1, and the cores divided by 1, 2, 4 …: sessions of equal width. */
function halvings(count: number): number[] {
  const found = new Set([1]);
  for (let width = 1; width <= count; width *= 2) found.add(Math.max(1, Math.floor(count / width)));
  return [...found];
}

function same(one: Setting, other: Setting): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
