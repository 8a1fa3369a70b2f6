/**
 * Metrics of the jobs (the HTTP layer adds its own to the same registry). Prefix `leukodiff_`, base units, and no label
 * that could name a specimen. Split by stage: queue, decode, inference, post-processing, store.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** Seconds; from a crop in a warm process to a stitched field of 50 megapixels. */
const STAGE_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];

export interface Metrics {
  readonly registry: Registry;
  /** `outcome`: completed, failed; `reason`: problem slug or `none`. */
  readonly images: Counter<'outcome' | 'reason'>;
  readonly analyses: Counter<'outcome'>;
  readonly cells: Counter<'class'>;
  /** `stage`: queue, load, decode, scale, locate, infer, postprocess, encode, store. */
  readonly stageSeconds: Histogram<'stage'>;
  /** From the order's arrival to its result. */
  readonly analysisSeconds: Histogram<'outcome'>;
  /** `outcome`: delivered, retry, failed. */
  readonly deliveries: Counter<'outcome'>;
  /** `channel`: hl7, fhir; `outcome`: delivered, retry, failed. */
  readonly reports: Counter<'channel' | 'outcome'>;
  readonly reenqueued: Counter<'kind'>;
  readonly removed: Counter;
  readonly busy: Gauge;
}

export interface MetricsOptions {
  readonly version: string;
  /** Called at every scrape. */
  readonly queueDepth?: () => Promise<number>;
}

export function createMetrics({ version, queueDepth }: MetricsOptions): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: 'leukodiff_' });
  const registers = [registry];
  new Gauge({
    name: 'leukodiff_build_info',
    help: 'Version of the program; always 1.',
    labelNames: ['version'],
    registers,
  }).set({ version }, 1);
  if (queueDepth !== undefined) {
    new Gauge({
      name: 'leukodiff_queue_images',
      help: 'Images stored and not finished.',
      registers,
      async collect() {
        // A scrape without this value is better than a failed scrape while the database is down.
        const depth = await queueDepth().catch(() => Number.NaN);
        this.set(depth);
      },
    });
  }
  return {
    registry,
    images: new Counter({
      name: 'leukodiff_images_total',
      help: 'Images whose analysis ended, by outcome and reason.',
      labelNames: ['outcome', 'reason'],
      registers,
    }),
    analyses: new Counter({
      name: 'leukodiff_analyses_total',
      help: 'Analyses that ended, by outcome.',
      labelNames: ['outcome'],
      registers,
    }),
    cells: new Counter({
      name: 'leukodiff_cells_total',
      help: 'Cells found, by class.',
      labelNames: ['class'],
      registers,
    }),
    stageSeconds: new Histogram({
      name: 'leukodiff_stage_duration_seconds',
      help: 'Time of one image in each stage.',
      labelNames: ['stage'],
      buckets: STAGE_BUCKETS,
      registers,
    }),
    analysisSeconds: new Histogram({
      name: 'leukodiff_analysis_duration_seconds',
      help: 'Time from the arrival of an order to its result.',
      labelNames: ['outcome'],
      buckets: [0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600],
      registers,
    }),
    deliveries: new Counter({
      name: 'leukodiff_deliveries_total',
      help: 'Webhook attempts, by outcome.',
      labelNames: ['outcome'],
      registers,
    }),
    reports: new Counter({
      name: 'leukodiff_reports_total',
      help: 'Attempts to send a report, by channel and outcome.',
      labelNames: ['channel', 'outcome'],
      registers,
    }),
    reenqueued: new Counter({
      name: 'leukodiff_sweep_reenqueued_total',
      help: 'Jobs that the sweep put back because they were gone, by kind.',
      labelNames: ['kind'],
      registers,
    }),
    removed: new Counter({ name: 'leukodiff_retention_removed_total', help: 'Analyses removed by age.', registers }),
    busy: new Gauge({
      name: 'leukodiff_worker_images',
      help: 'Images that this process analyses right now.',
      registers,
    }),
  };
}
