/** What `npm run bench` measured, as a page: figures, ratios, and each target met or missed by how much. */
import type { BareSetting } from './bare-process.js';
import { THE_LEAST } from './contestants.js';
import type { Growth } from './growth.js';
import { type Reads, type Throughput, WARM_UP_SECONDS } from './load.js';
import type { Options } from './options.js';
import { type Conditions, describe } from './results.js';
import { figure, type Spread, spread, told } from './statistics.js';

export interface Throughputs {
  readonly setting: string;
  readonly rounds: Throughput[];
}

export interface ServiceResult {
  readonly conditions: Conditions;
  readonly options: Options;
  readonly bare: {
    readonly setting: Omit<BareSetting, 'seconds'>;
    readonly trials: readonly { readonly setting: Omit<BareSetting, 'seconds'>; readonly imagesPerSecond: number }[];
    readonly imagesPerSecond: Spread;
    readonly idleMs: Spread;
  };
  readonly idleMs: Spread;
  readonly throughput: Readonly<Record<string, Throughputs>>;
  readonly peers: Readonly<Record<string, unknown>>;
  readonly reads: Reads;
  readonly workerPeakMb: number;
  /** In PostgreSQL, for one camera frame that is done. */
  readonly storedBytesAnImage: { readonly pictures: number; readonly numbers: number };
  readonly growth: Growth;
  readonly tookSeconds: number;
}

export interface Target {
  readonly name: string;
  /** With its unit. */
  readonly wanted: string;
  readonly got: string;
  /** How far beyond the target, as a share of it; positive: missed. */
  readonly missedBy: number;
}

const atLeast = (value: number, target: number): number => (target - value) / target;
const atMost = (value: number, target: number): number => (value - target) / target;

const rates = (one: Throughputs | undefined): number[] =>
  one?.rounds.map(({ imagesPerSecond }) => imagesPerSecond) ?? [];
const middle = (one: Throughputs | undefined): number => spread(rates(one)).median;

/** As a laboratory sends them: a smear is some fifty. */
const IN_TENS = 'Leukodiff, orders of 10 images';

/** The targets of issue 5, for two cores. A cost without a knee is one that nowhere exceeds half as much again of what it was before. */
export function targetsOf(result: ServiceResult): Target[] {
  const ours = result.throughput['Leukodiff'];
  const service = middle(ours);
  const inTens = middle(result.throughput[IN_TENS]);
  const bare = result.bare.imagesPerSecond.median;
  // Those that give the same answer.
  const others = Object.entries(result.throughput).filter(
    ([name]) => !name.startsWith('Leukodiff') && !name.endsWith(THE_LEAST),
  );
  const fastest = Math.max(...others.map(([, one]) => middle(one)));
  const latency = 1.2 * result.bare.idleMs.median + 15;
  const p99 = Math.max(...(ours?.rounds.map((round) => round.p99) ?? [Number.NaN]));
  const { reads, workerPeakMb, growth } = result;
  const perImage = growth.msPerImage.map(({ ms }) => ms);
  const knee = Math.max(...perImage.map((ms, i) => (i === 0 ? 0 : ms / (perImage[i - 1] ?? ms))));
  const [few, many] = growth.tables;
  const tables = (many?.msOfTen ?? Number.NaN) / (few?.msOfTen ?? Number.NaN);
  return [
    {
      name: 'service at saturation ÷ bare limit, orders of ten images',
      wanted: '≥ 0.90',
      got: figure(inTens / bare),
      missedBy: atLeast(inTens / bare, 0.9),
    },
    {
      name: 'the same, every image an order of its own',
      wanted: '≥ 0.90',
      got: figure(service / bare),
      missedBy: atLeast(service / bare, 0.9),
    },
    {
      name: 'one image, idle, end to end',
      wanted: `≤ ${figure(latency)} ms (1.2 × ${figure(result.bare.idleMs.median)} + 15)`,
      got: `${figure(result.idleMs.median)} ms`,
      missedBy: atMost(result.idleMs.median, latency),
    },
    {
      name: 'POST answers 202, p99, with a full queue',
      wanted: '≤ 100 ms',
      got: `${figure(p99)} ms`,
      missedBy: atMost(p99, 100),
    },
    ...(others.length === 0
      ? []
      : [
          {
            name: 'service ÷ best tuned peer with the same answer, orders of ten images',
            wanted: '> 1',
            got: figure(inTens / fastest),
            missedBy: atLeast(inTens / fastest, 1),
          },
          {
            name: 'the same, every image an order of its own',
            wanted: '> 1',
            got: figure(service / fastest),
            missedBy: atLeast(service / fastest, 1),
          },
        ]),
    {
      name: 'reads a second',
      wanted: '≥ 1,500',
      got: figure(reads.perSecond),
      missedBy: atLeast(reads.perSecond, 1500),
    },
    { name: 'reads, p99', wanted: '≤ 20 ms', got: `${figure(reads.p99)} ms`, missedBy: atMost(reads.p99, 20) },
    {
      name: 'peak memory of a worker, images of 12 megapixels',
      wanted: '≤ 700 MB',
      got: `${figure(workerPeakMb)} MB`,
      missedBy: atMost(workerPeakMb, 700),
    },
    {
      name: 'cost an image, 10 times as many images in an analysis',
      wanted: '≤ 1.5 × before',
      got: `${figure(knee)} ×`,
      missedBy: atMost(knee, 1.5),
    },
    {
      name: 'cost of an analysis with 10^5 in the tables',
      wanted: '≤ 1.5 × empty',
      got: `${figure(tables)} ×`,
      missedBy: atMost(tables, 1.5),
    },
  ];
}

