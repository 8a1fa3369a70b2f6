/**
 * Metrics of the jobs (the HTTP layer adds its own to the same registry). Prefix `leukodiff_`, base units, and no label
 * that could name a specimen. Split by stage: queue, decode, inference, post-processing, store.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { InferenceObserver } from '../vision/infer.js';
import { type Backlog, registerBacklogMetrics } from './backlog-metrics.js';
import { createInferenceMetrics } from './inference-metrics.js';
import { createLaboratoryMetrics, type LaboratoryMetrics } from './laboratory-metrics.js';

/** Seconds; from a crop in a warm process to a stitched field of 50 megapixels. */
const STAGE_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];

export interface Metrics {
  readonly registry: Registry;
  readonly laboratory: LaboratoryMetrics;
  readonly inference: InferenceObserver;
  /** `outcome`: completed, failed; `reason`: problem slug or `none`. */
  readonly images: Counter<'outcome' | 'reason'>;
  readonly analyses: Counter<'outcome'>;
  /** `stage`: queue, load, decode, scale, locate, infer, postprocess, encode, store. */
  readonly stageSeconds: Histogram<'stage'>;
  /** From the order's arrival to its result. */
  readonly analysisSeconds: Histogram<'outcome'>;
  /** `outcome`: delivered, retry, failed. */
  readonly deliveries: Counter<'outcome'>;
  readonly deliverySeconds: Histogram;
  /** `channel`: hl7, fhir; `outcome`: delivered, retry, failed. */
  readonly reports: Counter<'channel' | 'outcome'>;
  readonly reenqueued: Counter<'kind'>;
  readonly removed: Counter;
  readonly busy: Gauge;
  /** Images that this process may analyse at once. */
  readonly concurrency: Gauge;
  /** Always 1. */
  readonly model: Gauge<'name' | 'version' | 'sha256' | 'provider'>;
}

export interface MetricsOptions {
  readonly version: string;
  /** Sites whose measures are told apart; see sites.ts. */
  readonly sites?: readonly string[];
  /** Called at every scrape. */
  readonly backlog?: { readonly read: () => Promise<Backlog>; readonly limit: number };
  /** Seconds by which this process' clock is ahead of the database's. Called at every scrape. */
  readonly clockOffset?: () => Promise<number>;
}

export function createMetrics({ version, sites = [], backlog, clockOffset }: MetricsOptions): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: 'leukodiff_' });
  const registers = [registry];
  new Gauge({
    name: 'leukodiff_build_info',
    help: 'Version of the program; always 1.',
    labelNames: ['version'],
    registers,
  }).set({ version }, 1);
  if (backlog !== undefined) registerBacklogMetrics(registry, backlog.read, backlog.limit);
  if (clockOffset !== undefined) registerClock(registry, clockOffset);
  const metrics = {
    registry,
    laboratory: createLaboratoryMetrics(registry, sites),
    inference: createInferenceMetrics(registry),
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
    deliverySeconds: new Histogram({
      name: 'leukodiff_delivery_duration_seconds',
      help: 'Time of one webhook attempt.',
      buckets: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15],
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
    concurrency: new Gauge({
      name: 'leukodiff_worker_concurrency',
      help: 'Images that this process may analyse at once; 0 without a worker.',
      registers,
    }),
    model: new Gauge({
      name: 'leukodiff_model_info',
      help: 'The model in use and where it runs; always 1.',
      labelNames: ['name', 'version', 'sha256', 'provider'],
      registers,
    }),
  };
  // From 0 on: the first of a kind must show as an increase.
  for (const outcome of ['completed', 'failed']) metrics.analyses.inc({ outcome }, 0);
  for (const outcome of ['delivered', 'retry', 'failed']) metrics.deliveries.inc({ outcome }, 0);
  for (const kind of ['analysis', 'delivery', 'report']) metrics.reenqueued.inc({ kind }, 0);
  metrics.images.inc({ outcome: 'completed', reason: 'none' }, 0);
  return metrics;
}

function registerClock(registry: Registry, read: () => Promise<number>): void {
  new Gauge({
    name: 'leukodiff_clock_offset_seconds',
    help: "By how much the clock of this process is ahead of the database's; below 0: behind.",
    registers: [registry],
    async collect() {
      // A scrape without it is better than none while the database is down.
      this.set(await read().catch(() => Number.NaN));
    },
  });
}
