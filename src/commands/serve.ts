/** `leukodiff serve`: the API and, unless told otherwise, the worker in one process. */
import { existsSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config.js';
import { ExpectedError } from '../errors.js';
import { buildApp } from '../http/app.js';
import { registerDriftMetrics } from '../observability/drift-metrics.js';
import { PACKAGE_ROOT, readVersion } from '../version.js';
import { histogramsBySite, lastDays, measureDrift, usableReference } from './drift-measurement.js';
import { announceFirstKey, firstKeyFile, makeFirstKey } from './first-key.js';
import { listenError } from './listen-error.js';
import { readiness } from './readiness.js';
import { openRuntime, type Runtime, runUntilSignal } from './runtime.js';

/** Requests in flight (`Prefer: wait`) get this long at a shutdown. */
const DRAIN_MS = 10_000;

export interface ServeOptions {
  readonly worker: boolean;
}

export async function serve(config: Config, { worker }: ServeOptions): Promise<void> {
  refuseOpenAddress(config);
  const version = readVersion();
  const runtime = await openRuntime({ config, version, worker });
  const { log, db, queues, metrics, model, outgoing } = runtime;
  try {
    await measureDriftNowAndThen(runtime);
    const app = await buildApp({
      config,
      database: db,
      queues,
      model,
      outgoing,
      logger: log,
      metrics: metrics.registry,
      tracing: runtime.tracing?.requests,
      readiness: () => readiness(runtime, worker),
      version,
    });
    const firstKey = config.access === 'keys' ? await makeFirstKey(db, config.dataDir) : null;
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
    const scheme = config.tlsCert === undefined ? 'http' : 'https';
    const address = `${scheme}://${config.host.includes(':') ? `[${config.host}]` : config.host}:${port}`;
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
    if (config.access === 'open') {
      log.warn({ host: config.host }, 'ACCESS=open: nobody is asked for a key. For development only');
    } else if (!isLoopback(config.host) && config.tlsCert === undefined) {
      log.warn({ host: config.host }, 'keys and results cross the network unencrypted unless TLS is in front');
    }
    if (firstKey !== null) announceFirstKey(firstKey, log);
    if (process.stdout.isTTY) process.stdout.write(welcome(runtime, address, version));
  } catch (error) {
    await runtime.close();
    throw error;
  }
  await runUntilSignal(runtime);
}

/** By the API alone: there are few of them, and workers would all ask the database the same. */
async function measureDriftNowAndThen({ config, db, log, metrics, model }: Runtime): Promise<void> {
  const { driftWindowDays, driftRefreshSeconds, metricsSites } = config;
  if (driftWindowDays === 0) return;
  const found = await usableReference(config, model.sha256);
  if ('reason' in found) {
    log.warn({ reason: found.reason }, 'drift is not measured');
    return;
  }
  const { reference } = found;
  registerDriftMetrics(metrics.registry, {
    kind: reference.kind,
    measure: async () => {
      const sites = await histogramsBySite(db, lastDays(driftWindowDays), model.sha256, metricsSites);
      return measureDrift(reference, sites);
    },
    refreshMs: driftRefreshSeconds * 1000,
    onError: (error) => log.warn({ err: error }, 'drift could not be measured'),
  });
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
    ...(config.access === 'open' ? ['  ACCESS=open: NOBODY IS ASKED FOR A KEY. For development only.', ''] : []),
    '  Post a smear and wait for the differential:',
    '',
    `    curl ${authorization(config)}-H 'Prefer: wait=30' -F images=@${existsSync(sample) ? sample : 'smear.png'} ${address}/analyze`,
    '',
    '  Ctrl-C ends it; what was posted is kept.',
    '',
    '',
  ];
  return lines.join('\n');
}

/** The curl option that sends the first key, where it lies where it was put. */
function authorization({ access, dataDir }: Config): string {
  if (access === 'open') return '';
  const file = firstKeyFile(dataDir);
  const key = existsSync(file) ? `$(cat ${relative(process.cwd(), file)})` : 'lk_…';
  return `-H "Authorization: Bearer ${key}" `;
}

/** Without keys the loopback address is all that keeps others out. */
function refuseOpenAddress({ access, host }: Config): void {
  if (access !== 'open' || isLoopback(host)) return;
  throw new ExpectedError(
    `ACCESS=open asks nobody for a key, so it listens on 127.0.0.1 alone, not on HOST=${host}. Remove one of the two.`,
  );
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}
