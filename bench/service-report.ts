/** What `npm run bench` measured, as a page: figures, ratios, and each target met or missed by how much. */
import type { BareSetting, BareTurn } from './bare-process.js';
import { THE_LEAST } from './contestants.js';
import type { Growth } from './growth.js';
import { type Reads, TURN_WARM_UP_SECONDS, WARM_UP_SECONDS } from './load.js';
import type { Options } from './options.js';
import { type Conditions, describe } from './results.js';
import { figure, median, ratios, spread, told } from './statistics.js';

export interface Throughputs {
  readonly setting: string;
  /** Of each round. */
  readonly imagesPerSecond: readonly number[];
  /** Of the whole machine for an image, in each round. */
  readonly processorMs: readonly number[];
  /** Of all answers, in milliseconds. */
  readonly p50: number;
  readonly p99: number;
}

type LoopSetting = BareSetting & Pick<BareTurn, 'lanes'>;

/** Rounds of all are the same rounds: the first of one belongs to the first of another. */
export interface ServiceResult {
  readonly conditions: Conditions;
  readonly options: Options;
  /** Busy while all contestants waited for their turns. */
  readonly restingCores: number;
  readonly bare: {
    readonly setting: LoopSetting;
    readonly trials: readonly { readonly setting: LoopSetting; readonly imagesPerSecond: number }[];
    /** Images a second. */
    readonly rounds: readonly number[];
    readonly processorMs: readonly number[];
    readonly idleMs: readonly number[];
  };
  readonly idleMs: readonly number[];
  readonly throughput: Readonly<Record<string, Throughputs>>;
  readonly peers: Readonly<Record<string, unknown>>;
  /** With more and more readers. */
  readonly reads: readonly Reads[];
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

const rates = (one: Throughputs | undefined): readonly number[] => one?.imagesPerSecond ?? [];

/** As a laboratory sends them: a smear is some fifty. */
const IN_TENS = 'Leukodiff, orders of 10 images';

/** The targets of issue 5, for two cores. A cost without a knee is one that nowhere exceeds half as much again of what it was before. */
export function targetsOf(result: ServiceResult): Target[] {
  const ours = result.throughput['Leukodiff'];
  const service = rates(ours);
  const inTens = rates(result.throughput[IN_TENS]);
  const bare = result.bare.rounds;
  // Those that give the same answer.
  const others = Object.entries(result.throughput).filter(
    ([name]) => !name.startsWith('Leukodiff') && !name.endsWith(THE_LEAST),
  );
  const [fastest = []] = others.map(([, one]) => rates(one)).sort((a, b) => median(b) - median(a));
  const limits = result.bare.idleMs.map((ms) => 1.2 * ms + 15);
  const p99 = ours?.p99 ?? Number.NaN;
  const { workerPeakMb, growth } = result;
  // As many readers as give the rate within the time; where none do, those that come nearest.
  const [reads] = [...result.reads].sort((a, b) => readsMissedBy(a) - readsMissedBy(b));
  const perImage = growth.msPerImage.map(({ ms }) => ms);
  const knee = Math.max(...perImage.map((ms, i) => (i === 0 ? 0 : ms / (perImage[i - 1] ?? ms))));
  const [few, many] = growth.tables;
  const tables = spread(ratios(many?.msOfTen ?? [], few?.msOfTen ?? []));
  const ratio = (name: string, wanted: number, values: readonly number[], of: readonly number[]): Target => {
    const found = spread(ratios(values, of));
    return {
      name,
      wanted: wanted === 1 ? '> 1' : `≥ ${wanted.toFixed(2)}`,
      got: told(found),
      missedBy: atLeast(found.median, wanted),
    };
  };
  return [
    ratio('service at saturation ÷ bare limit, orders of ten images', 0.9, inTens, bare),
    ratio('the same, every image an order of its own', 0.9, service, bare),
    {
      name: 'one image, idle, end to end',
      wanted: `≤ ${figure(median(limits))} ms (1.2 × ${figure(median(result.bare.idleMs))} + 15)`,
      got: `${figure(median(result.idleMs))} ms; of its round's limit ${told(spread(ratios(result.idleMs, limits)))}`,
      missedBy: median(ratios(result.idleMs, limits)) - 1,
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
          ratio('service ÷ best tuned peer with the same answer, orders of ten images', 1, inTens, fastest),
          ratio('the same, every image an order of its own', 1, service, fastest),
        ]),
    {
      name: `reads a second, p99 within 20 ms (${reads?.connections ?? 0} readers)`,
      wanted: '≥ 1,500, ≤ 20 ms',
      got: `${figure(reads?.perSecond ?? Number.NaN)}, ${figure(reads?.p99 ?? Number.NaN)} ms`,
      missedBy: reads === undefined ? Number.NaN : readsMissedBy(reads),
    },
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
      got: `${told(tables)} ×`,
      missedBy: atMost(tables.median, 1.5),
    },
  ];
}

