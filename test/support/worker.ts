/** What a worker under test is told: it may call receivers on this machine, and removes nothing by age. */
import type { WorkerDeps } from '../../src/jobs/worker.js';
import { KEEP_ALL } from './retention.js';
import { WEBHOOK_CONFIG } from './webhooks.js';

export const WORKER_CONFIG: WorkerDeps['config'] = {
  ...WEBHOOK_CONFIG,
  ...KEEP_ALL,
  workerConcurrency: 2,
  publicUrl: undefined,
  maxAnalysisAgeMinutes: 60,
};