export function verdict({ missedBy }: Target): string {
  if (!Number.isFinite(missedBy)) return 'not measured';
  return missedBy <= 0 ? 'met' : `**missed by ${figure(missedBy * 100)} %**`;
}

export function serviceReport(result: ServiceResult): string {
  const service = middle(result.throughput['Leukodiff']);
  const bare = result.bare.imagesPerSecond;
  const row = (...cells: string[]): string => `| ${cells.join(' | ')} |`;
  const ratio = (value: number): string => figure(value / service);
  return [
    '# Leukodiff, measured',
    '',
    describe(result.conditions),
    `${result.options.rounds} round(s) of ${result.options.seconds} s; median (lowest–highest); ${result.tookSeconds} s in all.`,
    '',
    '| Target (two cores) | wanted | measured | |',
    '|---|---|---|---|',
    ...targetsOf(result).map((target) => row(target.name, target.wanted, target.got, verdict(target))),
    '',
    'Camera frames of 640×480 with 1 to 4 cells, scale given; every image an order of its own unless it says otherwise. A peer takes one',
    `image a request: nothing of what it does would be less for ten. After ${WARM_UP_SECONDS} s that do not count, for everybody.`,
    '',
    '| | setting | images/s | ÷ Leukodiff | answer, p50 ms | p99 ms |',
    '|---|---|---|---|---|---|',
    row(
      'bare loop, no server',
      JSON.stringify(result.bare.setting).replaceAll('"', ''),
      told(bare),
      ratio(bare.median),
      '',
      '',
    ),
    ...Object.entries(result.throughput).map(([name, one]) => {
      const spreadOf = (key: 'p50' | 'p99'): string => told(spread(one.rounds.map((round) => round[key])));
      const rate = spread(rates(one));
      return row(name, one.setting, told(rate), ratio(rate.median), spreadOf('p50'), spreadOf('p99'));
    }),
    '',
    'The answer of Leukodiff and of arq is 202, that of the others the result; p50 and p99 are of requests. What the peers do stands at the',
    `head of \`bench/peers/whole.py\`; the one named "${THE_LEAST.slice(2)}" does what \`bench/peers/pipeline.py\` says and no more.`,
    'Settings tried before the rounds:',
    '',
    ...Object.entries(result.peers).map(([name, tried]) => `- ${name}: \`${JSON.stringify(tried)}\``),
    `- bare loop: \`${JSON.stringify(result.bare.trials)}\``,
    '',
    '| Images in an analysis | ms an image |',
    '|---|---|',
    ...result.growth.msPerImage.map(({ images, ms }) => row(images.toLocaleString('en'), figure(ms))),
    '',
    '| Analyses in the tables | ten images, ms | reads/s | p99 ms | list of 50, ms | database, MB |',
    '|---|---|---|---|---|---|',
    ...result.growth.tables.map((one) =>
      row(
        one.analyses.toLocaleString('en'),
        figure(one.msOfTen),
        figure(one.readsPerSecond),
        figure(one.readsP99),
        figure(one.listP50),
        figure(one.databaseMb),
      ),
    ),
    '',
  ].join('\n');
}
