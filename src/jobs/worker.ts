/** The worker: the jobs of all queues and the sweep, with one orderly end. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Config } from '../config.js';
import type { Metrics } from '../observability/metrics.js';
import type { Database } from '../storage/database.js';
import type { Vision } from '../vision/index.js';
import { analyzeImage } from './analyze-image.js';
import { deliver } from './deliver.js';
import { finishAnalysis } from './finish-analysis.js';
import type { Queues } from './queues.js';
import { type SweepDeps, sweep } from './sweep.js';

const SWEEP_INTERVAL_MS = 15_000;
const DELIVERY_CONCURRENCY = 8;
const FINISH_CONCURRENCY = 4;
const FORCED_CLOSE_MS = 3_000;

export interface WorkerDeps {
  readonly config: SweepDeps['config'] & Pick<Config, 'workerConcurrency' | 'publicUrl'>;
  readonly db: Database;
  readonly queues: Queues;
  readonly vision: Pick<Vision, 'analyze' | 'model'>;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly webhookSecret: string;
  /** For tests: shorter waits between webhook attempts. */
  readonly retryScheduleMs?: readonly number[];
}

export interface JobWorker {
  /** Takes no further job and waits for the running ones, at most `timeoutMs`; what is cut off runs again later. */
  close(timeoutMs: number): Promise<void>;
}

export function startWorker(deps: WorkerDeps): JobWorker {
  const { config, db, queues, metrics, log } = deps;
  const shutdown = new AbortController();
  const finishing = { db, queues, metrics, log, publicUrl: config.publicUrl };
  const workers = [
    queues.work('leukodiff-images', config.workerConcurrency, (job) =>
      analyzeImage({ ...deps, shutdown: shutdown.signal }, job),
    ),
    queues.work('leukodiff-analyses', FINISH_CONCURRENCY, (job) => finishAnalysis(finishing, job.data.analysisId)),
    queues.work('leukodiff-deliveries', DELIVERY_CONCURRENCY, (job, token) => deliver(deps, job, token)),
  ];

  let sweeping: Promise<unknown> = Promise.resolve();
  const sweepOnce = (): void => {
    sweeping = sweeping
      .then(() => sweep({ ...finishing, config }))
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
    },
  };
}
