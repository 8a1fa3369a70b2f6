/** What `serve` and `work` have in common: opening everything in order, and one orderly end. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config.js';
import { ExpectedError } from '../errors.js';
import { openQueues, type Queues } from '../jobs/queues.js';
import { fhirSender, hl7Sender } from '../jobs/report-senders.js';
import type { ReportSender } from '../jobs/send-report.js';
import { loadWebhookSecret, type WebhookSecret } from '../jobs/webhook-secret.js';
import { startWorker } from '../jobs/worker.js';
import { registerGpuMetrics } from '../observability/gpu.js';
import { createLogger, type Logger } from '../observability/logger.js';
import { createMetrics, type Metrics } from '../observability/metrics.js';
import { startTracing, type Tracing } from '../observability/tracing.js';
import type { OutgoingOptions } from '../reporting/outgoing.js';
import { readBacklog } from '../storage/backlog.js';
import { readClockOffset } from '../storage/clock.js';
import { type Database, type ImageObjects, openDatabase } from '../storage/database.js';
import { loadSealer } from '../storage/sealing.js';
import { type ApartVision, withApart } from '../vision/apart.js';
import {
  createVision,
  ExecutionProviderError,
  type InferenceObserver,
  ModelError,
  type ModelInfo,
  type VisionOptions,
} from '../vision/index.js';
import { loadModel } from '../vision/manifest.js';
import { loadSiteProfile } from './site-profile-file.js';

export interface Runtime {
  readonly config: Config;
  readonly log: Logger;
  readonly db: Database;
  readonly queues: Queues;
  readonly metrics: Metrics;
  /** Null where no traces are exported. */
  readonly tracing: Tracing | null;
  readonly model: ModelInfo;
  /** Codes and units of the site, and which reports are sent. */
  readonly outgoing: OutgoingOptions;
  /** Null without a worker in this process. */
  readonly webhookSecret: WebhookSecret | null;
  /** Told to end: it is not ready any more. */
  stopping(): boolean;
  /** Resolves with the reason when a part ended that only a new process can bring back. */
  readonly died: Promise<string>;
  /** Runs before anything is closed, the last added first. */
  onClose(step: () => Promise<void>): void;
  /** Runs when everything is closed. */
  onClosed(step: () => Promise<void>): void;
  /** Readiness goes; everything else goes on. */
  announceStop(): void;
  /** Running images get `graceSeconds`; default SHUTDOWN_TIMEOUT_SECONDS. */
  close(graceSeconds?: number): Promise<void>;
}

export interface RuntimeOptions {
  readonly config: Config;
  readonly version: string;
  readonly worker: boolean;
}

