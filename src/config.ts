/**
 * The configuration: one typed object from the environment, checked at the start. `CONFIG_VARIABLES` is the only place
 * that names a variable; the help text and the operations guide are printed from it.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { availableParallelism } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ExpectedError } from './errors.js';
import { type Network, type PortRange, parseNetworks, parsePorts } from './outbound/address-policy.js';

export type ExecutionProviderSetting = 'auto' | 'cuda' | 'cpu';
export type LogFormat = 'auto' | 'json' | 'pretty';
export type Access = 'keys' | 'open';
export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface Config {
  readonly host: string;
  readonly port: number;
  /** `open`: whoever reaches the service may do everything. For development only. */
  readonly access: Access;
  /** Identity provider whose tokens are taken beside keys; undefined: none. */
  readonly oidcIssuer: string | undefined;
  readonly oidcAudience: string | undefined;
  /** Undefined: the issuer's discovery document names it. */
  readonly oidcJwksUrl: string | undefined;
  readonly oidcLaboratoryClaim: string;
  readonly oidcScopeClaim: string;
  /** Lets a scraper read /metrics from another machine. */
  readonly metricsToken: string | undefined;
  /** Requests a minute and caller; 0: no limit. */
  readonly rateLimitPerMinute: number;
  /** Origins whose pages may call the API from a browser; empty: none. */
  readonly corsOrigins: readonly string[];
  /** Addresses of proxies whose X-Forwarded-For is believed; empty: none. */
  readonly trustedProxies: readonly string[];
  /** PEM; undefined: plain HTTP. */
  readonly tlsCert: string | undefined;
  readonly tlsKey: string | undefined;
  readonly idempotencyHours: number;
  /** 0: as long as the analysis. */
  readonly retentionImagesDays: number;
  /** 0: as long as the analysis. */
  readonly retentionMasksDays: number;
  /** 0: kept for ever. */
  readonly retentionAuditDays: number;
  /** `laboratory` or `laboratory/site`: those that the metrics tell apart. */
  readonly metricsSites: readonly string[];
  /** Undefined: no traces. */
  readonly otlpEndpoint: string | undefined;
  /** Absolute path; undefined: the model's own. */
  readonly driftReference: string | undefined;
  readonly driftWindowDays: number;
  readonly driftRefreshSeconds: number;
  /** Undefined: `work` listens on no port. */
  readonly metricsPort: number | undefined;
  /** Undefined: the embedded database. */
  readonly databaseUrl: string | undefined;
  /** Undefined: the queue lives in PostgreSQL. */
  readonly redisUrl: string | undefined;
  /** Absolute path. */
  readonly dataDir: string;
  readonly executionProvider: ExecutionProviderSetting;
  /** Number that CUDA gives the GPU, as this process sees them. */
  readonly cudaDevice: number;
  /** Absolute path. */
  readonly modelDir: string;
  /** Undefined: what suits the provider. */
  readonly workerConcurrency: number | undefined;
  readonly inferenceThreads: number;
  /** Undefined: what suits the provider. */
  readonly batchCrops: number | undefined;
  readonly batchDelayMs: number;
  readonly maxImageBytes: number;
  readonly maxImagePixels: number;
  readonly maxImages: number;
  readonly maxRequestBytes: number;
  readonly maxFieldBytes: number;
  readonly maxQueueDepth: number;
  readonly maxWaitSeconds: number;
  readonly uploadTimeoutSeconds: number;
  /** 0: kept for ever. */
  readonly retentionDays: number;
  readonly maxAnalysisAgeMinutes: number;
  readonly shutdownTimeoutSeconds: number;
  readonly shutdownDelaySeconds: number;
  /** `whsec_…`, or two of them with a space between; undefined: one is made and kept in the data folder. */
  readonly webhookSecret: string | undefined;
  /** 32 bytes in base64; undefined: one is made and kept in the data folder. */
  readonly webhookEncryptionKey: string | undefined;
  /** May be called besides public addresses. */
  readonly webhookNetworks: readonly Network[];
  readonly webhookPorts: readonly PortRange[];
  readonly webhookDisableAfterDays: number;
  /** Whether people may sign what they looked at themselves. */
  readonly signatures: 'any' | 'four-eyes';
  /** Absolute path; undefined: the default codes and units. */
  readonly reportProfile: string | undefined;
  readonly reportsSend: 'all' | 'signed';
  /** Undefined: no HL7 messages are sent. */
  readonly hl7Destination: Hl7Destination | undefined;
  /** Absolute path of a PEM file. */
  readonly hl7TlsCaFile: string | undefined;
  readonly hl7TimeoutSeconds: number;
  /** Base address; undefined: nothing is sent to a FHIR server. */
  readonly fhirServer: string | undefined;
  readonly fhirServerToken: string | undefined;
  /** Where posted images go; those that lie in S3 are read whenever `s3Bucket` is set. */
  readonly imageStorage: 'postgresql' | 's3';
  readonly s3Bucket: string | undefined;
  readonly s3Endpoint: string | undefined;
  readonly s3Region: string;
  readonly s3AccessKeyId: string | undefined;
  readonly s3SecretAccessKey: string | undefined;
  readonly logLevel: LogLevel;
  readonly logFormat: LogFormat;
  /** Where receivers of webhooks reach this service; undefined: links are relative. */
  readonly publicUrl: string | undefined;
}

