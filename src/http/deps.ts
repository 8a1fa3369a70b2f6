import type { FastifyBaseLogger, FastifyPluginCallback } from 'fastify';
import type { Registry } from 'prom-client';
import type { Config } from '../config.js';
import type { Queues } from '../jobs/queues.js';
import type { OutgoingOptions } from '../reporting/outgoing.js';
import type { Database } from '../storage/database.js';
import type { ModelInfo } from '../vision/types.js';

/** What of the configuration the HTTP layer reads. */
export type HttpConfig = Pick<
  Config,
  | 'access'
  | 'corsOrigins'
  | 'dataDir'
  | 'idempotencyHours'
  | 'publicUrl'
  | 'maxImageBytes'
  | 'maxImagePixels'
  | 'maxImages'
  | 'maxRequestBytes'
  | 'maxFieldBytes'
  | 'maxQueueDepth'
  | 'metricsToken'
  | 'oidcAudience'
  | 'oidcIssuer'
  | 'oidcJwksUrl'
  | 'oidcLaboratoryClaim'
  | 'oidcScopeClaim'
  | 'rateLimitPerMinute'
  | 'signatures'
  | 'tlsCert'
  | 'tlsKey'
  | 'trustedProxies'
  | 'maxWaitSeconds'
  | 'uploadTimeoutSeconds'
  | 'webhookEncryptionKey'
  | 'webhookNetworks'
  | 'webhookPorts'
>;

/** One thing that must work before this process can serve. */
export interface ReadinessCheck {
  /** `database`, `queue`, `model`. */
  readonly name: string;
  readonly ok: boolean;
  /** For the operator: what was found, or what is missing. No secrets, no addresses with passwords. */
  readonly detail: string;
}

/** Everything that the HTTP layer needs from outside; nothing in it is a singleton. */
export interface HttpDeps {
  readonly config: HttpConfig;
  readonly database: Database;
  readonly queues: Queues;
  readonly model: ModelInfo;
  /** Codes and units of the site, and which systems reports go to. Absent: the default profile, and to none. */
  readonly outgoing?: OutgoingOptions | undefined;
  readonly logger: FastifyBaseLogger;
  /** Answered by `/metrics`; the HTTP layer adds its own metrics to it. */
  readonly metrics: Registry;
  /** Gives each request a span; absent: no traces are exported. */
  readonly tracing?: FastifyPluginCallback | undefined;
  /** Must settle soon and never reject: each check bounds its own time. */
  readonly readiness: () => Promise<readonly ReadinessCheck[]>;
  /** Version of the service. */
  readonly version: string;
}
