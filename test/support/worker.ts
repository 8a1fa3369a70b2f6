/** A worker under test: it may call receivers on this machine, and removes nothing by age. */
import { randomBytes } from 'node:crypto';
import { pino } from 'pino';
import { type JobWorker, startWorker, type WorkerDeps } from '../../src/jobs/worker.js';
import { createMetrics } from '../../src/observability/metrics.js';
import { KEEP_ALL } from './retention.js';
import { SEALER, WEBHOOK_CONFIG } from './webhooks.js';

export const WORKER_CONFIG: WorkerDeps['config'] = {
  ...WEBHOOK_CONFIG,
  ...KEEP_ALL,
  workerConcurrency: 4,
  publicUrl: undefined,
  maxAnalysisAgeMinutes: 60,
};

/** `config` replaces single settings. */
export function startTestWorker({
  config = {},
  ...given
}: Pick<WorkerDeps, 'db' | 'queues' | 'vision'> &
  Partial<Omit<WorkerDeps, 'config'>> & { readonly config?: Partial<WorkerDeps['config']> | undefined }): JobWorker {
  return startWorker({
    config: { ...WORKER_CONFIG, ...config },
    metrics: createMetrics({ version: 'test' }),
    // Not that of database.ts, which loads vitest: a worker may be a process of its own.
    log: pino({ level: 'silent' }),
    webhookSecret: `whsec_${randomBytes(32).toString('base64')}`,
    sealer: SEALER,
    ...given,
  });
}