export interface Hl7Destination {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
}

export interface ConfigVariable {
  readonly name: string;
  readonly key: keyof Config;
  /** As a person would set it; null: not set. */
  readonly default: string | null;
  /** The value where neither the environment nor `default` gives one. */
  readonly absent: Config[keyof Config];
  readonly meaning: string;
  readonly parse: (text: string) => Config[keyof Config];
  /** Also read from the file that `NAME_FILE` names, as container platforms hand secrets over. */
  readonly secret: boolean;
}

const MIB = 1024 * 1024;
/** PostgreSQL stores at most 1 GiB in one value; decoding takes several times the file besides. */
const LARGEST_IMAGE_BYTES = 400 * MIB;
const THREADS = availableParallelism();
const PACKAGE_ROOT = fileURLToPath(new URL('..', import.meta.url));

export const CONFIG_VARIABLES: readonly ConfigVariable[] = [
  variable(
    'HOST',
    'host',
    '127.0.0.1',
    'Address to listen on; 0.0.0.0 for every address of the machine. Beyond the machine, use TLS.',
    hostName,
  ),
  variable('PORT', 'port', '3000', 'Port to listen on; 0 takes a free one.', integer(0, 65_535)),
  variable(
    'ACCESS',
    'access',
    'keys',
    'keys: every request needs an API key or a token. open: for development only, nobody is asked, and the service listens on 127.0.0.1 alone.',
    oneOf('keys', 'open'),
  ),
  variable(
    'OIDC_ISSUER',
    'oidcIssuer',
    null,
    'Identity provider (OpenID Connect issuer) whose access tokens are taken beside API keys. Not set: keys alone.',
    issuerUrl,
  ),
  variable(
    'OIDC_AUDIENCE',
    'oidcAudience',
    null,
    'Audience that a token must be made for. Needed with OIDC_ISSUER.',
    (text) => text,
  ),
  variable(
    'OIDC_JWKS_URL',
    'oidcJwksUrl',
    null,
    'Where the keys of the issuer lie. Not set: where its discovery document says, on the host of the issuer.',
    issuerUrl,
  ),
  variable(
    'OIDC_LABORATORY_CLAIM',
    'oidcLaboratoryClaim',
    'laboratory',
    'Claim of a token that names the laboratory; a.b looks for b in a.',
    (text) => text,
  ),
  variable(
    'OIDC_SCOPE_CLAIM',
    'oidcScopeClaim',
    'scope',
    'Claim of a token that holds its scopes (submit, read, review, admin, each also as leukodiff:…), a list or words in a text.',
    (text) => text,
  ),
  secretVariable(
    'METRICS_TOKEN',
    'metricsToken',
    null,
    'Bearer token with which a scraper reads /metrics from another machine. Not set: from this machine, or with a key of scope admin; METRICS_PORT is open then.',
    longToken,
  ),
  variable(
    'RATE_LIMIT_PER_MINUTE',
    'rateLimitPerMinute',
    '6000',
    'Requests that one key may send in a minute, in each process; more are refused with 429. 0: no limit.',
    integer(0, 10_000_000),
  ),
  variable(
    'CORS_ORIGINS',
    'corsOrigins',
    null,
    'Origins (https://portal.example, separated by commas) whose pages may call the API from a browser. Not set: none.',
    originList,
    [],
  ),
  variable(
    'TRUSTED_PROXIES',
    'trustedProxies',
    null,
    'Addresses or networks (10.0.0.0/8), separated by commas, of proxies whose X-Forwarded-For names the client. Not set: none is believed.',
    addressList,
    [],
  ),
  secretVariable(
    'TLS_CERT',
    'tlsCert',
    null,
    'Certificate chain (PEM) with which to serve HTTPS. Not set: plain HTTP, with TLS in front.',
    pem('CERTIFICATE'),
  ),
  secretVariable('TLS_KEY', 'tlsKey', null, 'Private key (PEM) of TLS_CERT.', pem('PRIVATE KEY')),
  variable(
    'METRICS_PORT',
    'metricsPort',
    null,
    'Port on HOST where `leukodiff work` answers /metrics, /health/live and /health/ready. Not set: none. `serve` answers them on PORT.',
    integer(0, 65_535),
  ),
  variable(
    'METRICS_SITES',
    'metricsSites',
    null,
    'Laboratories, or single sites of one as laboratory/site, separated by commas, at most 50, that the metrics and the drift report tell apart. All others together are `other`.',
    siteList,
    [],
  ),
  variable(
    'OTEL_EXPORTER_OTLP_ENDPOINT',
    'otlpEndpoint',
    null,
    'Collector of OpenTelemetry traces (OTLP over HTTP, as JSON): http://collector:4318. Not set: no traces. OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER and OTEL_RESOURCE_ATTRIBUTES count as everywhere.',
    urlOf('http:', 'https:'),
  ),
  variable(
    'DRIFT_REFERENCE',
    'driftReference',
    null,
    'File that `leukodiff drift --save` made of this laboratory’s own results, which later ones are held against. Not set: the validation images of the model.',
    (text) => resolve(text),
  ),
  variable(
    'DRIFT_WINDOW_DAYS',
    'driftWindowDays',
    '7',
    'Days whose results the drift metrics are measured from; 0 measures none.',
    integer(0, 365),
  ),
  variable(
    'DRIFT_REFRESH_SECONDS',
    'driftRefreshSeconds',
    '300',
    'How old the drift metrics may become before they are measured again.',
    integer(1, 86_400),
  ),
  secretVariable(
    'DATABASE_URL',
    'databaseUrl',
    null,
    'PostgreSQL server (postgresql://user:password@host/database, version 14 or newer). Not set: an embedded PostgreSQL in DATA_DIR.',
    urlOf('postgresql:', 'postgres:'),
  ),
  secretVariable(
    'REDIS_URL',
    'redisUrl',
    null,
    'Redis server for the queue (redis://host:6379). Not set: the queue lives in PostgreSQL.',
    urlOf('redis:', 'rediss:'),
  ),
  variable(
    'DATA_DIR',
    'dataDir',
    './data',
    'Folder of the embedded database and of the secrets that the service makes for itself.',
    (text) => resolve(text),
  ),
  variable(
    'EXECUTION_PROVIDER',
    'executionProvider',
    'auto',
    'Where the networks run: cuda refuses to start without a GPU, auto falls back to cpu and logs why.',
    oneOf('auto', 'cuda', 'cpu'),
  ),
  variable(
    'CUDA_DEVICE',
    'cudaDevice',
    '0',
    'GPU that this process uses, by its number among those that the process sees (CUDA_VISIBLE_DEVICES, or the GPUs of the container). For several GPUs start one worker for each.',
    integer(0, 255),
  ),
  variable(
    'MODEL_DIR',
    'modelDir',
    'models/sg-cldff/1.3.1',
    'Folder of the model (manifest.json and ONNX files), relative to the program.',
    (text) => resolve(PACKAGE_ROOT, text),
  ),
  variable(
    'WORKER_CONCURRENCY',
    'workerConcurrency',
    null,
    'Images that one process analyses at the same time. Not set: twice the number of processor cores, at most 16.',
    integer(1, 64),
  ),
  variable(
    'INFERENCE_THREADS',
    'inferenceThreads',
    String(THREADS),
    'Processor threads for the networks: a session of one thread on each, at most 16 sessions, then more threads in each. Default: the number of processor cores.',
    integer(1, 256),
  ),
  variable(
    'BATCH_CROPS',
    'batchCrops',
    null,
    'Most cells in one run of the network; those of several images share a run when they wait together. Not set: 4 on a processor, 64 on a GPU.',
    integer(1, 1024),
  ),
  variable(
    'BATCH_DELAY_MS',
    'batchDelayMs',
    '0',
    'How long cells may wait for those of other images, in milliseconds. 0: only what waits already shares a run, and nothing is delayed.',
    integer(0, 1000),
  ),
  variable(
    'MAX_IMAGE_BYTES',
    'maxImageBytes',
    String(128 * MIB),
    'Largest image file in bytes.',
    integer(1024, LARGEST_IMAGE_BYTES),
  ),
  variable(
    'MAX_IMAGE_PIXELS',
    'maxImagePixels',
    '100000000',
    'Largest image in pixels (width times height), checked before it is decoded.',
    integer(1, 1_000_000_000),
  ),
  variable('MAX_IMAGES', 'maxImages', '200', 'Most images in one analysis.', integer(1, 10_000)),
  variable(
    'MAX_REQUEST_BYTES',
    'maxRequestBytes',
    String(512 * MIB),
    'Largest request in bytes, all images together.',
    integer(1024, 16 * 1024 * MIB),
  ),
  variable('MAX_FIELD_BYTES', 'maxFieldBytes', '65536', 'Largest form field in bytes.', integer(64, MIB)),
  variable(
    'MAX_QUEUE_DEPTH',
    'maxQueueDepth',
    '2000',
    'Images that may wait; more are refused with 429 and Retry-After. A tenth more for urgent orders, whose `priority` comes before their images.',
    integer(1, 10_000_000),
  ),
  variable('MAX_WAIT_SECONDS', 'maxWaitSeconds', '60', 'Longest `Prefer: wait` in seconds.', integer(0, 600)),
  variable(
    'UPLOAD_TIMEOUT_SECONDS',
    'uploadTimeoutSeconds',
    '300',
    'Longest time that one upload may take, in seconds.',
    integer(1, 86_400),
  ),
  variable(
    'RETENTION_DAYS',
    'retentionDays',
    '90',
    'Analyses are removed with their images and results after this many days; 0 keeps them for ever.',
    integer(0, 36_500),
  ),
  variable(
    'RETENTION_IMAGES_DAYS',
    'retentionImagesDays',
    '0',
    'The posted images of an ended analysis are removed after this many days, its result stays; 0 keeps them as long as the analysis.',
    integer(0, 36_500),
  ),
  variable(
    'RETENTION_MASKS_DAYS',
    'retentionMasksDays',
    '0',
    'Masks, crops, Grad-CAM and saliency maps of an ended analysis are removed after this many days, its numbers stay; 0 keeps them as long as the analysis.',
    integer(0, 36_500),
  ),
  variable(
    'RETENTION_AUDIT_DAYS',
    'retentionAuditDays',
    '3650',
    'Entries of the audit trail are removed after this many days; 0 keeps them for ever.',
    integer(0, 36_500),
  ),
  variable(
    'IDEMPOTENCY_HOURS',
    'idempotencyHours',
    '72',
    'How long an Idempotency-Key is remembered.',
    integer(1, 24 * 366),
  ),
  variable(
    'MAX_ANALYSIS_AGE_MINUTES',
    'maxAnalysisAgeMinutes',
    '240',
    'An analysis that has not ended after this many minutes fails.',
    integer(1, 100_000),
  ),
  variable(
    'SHUTDOWN_TIMEOUT_SECONDS',
    'shutdownTimeoutSeconds',
    '25',
    'Time that running images get at a shutdown; what is not done then is done after the next start.',
    integer(1, 600),
  ),
  variable(
    'SHUTDOWN_DELAY_SECONDS',
    'shutdownDelaySeconds',
    '0',
    'How long a process that shall end says so at /health/ready before it stops taking requests and jobs: as long as your load balancer needs to notice.',
    integer(0, 300),
  ),
  secretVariable(
    'WEBHOOK_SECRET',
    'webhookSecret',
    null,
    'Secret that signs webhooks to callback addresses (whsec_ and 24 to 64 bytes in base64); two of them, the new one first and a space between, sign side by side during a change. Not set: one is made and kept in DATA_DIR/webhook-secret.',
    webhookSecret,
  ),
  secretVariable(
    'WEBHOOK_ENCRYPTION_KEY',
    'webhookEncryptionKey',
    null,
    'Key that seals the secrets of webhook endpoints in the database (32 bytes in base64), the same for all processes. Not set: one is made and kept in DATA_DIR/webhook-encryption-key.',
    encryptionKey,
  ),
  variable(
    'WEBHOOK_ALLOW_NETWORKS',
    'webhookNetworks',
    '',
    'Networks that webhooks may be sent to besides public addresses, in CIDR form: 10.20.0.0/16,fd12:3456::/32. A LIS on this machine: 127.0.0.0/8,::1/128. Cloud metadata and multicast addresses are refused in any case.',
    parseNetworks,
  ),
  variable(
    'WEBHOOK_PORTS',
    'webhookPorts',
    '80,443,1024-65535',
    'Ports and ranges of ports that webhooks may be sent to; the default leaves out those of mail, remote shells and the like.',
    parsePorts,
  ),
  variable(
    'WEBHOOK_DISABLE_AFTER_DAYS',
    'webhookDisableAfterDays',
    '5',
    'A webhook endpoint is disabled when it has received nothing for this many days although it was tried at least ten times.',
    integer(1, 365),
  ),
  variable(
    'SIGNATURES',
    'signatures',
    'any',
    'Who may sign a result: any reviewer, or four-eyes: nobody who named a cell or confirmed its name since the last signature.',
    oneOf('any', 'four-eyes'),
  ),
  variable(
    'REPORT_PROFILE',
    'reportProfile',
    null,
    'File (YAML or JSON) with the codes, units, reference ranges and system names of this site for FHIR and HL7. See docs/integration.md.',
    (text) => resolve(text),
  ),
  variable(
    'REPORTS_SEND',
    'reportsSend',
    'all',
    'Which results are sent to HL7_DESTINATION and FHIR_SERVER: all (as preliminary when they are made, and again when signed) or signed.',
    oneOf('all', 'signed'),
  ),
  variable(
    'HL7_DESTINATION',
    'hl7Destination',
    null,
    'MLLP receiver of HL7 v2 messages: mllp://host:port, or mllps://host:port for TLS. Not set: none are sent.',
    hl7Destination,
  ),
  variable(
    'HL7_TLS_CA_FILE',
    'hl7TlsCaFile',
    null,
    'PEM file with the authority that signed the certificate of HL7_DESTINATION. Not set: the well-known authorities.',
    (text) => resolve(text),
  ),
  variable(
    'HL7_TIMEOUT_SECONDS',
    'hl7TimeoutSeconds',
    '30',
    'How long to wait for the acknowledgement of an HL7 message, in seconds.',
    integer(1, 300),
  ),
  variable(
    'FHIR_SERVER',
    'fhirServer',
    null,
    'Base address of a FHIR R4 server that results are written to as transactions. Not set: none.',
    urlOf('http:', 'https:'),
  ),
  secretVariable('FHIR_SERVER_TOKEN', 'fhirServerToken', null, 'Bearer token for FHIR_SERVER.', printableWord),
  variable(
    'IMAGE_STORAGE',
    'imageStorage',
    'postgresql',
    'Where posted images are kept: postgresql, or s3 (S3_BUCKET). Images that came before a change stay where they are and are read from there.',
    oneOf('postgresql', 's3'),
  ),
  variable('S3_BUCKET', 's3Bucket', null, 'Bucket for images in S3-compatible storage; it must exist.', bucketName),
  variable(
    'S3_ENDPOINT',
    's3Endpoint',
    null,
    'Address of an S3-compatible server. Not set: AWS, by S3_REGION.',
    urlOf('http:', 'https:'),
  ),
  variable('S3_REGION', 's3Region', 'us-east-1', 'Region of S3_BUCKET, as the server knows it.', (text) => text),
  secretVariable(
    'S3_ACCESS_KEY_ID',
    's3AccessKeyId',
    null,
    'Key for S3_BUCKET, with S3_SECRET_ACCESS_KEY. Not set: as the AWS SDK finds it (role of the machine, environment).',
    printableWord,
  ),
  secretVariable('S3_SECRET_ACCESS_KEY', 's3SecretAccessKey', null, 'Secret of S3_ACCESS_KEY_ID.', printableWord),
  variable('LOG_LEVEL', 'logLevel', 'info', `One of ${LOG_LEVELS.join(', ')}.`, oneOf(...LOG_LEVELS)),
  variable(
    'LOG_FORMAT',
    'logFormat',
    'auto',
    'json, pretty, or auto: pretty in a terminal, json elsewhere and with NODE_ENV=production.',
    oneOf('auto', 'json', 'pretty'),
  ),
  variable(
    'PUBLIC_URL',
    'publicUrl',
    null,
    'Address under which others reach this service, for the links in webhooks.',
    urlOf('http:', 'https:'),
  ),
];

