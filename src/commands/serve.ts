/** `leukodiff serve`: the API and, unless told otherwise, the worker in one process. */
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config.js';
import { buildApp } from '../http/app.js';
import { PACKAGE_ROOT, readVersion } from '../version.js';
import { listenError } from './listen-error.js';
import { readiness } from './readiness.js';
import { openRuntime, type Runtime, runUntilSignal } from './runtime.js';

/** Requests in flight (`Prefer: wait`) get this long at a shutdown. */
const DRAIN_MS = 10_000;

export interface ServeOptions {
  readonly worker: boolean;
}

export async function serve(config: Config, { worker }: ServeOptions): Promise<void> {
  const version = readVersion();
  const runtime = await openRuntime({ config, version, worker });
  const { log, db, queues, metrics, model, outgoing } = runtime;
  try {
    const app = await buildApp({
      config,
      database: db,
      queues,
      model,
      outgoing,
      logger: log,
      metrics: metrics.registry,
      readiness: () => readiness(runtime, worker),
      version,
    });
    runtime.onClose(() => Promise.race([app.close(), sleep(DRAIN_MS, undefined, { ref: false })]));
    try {
      await app.listen({
        host: config.host,
        port: config.port,
        listenTextResolver: (at) => `accepting requests at ${at}`,
      });
    } catch (error) {
      throw listenError(error, config.host, config.port);
    }
    const { port } = app.server.address() as AddressInfo;
    const address = `http://${config.host.includes(':') ? `[${config.host}]` : config.host}:${port}`;
    log.info(
      {
        address,
        dataDir: config.dataDir,
        queue: queues.backend,
        worker,
        model: `${model.name} ${model.version}`,
        version,
      },
      'listening',
    );
    if (!isLoopback(config.host)) {
      log.warn({ host: config.host }, 'anybody who reaches this address can use the service: it has no keys yet');
    }
    if (process.stdout.isTTY) process.stdout.write(welcome(runtime, address, version));
  } catch (error) {
    await runtime.close();
    throw error;
  }
  await runUntilSignal(runtime);
}

/** What a person sees who started it in a terminal. */
export function welcome({ config, db, webhookSecret }: Runtime, address: string, version: string): string {
  const sample = relative(process.cwd(), join(PACKAGE_ROOT, 'samples/smear.png'));
  const lines = [
    '',
    `  Leukodiff ${version} is ready.`,
    '',
    `    API        ${address}`,
    `    Reference  ${address}/docs`,
    db.embedded
      ? `    Data       ${config.dataDir} (embedded PostgreSQL)`
      : '    Data       the server in DATABASE_URL',
    ...(webhookSecret?.file == null ? [] : [`    Webhooks   signed with the secret in ${webhookSecret.file}`]),
    '',
    '  Post a smear and wait for the differential:',
    '',
    `    curl -H 'Prefer: wait=30' -F images=@${existsSync(sample) ? sample : 'smear.png'} ${address}/analyze`,
    '',
    '  Ctrl-C ends it; what was posted is kept.',
    '',
    '',
  ];
  return lines.join('\n');
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}
