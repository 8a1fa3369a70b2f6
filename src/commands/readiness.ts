/** Whether this process can do its work: database, queue, model. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ReadinessCheck } from '../http/deps.js';
import type { Runtime } from './runtime.js';

const CHECK_TIMEOUT_MS = 3_000;

/** Settles within `CHECK_TIMEOUT_MS` and never rejects. */
export async function readiness(runtime: Runtime, worker: boolean): Promise<readonly ReadinessCheck[]> {
  const { db, queues, model, config } = runtime;
  const { objects } = db;
  if (runtime.stopping()) return [{ name: 'process', ok: false, detail: 'told to end: it finishes what it has begun' }];
  const [database, queue] = await Promise.all([
    check('database', () => db.ping(), db.embedded ? 'embedded PostgreSQL' : 'PostgreSQL server'),
    check('queue', () => queues.ping(), queues.backend),
  ]);
  const images = objects === null ? [] : [await check('image-storage', () => objects.store.ping(), 'S3')];
  const wanted = config.executionProvider === 'auto' ? '' : `, ${config.executionProvider} wanted`;
  const where = worker ? `on ${model.executionProvider}${wanted}` : 'run by workers elsewhere';
  return [database, queue, ...images, { name: 'model', ok: true, detail: `${model.name} ${model.version} ${where}` }];
}

async function check(name: string, probe: () => Promise<void>, found: string): Promise<ReadinessCheck> {
  const timer = new AbortController();
  const late = sleep(CHECK_TIMEOUT_MS, 'late', { signal: timer.signal }).catch(() => 'late');
  try {
    const answer = await Promise.race([probe().then(() => 'answers'), late]);
    return answer === 'answers'
      ? { name, ok: true, detail: found }
      : { name, ok: false, detail: `${found} does not answer in ${CHECK_TIMEOUT_MS / 1000} s` };
  } catch {
    // The reason may name a host or a user; it is in the log of whoever uses the connection.
    return { name, ok: false, detail: `${found} cannot be reached` };
  } finally {
    timer.abort();
  }
}