/** Reads the configuration. Throws `ExpectedError` that names every variable with a value that cannot be used. */
export function loadConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const values: Partial<Record<keyof Config, Config[keyof Config]>> = {};
  const faults: string[] = [];
  for (const { name, key, default: fallback, absent, parse, secret } of CONFIG_VARIABLES) {
    try {
      const text = (secret ? fromFile(env, name) : undefined) ?? set(env[name]) ?? fallback;
      values[key] = text === null ? absent : parse(text);
    } catch (error) {
      faults.push(`${name} ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  const { oidcIssuer, oidcAudience, tlsCert, tlsKey } = values;
  if (oidcIssuer !== undefined && oidcAudience === undefined) {
    faults.push('OIDC_ISSUER needs OIDC_AUDIENCE: without it a token made for any other service would do here');
  }
  if ((tlsCert === undefined) !== (tlsKey === undefined)) faults.push('TLS_CERT and TLS_KEY are needed together');
  if (values.imageStorage === 's3' && values.s3Bucket === undefined) faults.push('IMAGE_STORAGE=s3 needs S3_BUCKET');
  if ((values.s3AccessKeyId === undefined) !== (values.s3SecretAccessKey === undefined)) {
    faults.push('S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY are needed together');
  }
  if (faults.length > 0) throw new ExpectedError(`The configuration cannot be used: ${faults.join('; ')}.`);
  return values as Config;
}

/** An empty variable is how compose files and systemd units say "not set". */
function set(text: string | undefined): string | undefined {
  const trimmed = text?.trim();
  return trimmed === '' ? undefined : trimmed;
}

/** The secret in the file that `NAME_FILE` names; undefined where that is not set. */
function fromFile(env: Readonly<Record<string, string | undefined>>, name: string): string | undefined {
  const file = set(env[`${name}_FILE`]);
  if (file === undefined) return undefined;
  if (set(env[name]) !== undefined) throw new Error(`and ${name}_FILE are both set; set one of them`);
  let text: string | undefined;
  try {
    text = set(readFileSync(file, 'utf8'));
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : 'unknown';
    throw new Error(`cannot be read from the file in ${name}_FILE (${code})`);
  }
  if (text === undefined) throw new Error(`is empty in the file in ${name}_FILE`);
  return text;
}

function variable<K extends keyof Config>(
  name: string,
  key: K,
  fallback: string | null,
  meaning: string,
  parse: (text: string) => Exclude<Config[K], undefined>,
  absent?: Config[K],
): ConfigVariable {
  return { name, key, default: fallback, absent, meaning, parse, secret: false };
}

function secretVariable<K extends keyof Config>(...parts: Parameters<typeof variable<K>>): ConfigVariable {
  return { ...variable(...parts), secret: true };
}

function integer(lowest: number, highest: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < lowest || value > highest) {
      throw new Error(`must be a whole number from ${lowest} to ${highest}, not "${text}"`);
    }
    return value;
  };
}

function oneOf<T extends string>(...allowed: readonly T[]): (text: string) => T {
  return (text) => {
    const found = allowed.find((word) => word === text.toLowerCase());
    if (found === undefined) throw new Error(`must be one of ${allowed.join(', ')}, not "${text}"`);
    return found;
  };
}

/** The value may hold a password: messages never repeat it. */
function urlOf(...protocols: readonly string[]): (text: string) => string {
  return (text) => {
    const wanted = protocols.map((protocol) => `${protocol}//`).join(' or ');
    if (!URL.canParse(text) || !protocols.includes(new URL(text).protocol))
      throw new Error(`must be a URL with ${wanted}`);
    return text;
  };
}

/** Tokens are only worth something when nobody on the way can forge the keys that they are checked with. */
function issuerUrl(text: string): string {
  if (!URL.canParse(text)) throw new Error('must be a URL');
  const { protocol, hostname, username, hash } = new URL(text);
  const local = hostname === 'localhost' || hostname === '127.0.0.1' || hostname === '[::1]';
  if (protocol !== 'https:' && !(protocol === 'http:' && local)) throw new Error('must be a URL with https://');
  if (username !== '' || hash !== '') throw new Error('must be a URL without credentials and fragment');
  return text;
}

/** 32 characters of hexadecimal are 128 bits. */
function longToken(text: string): string {
  if (!/^[!-~]{32,256}$/.test(text)) throw new Error('must be 32 to 256 printable characters without spaces');
  return text;
}

function listOf(text: string): string[] {
  return text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
}

/** Each becomes a label of every measure of cells and images, so there may not be many. */
const MOST_SITES = 50;

function siteList(text: string): readonly string[] {
  const sites = listOf(text);
  if (sites.length > MOST_SITES) throw new Error(`must be at most ${MOST_SITES} sites`);
  return sites;
}

function originList(text: string): readonly string[] {
  return listOf(text).map((item) => {
    if (!URL.canParse(item) || new URL(item).origin !== item) {
      throw new Error(`must be origins such as https://portal.example, not "${item}"`);
    }
    return item;
  });
}

function addressList(text: string): readonly string[] {
  return listOf(text).map((item) => {
    const [address = '', bits, ...more] = item.split('/');
    const family = isIP(address);
    const longest = family === 6 ? 128 : 32;
    const goodBits = bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= longest);
    if (family === 0 || !goodBits || more.length > 0) {
      throw new Error(`must be addresses or networks such as 10.0.0.0/8, not "${item}"`);
    }
    return item;
  });
}

