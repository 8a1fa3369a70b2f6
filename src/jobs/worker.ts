/** The worker: the jobs of all queues and the sweep, with one orderly end. */
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Config } from '../config.js';
import type { Metrics } from '../observability/metrics.js';
import { createOutboundAgent } from '../outbound/agent.js';
import type { Resolve } from '../outbound/lookup.js';
import type { OutgoingOptions } from '../reporting/outgoing.js';
import type { Database } from '../storage/database.js';
import type { ReportChannel } from '../storage/reports.js';
import type { Sealer } from '../storage/sealing.js';
import type { ApartVision } from '../vision/apart.js';
import { analyzeImages } from './analyze-image.js';
import { type DeliverDeps, deliver } from './deliver.js';
import { finishAnalysis } from './finish-analysis.js';
import { imagesAtOnce } from './images-at-once.js';
import { IMAGE_ANALYSIS_ERROR, IMAGE_INTERRUPTED, IMAGE_TIMEOUT } from './problems.js';
import { analysisToFinish, type Queues } from './queues.js';
import { type ReportSender, reportJob, type SendReportDeps } from './send-report.js';
import { type SweepDeps, sweep } from './sweep.js';

const SWEEP_INTERVAL_MS = 15_000;
/** Attempts wait for others, not for this process: many at once cost it little. */
const DELIVERY_CONCURRENCY = 128;
const FAILING_DELIVERY_CONCURRENCY = 32;
/** One message at a time, over one connection; a FHIR server takes several requests at once. */
const REPORT_CONCURRENCY = { hl7: 1, fhir: 4 } as const;
const FINISH_CONCURRENCY = 4;
const FORCED_CLOSE_MS = 3_000;

export interface WorkerDeps {
  readonly config: SweepDeps['config'] & DeliverDeps['config'] & Pick<Config, 'workerConcurrency' | 'publicUrl'>;
  readonly db: Database;
  readonly queues: Queues;
  readonly vision: Pick<ApartVision, 'analyze' | 'model'>;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly webhookSecret: string;
  /** Which reports are made of results; absent: none. */
  readonly outgoing?: OutgoingOptions | undefined;
  /** How they leave. */
  readonly senders?: readonly ReportSender[];
  /** For tests: shorter waits between attempts to send a report. */
  readonly reportWaits?: Pick<SendReportDeps, 'stepsMs' | 'pauseMs'>;
  readonly sealer: Sealer;
  /** For tests: shorter waits between webhook attempts, and for an answer; a name server of their own. */
  readonly retryScheduleMs?: readonly number[];
  readonly attemptTimeoutMs?: number;
  readonly resolve?: Resolve;
}

export interface JobWorker {
  /** Takes no further job and waits for the running ones, at most `timeoutMs`; what is cut off runs again later. */
  close(timeoutMs: number): Promise<void>;
}

export function startWorker(deps: WorkerDeps): JobWorker {
  const { config, db, queues, metrics, log } = deps;
  const senders = deps.senders ?? [];
  const channels = senders.map((sender) => sender.channel);
  countFromZero(metrics, channels);
  const atOnce = config.workerConcurrency ?? imagesAtOnce(availableParallelism());
  metrics.concurrency.set(atOnce);
  const shutdown = new AbortController();
  const finishing = {
    db,
    queues,
    metrics,
    log,
    publicUrl: config.publicUrl,
    outgoing: deps.outgoing,
    shutdown: shutdown.signal,
  };
  const analyzing = { ...finishing, vision: deps.vision };
  const policy = { allow: config.webhookNetworks, ports: config.webhookPorts };
  const agent = createOutboundAgent(policy, deps.resolve);
  const delivering = { ...deps, agent, shutdown: shutdown.signal };
  const workers = [
    queues.work('leukodiff-images', atOnce, (job, token) => analyzeImages(analyzing, job, token)),
    queues.work('leukodiff-analyses', FINISH_CONCURRENCY, (job) =>
      finishAnalysis(finishing, analysisToFinish(job.data)),
    ),
    queues.work('leukodiff-deliveries', DELIVERY_CONCURRENCY, (job, token) =>
      deliver(delivering, 'prompt', job, token),
    ),
    queues.work('leukodiff-failing-deliveries', FAILING_DELIVERY_CONCURRENCY, (job, token) =>
      deliver(delivering, 'failing', job, token),
    ),
    ...senders.map((sender) =>
      queues.work(
        `leukodiff-${sender.channel}`,
        REPORT_CONCURRENCY[sender.channel],
        reportJob({ db, metrics, log, ...deps.reportWaits }, sender),
      ),
    ),
  ];

  let sweeping: Promise<unknown> = Promise.resolve();
  const sweepOnce = (): void => {
    sweeping = sweeping
      .then(() => sweep({ ...finishing, config, channels }))
      .catch((error) => log.warn({ err: error }, 'the sweep failed'));
  };
  sweepOnce();
  const timer = setInterval(sweepOnce, SWEEP_INTERVAL_MS);

  return {
    close: async (timeoutMs) => {
      clearInterval(timer);
      const drained = Promise.all([...workers.map((worker) => worker.close()), sweeping]).then(() => true);
      const patience = new AbortController();
      const late = sleep(timeoutMs, false, { signal: patience.signal }).catch(() => true);
      if (!(await Promise.race([drained, late]))) {
        log.warn('running jobs did not end in time; they run again after the next start');
        shutdown.abort(new Error('the worker is shutting down'));
        // Aborted jobs fail at their next stage and give their lock back; what does not is left to its lapse.
        await Promise.race([drained, sleep(FORCED_CLOSE_MS, undefined, { ref: false })]);
        const left = Promise.all(workers.map((worker) => worker.close(true)));
        await Promise.race([left, sleep(FORCED_CLOSE_MS, undefined, { ref: false })]);
      }
      patience.abort();
      await agent.destroy();
      for (const sender of senders) sender.close();
    },
  };
}

/** A counter that is not there shows no increase when its first event comes; these are alerted on. */
function countFromZero({ images, reports }: Metrics, channels: readonly ReportChannel[]): void {
  for (const { code: reason } of [IMAGE_ANALYSIS_ERROR, IMAGE_INTERRUPTED, IMAGE_TIMEOUT]) {
    images.inc({ outcome: 'failed', reason }, 0);
  }
  for (const channel of channels) {
    for (const outcome of ['delivered', 'retry', 'failed']) reports.inc({ channel, outcome }, 0);
  }
}
