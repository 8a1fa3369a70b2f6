/** `leukodiff work`: the worker alone, beside API processes on the same database and queue. */
import type { Config } from '../config.js';
import { ExpectedError } from '../errors.js';
import { readVersion } from '../version.js';
import { openRuntime, type Runtime, runUntilSignal } from './runtime.js';
import { openWorkerEndpoint } from './worker-endpoint.js';

export async function work(config: Config): Promise<void> {
  const version = readVersion();
  let runtime: Runtime;
  try {
    runtime = await openRuntime({ config, version, worker: true });
  } catch (error) {
    if (error instanceof ExpectedError && config.databaseUrl === undefined) {
      throw new ExpectedError(
        `A worker of its own needs a database that it can share with the API, and DATABASE_URL is not set. ${error.message}`,
      );
    }
    throw error;
  }
  const { log, model, queues } = runtime;
  let metricsPort: number | undefined;
  try {
    if (config.metricsPort !== undefined) {
      metricsPort = await openWorkerEndpoint(runtime, config.host, config.metricsPort);
    }
  } catch (error) {
    await runtime.close();
    throw error;
  }
  log.info(
    {
      queue: queues.backend,
      model: `${model.name} ${model.version}`,
      provider: model.executionProvider,
      version,
      metricsPort,
    },
    'working',
  );
  await runUntilSignal(runtime);
}