/** Opens database, queue and model, and starts the worker. Whatever was opened is closed again when a step fails. */
export async function openRuntime({ config, version, worker }: RuntimeOptions): Promise<Runtime> {
  const log = createLogger({ level: config.logLevel, format: config.logFormat });
  const steps: ((graceSeconds: number) => Promise<void>)[] = [];
  let stopping = false;
  let closing: Promise<void> | undefined;
  const close = (graceSeconds = config.shutdownTimeoutSeconds): Promise<void> => {
    stopping = true;
    closing ??= (async () => {
      for (const step of steps.reverse()) {
        await step(graceSeconds).catch((error: unknown) => log.error({ err: error }, 'a step of the shutdown failed'));
      }
    })();
    return closing;
  };
  try {
    // A fault in the site's files is found before anything is opened.
    const outgoing: OutgoingOptions = {
      profile: loadSiteProfile(config.reportProfile),
      publicUrl: config.publicUrl,
      hl7: config.hl7Destination !== undefined,
      fhir: config.fhirServer !== undefined,
      send: config.reportsSend,
    };
    const senders = reportSenders(config);
    // Before whatever it shall trace, and closed after it.
    const tracing = await startTracing({ endpoint: config.otlpEndpoint, version });
    if (tracing !== null) steps.push(() => tracing.close());
    const { databaseUrl, dataDir } = config;
    const db = await openDatabase({ databaseUrl, dataDir, log, worker, objects: await imageObjects(config) });
    steps.push(() => db.close());
    const queues = await openQueues({
      redisUrl: config.redisUrl,
      databaseUrl: db.url,
      log,
      telemetry: tracing?.queue,
    });
    steps.push(() => queues.close());
    const metrics = createMetrics({
      version,
      sites: config.metricsSites,
      backlog: { read: () => readBacklog(db), limit: config.maxQueueDepth },
      clockOffset: () => readClockOffset(db),
    });
    let model: ModelInfo;
    let webhookSecret: WebhookSecret | null = null;
    const deaths = [db.died.then((reason) => `the embedded database ${reason}`)];
    if (worker) {
      const vision = await openVision(config, log, metrics.inference);
      steps.push(() => vision.close());
      deaths.push(vision.died.then((reason) => `no inference thread can be kept running: ${reason}`));
      model = vision.model;
      if (model.executionProvider === 'cuda') registerGpuMetrics(metrics.registry);
      webhookSecret = loadWebhookSecret(config);
      const secrets = { webhookSecret: webhookSecret.value, sealer: loadSealer(config) };
      const jobs = startWorker({ config, db, queues, vision, metrics, log, outgoing, senders, ...secrets });
      steps.push((graceSeconds) => jobs.close(graceSeconds * 1000));
    } else {
      model = await describeModel(config);
    }
    const { executionProvider: provider, ...named } = model;
    metrics.model.set({ ...named, provider }, 1);
    return {
      config,
      log,
      db,
      queues,
      metrics,
      tracing,
      model,
      outgoing,
      webhookSecret,
      died: Promise.race(deaths),
      stopping: () => stopping,
      onClose: (step) => steps.push(step),
      onClosed: (step) => steps.unshift(step),
      announceStop: () => {
        stopping = true;
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Opens no connection yet. */
async function imageObjects(config: Config): Promise<ImageObjects | null> {
  const { s3Bucket, s3Endpoint, s3Region, s3AccessKeyId, s3SecretAccessKey } = config;
  if (s3Bucket === undefined) return null;
  const credentials =
    s3AccessKeyId === undefined || s3SecretAccessKey === undefined
      ? undefined
      : { accessKeyId: s3AccessKeyId, secretAccessKey: s3SecretAccessKey };
  const { openS3 } = await import('../storage/s3.js');
  const store = openS3({ bucket: s3Bucket, endpoint: s3Endpoint, region: s3Region, credentials });
  return { store, writable: config.imageStorage === 's3' };
}

/** A FHIR server stores some dozens of resources in one transaction. */
const FHIR_TIMEOUT_MS = 60_000;

/** Opens no connection yet. */
function reportSenders(config: Config): ReportSender[] {
  const { hl7Destination, hl7TlsCaFile, fhirServer } = config;
  return [
    ...(hl7Destination === undefined
      ? []
      : [hl7Sender({ ...hl7Destination, ca: readCa(hl7TlsCaFile) }, config.hl7TimeoutSeconds * 1000)]),
    ...(fhirServer === undefined
      ? []
      : [fhirSender({ url: fhirServer, token: config.fhirServerToken }, FHIR_TIMEOUT_MS)]),
  ];
}

function readCa(file: string | undefined): string | undefined {
  if (file === undefined) return undefined;
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ExpectedError(`HL7_TLS_CA_FILE cannot be read: ${reason}`);
  }
}

export async function openVision(config: Config, log: Logger, observer?: InferenceObserver): Promise<ApartVision> {
  const options: VisionOptions = {
    modelDir: config.modelDir,
    executionProvider: config.executionProvider,
    cudaDevice: config.cudaDevice,
    threads: config.inferenceThreads,
    ...(config.batchCrops === undefined ? {} : { batchCrops: config.batchCrops }),
    batchDelayMs: config.batchDelayMs,
    limits: { maxBytes: config.maxImageBytes, maxPixels: config.maxImagePixels },
    ...(observer === undefined ? {} : { observer }),
    onLog: ({ level, message, details }) => log[level]({ component: 'vision', ...details }, message),
  };
  return withApart(await modelErrors(() => createVision(options)), options);
}

/** The model that workers elsewhere use, as far as this machine can tell: the same folder, without its networks. */
async function describeModel(config: Config): Promise<ModelInfo> {
  const { manifest, sha256 } = await modelErrors(() => loadModel(config.modelDir));
  const executionProvider = config.executionProvider === 'cuda' ? 'cuda' : 'cpu';
  return { name: manifest.name, version: manifest.version, sha256, executionProvider };
}

async function modelErrors<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ModelError || error instanceof ExecutionProviderError) throw new ExpectedError(error.message);
    throw error;
  }
}

/** Exit code of a process that its supervisor shall start again. */
const EXIT_FAILURE = 1;

/**
 * Waits until the process is told to end, then closes the runtime. A second signal ends it at once. When the embedded
 * database or the inference dies, nothing can be done without it: the process ends with a failure, so that a supervisor
 * starts it anew.
 */
export async function runUntilSignal({ config, died, log, announceStop, close }: Runtime): Promise<void> {
  const cause = await new Promise<{ signal: NodeJS.Signals } | { died: string }>((settle) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => settle({ signal }));
    void died.then((reason) => settle({ died: reason }));
  });
  if ('died' in cause) {
    log.fatal({ reason: cause.died }, 'a part ended that this process cannot do without; start Leukodiff again');
    process.exitCode = EXIT_FAILURE;
  } else {
    log.info({ signal: cause.signal }, 'shutting down: running images are finished first');
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.on(signal, () => {
        log.warn({ signal }, 'ending at once');
        process.exit(EXIT_FAILURE);
      });
    }
  }
  announceStop();
  const delayMs = 'died' in cause ? 0 : config.shutdownDelaySeconds * 1000;
  // The steps bound their own time; this is the last line, with the processor taken away or a disk that hangs.
  const lastLine = setTimeout(
    () => {
      log.fatal('the shutdown did not end in time');
      process.exit(EXIT_FAILURE);
    },
    delayMs + config.shutdownTimeoutSeconds * 1000 + 60_000,
  );
  lastLine.unref();
  if (delayMs > 0) await sleep(delayMs);
  // Jobs that wait for what is gone would wait in vain.
  await ('died' in cause ? close(0) : close());
  clearTimeout(lastLine);
  log.info('ended');
}
