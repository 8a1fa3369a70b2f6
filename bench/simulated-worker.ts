/**
 * A worker without networks, for `npm run bench:scale`: the service's own jobs, queue and storage, and an inference that sleeps. It shows
 * what queue and database carry, beyond what the networks of one machine could ask of them. Only here; the program has no such thing.
 *
 *     tsx bench/simulated-worker.ts '{"sleepMs":20,"lanes":64}'     DATABASE_URL and REDIS_URL as for `leukodiff work`
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../src/config.js';
import { openQueues } from '../src/jobs/queues.js';
import { startWorker } from '../src/jobs/worker.js';
import { createLogger } from '../src/observability/logger.js';
import { createMetrics } from '../src/observability/metrics.js';
import { openDatabase } from '../src/storage/database.js';
import { createSealer } from '../src/storage/sealing.js';
import { newWebhookSecret } from '../src/storage/secrets.js';
import type { ImageAnalysis, Vision } from '../src/vision/index.js';

export interface SimulatedWorkerSetting {
  readonly sleepMs: number;
  /** Images that sleep at the same time. */
  readonly lanes: number;
  /** The jobs of the queue do nothing but sleep: no storage. */
  readonly queueAlone: boolean;
}

/** A field without cells. */
const EMPTY: ImageAnalysis = {
  width: 64,
  height: 64,
  scale: { micronsPerPixel: 0.1, source: 'given', workingMicronsPerPixel: 0.1, confidence: 1 },
  quality: { sharpness: 3, brightness: 0.8, clipped: 0, background: 1, flags: [] },
  saliencyConsistency: null,
  cells: [],
  saliency: { width: 2, height: 2, data: new Uint8Array(4) },
  timingsMs: {},
};

const { sleepMs, lanes, queueAlone } = JSON.parse(process.argv[2] ?? '{}') as SimulatedWorkerSetting;
const config = loadConfig({ ...process.env, WORKER_CONCURRENCY: String(lanes) });
const log = createLogger({ level: 'warn', format: 'json' });
const db = await openDatabase({ databaseUrl: config.databaseUrl, dataDir: config.dataDir, log });
const queues = await openQueues({ redisUrl: config.redisUrl, databaseUrl: db.url, log });
const sleepingInference: Pick<Vision, 'analyze' | 'model'> = {
  model: { name: 'sleeping', version: '0.0.0', sha256: '0'.repeat(64), executionProvider: 'cpu' },
  analyze: async () => {
    await sleep(sleepMs);
    return EMPTY;
  },
};
const close = queueAlone ? sleepInQueue() : workAsUsual();
console.log('working');
process.once('SIGTERM', () => {
  void close()
    .then(() => queues.close())
    .then(() => db.close());
});

function sleepInQueue(): () => Promise<void> {
  let done = 0;
  const worker = queues.work('leukodiff-images', lanes, async () => {
    await sleep(sleepMs);
    done++;
  });
  const timer = setInterval(() => console.log(`done ${done}`), 250);
  return async () => {
    clearInterval(timer);
    await worker.close(true);
  };
}

function workAsUsual(): () => Promise<void> {
  const worker = startWorker({
    config,
    db,
    queues,
    vision: sleepingInference,
    metrics: createMetrics({ version: 'bench' }),
    log,
    webhookSecret: newWebhookSecret(),
    sealer: createSealer(Buffer.alloc(32)),
  });
  return () => worker.close(5_000);
}