const readsMissedBy = ({ perSecond, p99 }: Reads): number => Math.max(atLeast(perSecond, 1500), atMost(p99, 20));

export function verdict({ missedBy }: Target): string {
  if (!Number.isFinite(missedBy)) return 'not measured';
  return missedBy <= 0 ? 'met' : `**missed by ${figure(missedBy * 100)} %**`;
}

export function serviceReport(result: ServiceResult): string {
  const service = rates(result.throughput['Leukodiff']);
  const row = (...cells: string[]): string => `| ${cells.join(' | ')} |`;
  const ratio = (values: readonly number[]): string => figure(median(ratios(values, service)));
  const cheaper = (ms: readonly number[], than: string): string =>
    told(spread(ratios(ms, result.throughput[than]?.processorMs ?? [])));
  return [
    '# Leukodiff, measured',
    '',
    describe(result.conditions),
    `${result.options.rounds} round(s), in each a turn of ${result.options.seconds} s for everybody; median (lowest–highest), of ratios those within a round;`,
    `${result.tookSeconds} s in all. While all stood still, ${figure(result.restingCores)} cores were busy.`,
    '',
    '| Target (two cores) | wanted | measured | |',
    '|---|---|---|---|',
    ...targetsOf(result).map((target) => row(target.name, target.wanted, target.got, verdict(target))),
    '',
    'Camera frames of 640×480 with 1 to 4 cells, scale given; every image an order of its own unless it says otherwise. A peer takes one',
    `image a request: nothing of what it does would be less for ten. After ${WARM_UP_SECONDS} s that do not count, for everybody, and ${TURN_WARM_UP_SECONDS} s of each turn.`,
    '',
    '| | setting | images/s | ÷ Leukodiff | processor, ms an image | answer, p50 ms | p99 ms |',
    '|---|---|---|---|---|---|---|',
    row(
      'bare loop, no server',
      JSON.stringify(result.bare.setting).replaceAll('"', ''),
      told(spread(result.bare.rounds)),
      ratio(result.bare.rounds),
      told(spread(result.bare.processorMs)),
      '',
      '',
    ),
    ...Object.entries(result.throughput).map(([name, one]) =>
      row(
        name,
        one.setting,
        told(spread(rates(one))),
        ratio(rates(one)),
        told(spread(one.processorMs)),
        figure(one.p50),
        figure(one.p99),
      ),
    ),
    '',
    'Processor time is that of the whole machine in a turn, whoever used it: PostgreSQL, Redis and the client that posts have part in it. By it',
    `the bare loop takes ${cheaper(result.bare.processorMs, IN_TENS)} of what an image costs Leukodiff in orders of ten, ${cheaper(result.bare.processorMs, 'Leukodiff')} alone.`,
    '',
    'The answer of Leukodiff and of arq is 202, that of the others the result; p50 and p99 are of requests. What the peers do stands at the',
    `head of \`bench/peers/whole.py\`; the one named "${THE_LEAST.slice(2)}" does what \`bench/peers/pipeline.py\` says and no more.`,
    'Settings tried before the rounds:',
    '',
    ...Object.entries(result.peers).map(([name, tried]) => `- ${name}: \`${JSON.stringify(tried)}\``),
    `- bare loop: \`${JSON.stringify(result.bare.trials)}\``,
    '',
    '| Readers | reads/s | p50 ms | p99 ms |',
    '|---|---|---|---|',
    ...result.reads.map((one) => row(String(one.connections), figure(one.perSecond), figure(one.p50), figure(one.p99))),
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
        told(spread(one.msOfTen)),
        told(spread(one.readsPerSecond)),
        told(spread(one.readsP99)),
        told(spread(one.listMs)),
        figure(one.databaseMb),
      ),
    ),
    '',
  ].join('\n');
}
