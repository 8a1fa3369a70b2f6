/** From measured figures to what a site needs. Pure: the same results give the same page. */
import { coresOf, describe } from './results.js';
import { type ScaleResult, scaleTargets } from './scale-report.js';
import { type ServiceResult, targetsOf, verdict } from './service-report.js';
import { figure, median } from './statistics.js';

/** A day's work, and how much of it falls into the busiest hour. */
export interface Site {
  readonly name: string;
  readonly smearsADay: number;
  /** Camera frames of 640×480 for a count of 100 cells: some 50 at two cells each. */
  readonly imagesASmear: number;
  /** Laboratories work by day: a fifth of the smears comes in the busiest hour. */
  readonly busiestHourShare: number;
  readonly retentionDays: number;
}

export const SITES: readonly Site[] = [
  { name: 'a hospital', smearsADay: 200, imagesASmear: 50, busiestHourShare: 0.2, retentionDays: 90 },
  { name: 'a region (20 hospitals)', smearsADay: 4_000, imagesASmear: 50, busiestHourShare: 0.2, retentionDays: 90 },
  {
    name: 'a country (1,000 hospitals)',
    smearsADay: 200_000,
    imagesASmear: 50,
    busiestHourShare: 0.2,
    retentionDays: 90,
  },
];

/** Machines are bought for this share of their rate, so that a queue empties again. */
const USED_AT_MOST = 0.7;
/** Measured, for one image. */
export interface BytesAnImage {
  /** In Redis while it waits. */
  readonly queue: number;
  /** In PostgreSQL: the posted file and the pictures of the result; RETENTION_IMAGES_DAYS and RETENTION_MASKS_DAYS end them. */
  readonly pictures: number;
  /** In PostgreSQL: rows and indexes of everything else. */
  readonly numbers: number;
}

export interface Need {
  readonly imagesPerSecond: number;
  readonly workers: number;
  readonly redisMb: number;
  readonly databaseGb: number;
  readonly numbersGb: number;
}

/** What a site needs, from images a second of one worker machine. */
export function needOf(site: Site, machineRate: number, bytes: BytesAnImage): Need {
  const imagesADay = site.smearsADay * site.imagesASmear;
  const imagesPerSecond = (imagesADay * site.busiestHourShare) / 3600;
  return {
    imagesPerSecond,
    workers: Math.max(1, Math.ceil(imagesPerSecond / (machineRate * USED_AT_MOST))),
    // The busiest hour, waiting as a whole: what a morning without workers leaves.
    redisMb: (imagesADay * site.busiestHourShare * bytes.queue) / 1e6,
    databaseGb: (imagesADay * site.retentionDays * (bytes.pictures + bytes.numbers)) / 1e9,
    numbersGb: (imagesADay * site.retentionDays * bytes.numbers) / 1e9,
  };
}

const UNMEASURED = 'Not measured yet.';

/** The blocks of docs/scaling.md by name. */
export function reckoning(
  service: ServiceResult | undefined,
  scale: ScaleResult | undefined,
): Readonly<Record<string, string>> {
  return {
    figures: [figuresOf(service), figuresOfScale(scale)].join('\n\n'),
    sites: sitesOf(service, scale),
  };
}

function figuresOf(service: ServiceResult | undefined): string {
  if (service === undefined) return `${UNMEASURED} \`npm run bench\``;
  return [
    describe(service.conditions),
    '',
    '| | wanted | measured | |',
    '|---|---|---|---|',
    ...targetsOf(service).map((one) => `| ${one.name} | ${one.wanted} | ${one.got} | ${verdict(one)} |`),
  ].join('\n');
}

function figuresOfScale(scale: ScaleResult | undefined): string {
  if (scale === undefined) return `${UNMEASURED} \`npm run bench:scale\``;
  return [
    describe(scale.conditions),
    '',
    '| Several workers | wanted | measured | |',
    '|---|---|---|---|',
    ...scaleTargets(scale).map((one) => `| ${one.name} | ${one.wanted} | ${one.got} | ${verdict(one)} |`),
    `| HTTP, queue and storage, sleeping workers | | ${figure(scale.stored.imagesPerSecond)} images/s | |`,
  ].join('\n');
}

function sitesOf(service: ServiceResult | undefined, scale: ScaleResult | undefined): string {
  const rates = service?.throughput['Leukodiff']?.imagesPerSecond;
  if (service === undefined || rates === undefined || scale === undefined) {
    return `${UNMEASURED} \`npm run bench && npm run bench:scale\``;
  }
  const bytes: BytesAnImage = { ...service.storedBytesAnImage, queue: scale.redisBytesAnImage };
  const rate = median(rates);
  const { cores } = service.conditions;
  return [
    `A machine of ${coresOf(service.conditions)} does ${figure(rate)} images a second and is planned for ${USED_AT_MOST * 100} % of that. An image takes ` +
      `${figure(bytes.queue)} bytes of Redis while it waits, ${figure((bytes.pictures + bytes.numbers) / 1000)} kB of PostgreSQL when it is done, and ` +
      `${figure(bytes.numbers / 1000)} kB of that remain when images and pictures are removed.`,
    '',
    `| | smears a day | images/s, busiest hour | worker machines of ${cores} cores | Redis, an hour waiting | PostgreSQL, 90 days | of that without images and pictures |`,
    '|---|---|---|---|---|---|---|',
    ...SITES.map((site) => {
      const need = needOf(site, rate, bytes);
      const cells = [
        site.name,
        site.smearsADay.toLocaleString('en'),
        figure(need.imagesPerSecond),
        need.workers.toLocaleString('en'),
        `${figure(need.redisMb)} MB`,
        size(need.databaseGb),
        size(need.numbersGb),
      ];
      return `| ${cells.join(' | ')} |`;
    }),
  ].join('\n');
}

const size = (gb: number): string => (gb >= 1000 ? `${figure(gb / 1000)} TB` : `${figure(gb)} GB`);

/** Puts each block between its marks `<!-- bench:NAME -->` and `<!-- /bench -->`; throws where a mark is missing. */
export function fill(page: string, blocks: Readonly<Record<string, string>>): string {
  let filled = page;
  for (const [name, text] of Object.entries(blocks)) {
    const open = `<!-- bench:${name} -->\n`;
    const from = filled.indexOf(open);
    const to = filled.indexOf('<!-- /bench -->', from);
    if (from < 0 || to < 0) throw new Error(`docs/scaling.md has no marks for ${name}`);
    filled = `${filled.slice(0, from + open.length)}\n${text}\n\n${filled.slice(to)}`;
  }
  return filled;
}
