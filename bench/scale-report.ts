/** What `npm run bench:scale` measured, as a page. */
import type { Options } from './options.js';
import { type Conditions, describe } from './results.js';
import { type Target, verdict } from './service-report.js';
import { figure, type Spread, told } from './statistics.js';

export interface ScaleResult {
  readonly conditions: Conditions;
  readonly options: Options;
  readonly cores: number;
  readonly real: readonly {
    readonly workers: number;
    readonly imagesPerSecond: Spread;
    /** Cores of the machine that were busy: with workers, API, servers and load. */
    readonly busyCores: number;
  }[];
  /** Sleeping workers on the queue, without storage. */
  readonly queueAlone: {
    readonly workers: number;
    readonly lanes: number;
    readonly sleepMs: number;
    readonly imagesPerSecond: number;
    /** Processor cores that the workers used. */
    readonly workerCores: number;
  };
  /** In Redis, of an image that waits. */
  readonly redisBytesAnImage: number;
  /** Sleeping workers, everything else as in the service. */
  readonly stored: {
    readonly workers: number;
    readonly lanes: number;
    readonly sleepMs: number;
    readonly imagesPerSecond: number;
  };
}

/**
 * How near to linear, until the cores are full: images a second of n workers ÷ n times those of one, or ÷ what one would do with all
 * the cores, where it used so much of them that n of it do not fit.
 */
export function linearity({ real, cores }: ScaleResult): { readonly workers: number; readonly share: number }[] {
  const one = real.find(({ workers }) => workers === 1);
  return real.map(({ workers, imagesPerSecond }) => {
    const room = Math.max(1, cores / (one?.busyCores ?? Number.NaN));
    return {
      workers,
      share: imagesPerSecond.median / (Math.min(workers, room) * (one?.imagesPerSecond.median ?? Number.NaN)),
    };
  });
}

export function scaleTargets(result: ScaleResult): Target[] {
  const least = Math.min(...linearity(result).map(({ share }) => share));
  const { imagesPerSecond } = result.queueAlone;
  return [
    {
      name: 'workers, until the cores are full',
      wanted: '≥ 0.9 linear',
      got: figure(least),
      missedBy: (0.9 - least) / 0.9,
    },
    {
      name: 'the queue alone, sleeping workers',
      wanted: '2,000 images/s',
      got: `${figure(imagesPerSecond)} images/s`,
      missedBy: (2000 - imagesPerSecond) / 2000,
    },
  ];
}

export function scaleReport(result: ScaleResult): string {
  const { queueAlone, stored } = result;
  return [
    '# Leukodiff, several workers',
    '',
    describe(result.conditions),
    `${result.options.rounds} round(s) of ${result.options.seconds} s; median (lowest–highest). Queue on Redis.`,
    '',
    '| Target | wanted | measured | |',
    '|---|---|---|---|',
    ...scaleTargets(result).map((one) => `| ${one.name} | ${one.wanted} | ${one.got} | ${verdict(one)} |`),
    '',
    `| Workers, one thread each | images/s | cores busy, of ${result.cores} | ÷ linear, until the cores are full |`,
    '|---|---|---|---|',
    ...result.real.map(({ workers, imagesPerSecond, busyCores }, i) => {
      const share = linearity(result)[i]?.share ?? Number.NaN;
      return `| ${workers} | ${told(imagesPerSecond)} | ${figure(busyCores)} | ${figure(share)} |`;
    }),
    '',
    `Workers that sleep ${queueAlone.sleepMs} ms instead of computing, on the cores of this machine together with API, load, Redis and PostgreSQL:`,
    '',
    '| | workers | images/s |',
    '|---|---|---|',
    `| the queue alone | ${queueAlone.workers} × ${queueAlone.lanes} | ${figure(queueAlone.imagesPerSecond)} |`,
    `| HTTP, queue and storage, ten images an order | ${stored.workers} × ${stored.lanes} | ${figure(stored.imagesPerSecond)} |`,
    '',
  ].join('\n');
}