function pem(label: string): (text: string) => string {
  return (text) => {
    if (!new RegExp(`-----BEGIN [A-Z ]*${label}-----`).test(text)) throw new Error(`must be PEM with a ${label}`);
    return text;
  };
}

function hostName(text: string): string {
  if (/[\s/]/.test(text) || text.includes('://')) throw new Error(`must be an address or a host name, not "${text}"`);
  return text;
}

function hl7Destination(text: string): Hl7Destination {
  const url = URL.canParse(text) ? new URL(text) : null;
  const rest =
    url === null ? '' : `${url.username}${url.password}${url.search}${url.hash}${url.pathname.replace('/', '')}`;
  if (url === null || !/^mllps?:$/.test(url.protocol) || url.hostname === '' || url.port === '' || rest !== '') {
    throw new Error('must be mllp://host:port, or mllps://host:port for TLS');
  }
  // IPv6 addresses stand in brackets in a URL, and nowhere else.
  return { host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port), tls: url.protocol === 'mllps:' };
}

function bucketName(text: string): string {
  if (!/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(text)) {
    throw new Error('must be the name of a bucket: 3 to 63 small letters, digits, points and hyphens');
  }
  return text;
}

/** A secret: the message does not repeat it. */
function printableWord(text: string): string {
  if (!/^[\x21-\x7e]+$/.test(text)) throw new Error('must be printable ASCII without spaces');
  return text;
}

function webhookSecret(text: string): string {
  const secrets = text.split(/\s+/);
  for (const secret of secrets) {
    const bytes = Buffer.from(secret.replace(/^whsec_/, ''), 'base64').length;
    if (!/^whsec_[A-Za-z0-9+/]+={0,2}$/.test(secret) || bytes < 24 || bytes > 64 || secrets.length > 2) {
      throw new Error('must be whsec_ followed by 24 to 64 bytes in base64, or two of these with a space between');
    }
  }
  return secrets.join(' ');
}

function encryptionKey(text: string): string {
  if (!/^[A-Za-z0-9+/]{43}=$/.test(text)) throw new Error('must be 32 bytes in base64 (openssl rand -base64 32)');
  return text;
}
