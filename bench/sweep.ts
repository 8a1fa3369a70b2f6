/**
 * `npm run bench:sweep`: holds the rule for sessions, threads, images at once and libuv's pool (docs/decisions/0071) against the
 * settings around it, with the bare loop. Says which was best and how far the rule is from it. Writes bench/results/sweep.json and
 * sweep.md.
 *
 *     npm run bench:sweep -- --rounds 1 --seconds 3
 *
 * Every setting has a process that is warmed up once; then they take turns, and a setting is told by its share of the rule's speed in
 * the same round.
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { imagesAtOnce } from '../src/jobs/images-at-once.js';
import { BATCH_CROPS } from '../src/vision/batches.js';
import { sizingFor } from '../src/vision/sizing.js';
import { type BareLoop, type BareSetting, type BareTurn, openBare } from './bare-process.js';
import { SHORT_WARM_UP_SECONDS, TURN_WARM_UP_SECONDS } from './load.js';
import { readOptions } from './options.js';
import { conditions, describe, resultFile, writeResult } from './results.js';
import { figure, ratios, type Spread, spread, told } from './statistics.js';

interface Setting extends BareSetting, Pick<BareTurn, 'lanes'> {
  readonly uvThreads: number;
}

const options = readOptions({ rounds: 4, seconds: 3 });
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

const contestants: { setting: Setting; loop: BareLoop; rounds: number[] }[] = [];
for (const setting of settings) {
  const { uvThreads, lanes, ...bare } = setting;
  const loop = openBare(bare, { UV_THREADPOOL_SIZE: String(uvThreads) });
  await loop.run({ lanes, warmUpSeconds: SHORT_WARM_UP_SECONDS, seconds: 1 });
  contestants.push({ setting, loop, rounds: [] });
}
const turn = { warmUpSeconds: TURN_WARM_UP_SECONDS, seconds: options.seconds };
for (let round = 1; round <= options.rounds; round++) {
  for (const { loop, setting, rounds } of contestants) {
    const { imagesPerSecond } = await loop.run({ lanes: setting.lanes, ...turn });
    rounds.push(imagesPerSecond);
    console.log(`round ${round}: ${nameOf(setting)}: ${figure(imagesPerSecond)} images/s`);
  }
}
await Promise.all(contestants.map(({ loop }) => loop.stop()));
const ruleRounds = contestants.find(({ setting }) => setting === rule)?.rounds ?? [];
const measured = contestants
  .map(({ setting, rounds }) => ({
    setting,
    rule: setting === rule,
    imagesPerSecond: spread(rounds),
    ofRule: spread(ratios(rounds, ruleRounds)),
  }))
  .sort((a, b) => b.ofRule.median - a.ofRule.median);
writeResult('sweep', { conditions: measuredUnder, options, measured });
const page = report(measured);
writeFileSync(resultFile('sweep.md'), page);
console.log(`\n${page}`);

function report(rows: readonly { setting: Setting; rule: boolean; imagesPerSecond: Spread; ofRule: Spread }[]): string {
  const [best] = rows;
  return [
    '# Sessions and threads, measured',
    '',
    describe(measuredUnder),
    `${options.rounds} round(s), in each a turn of ${options.seconds} s for every setting; bare loop, camera frames; median (lowest–highest).`,
    '',
    `The best setting tried does ${told(best?.ofRule ?? spread([]))} times what the rule of docs/decisions/0071 does in the same round.`,
    '',
    '| sessions × threads | images at once | crops in a run | libuv | images/s | ÷ the rule | |',
    '|---|---|---|---|---|---|---|',
    ...rows.map(
      ({ setting, rule: chosen, imagesPerSecond, ofRule }) =>
        `| ${setting.sessions} × ${threadsOf(setting)} | ${setting.lanes} | ${setting.batchCrops} | ${setting.uvThreads} | ${told(imagesPerSecond)} | ${told(ofRule)} | ${chosen ? 'the rule' : ''} |`,
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
