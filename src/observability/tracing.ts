/**
 * OpenTelemetry traces, where an exporter is configured: a span for the request that brings an order, for each of its jobs, and
 * for the webhook. Elsewhere nothing of it is even loaded, and the API's calls do nothing.
 */
import type { Telemetry } from 'bullmq';
import type { FastifyPluginCallback, FastifyRequest } from 'fastify';

export interface Tracing {
  /** Gives each request its span; to be registered before all hooks. */
  readonly requests: FastifyPluginCallback;
  readonly queue: Telemetry;
  /** Sends what is still to be sent, at most for some seconds. */
  close(): Promise<void>;
}

export interface TracingOptions {
  /** OTLP over HTTP, without the path of the traces; undefined: no traces. */
  readonly endpoint: string | undefined;
  readonly version: string;
}

const CLOSE_TIMEOUT_MS = 5_000;
/** OpenTelemetry's code of a failed span. */
const ERROR = 2;

/** Other OTEL_* variables (headers, sampler, resource attributes) are read by the library itself. */
export async function startTracing({ endpoint, version }: TracingOptions): Promise<Tracing | null> {
  if (endpoint === undefined) return null;
  const [sdk, { OTLPTraceExporter }, resources, { default: fastify }, { BullMQOtel }, { PrismaInstrumentation }] =
    await Promise.all([
      import('@opentelemetry/sdk-trace-node'),
      import('@opentelemetry/exporter-trace-otlp-http'),
      import('@opentelemetry/resources'),
      import('@fastify/otel'),
      import('bullmq-otel'),
      import('@prisma/instrumentation'),
    ]);
  const exporter = new OTLPTraceExporter({ url: `${endpoint.replace(/\/$/, '')}/v1/traces` });
  const named = resources.resourceFromAttributes({ 'service.name': 'leukodiff', 'service.version': version });
  const given = resources.detectResources({ detectors: [resources.envDetector] });
  const provider = new sdk.NodeTracerProvider({
    resource: named.merge(given),
    spanProcessors: [withoutMessages(), new sdk.BatchSpanProcessor(exporter)],
  });
  provider.register();
  new PrismaInstrumentation().enable();
  const requests = new fastify.FastifyOtelInstrumentation({
    instrumentHooks: false,
    instrumentHandler: false,
    ignorePaths: ({ url }) => /^\/(?:health\/|metrics)/.test(url),
    requestHook: (span, request) => {
      span.updateName(`${request.method} ${request.routeOptions.url ?? '(none)'}`);
      span.setAttribute('url.path', pathOf(request));
    },
  });
  return {
    requests: requests.plugin(),
    queue: new BullMQOtel({ tracerName: 'leukodiff', version }),
    close: async () => {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((settle) => {
        timer = setTimeout(settle, CLOSE_TIMEOUT_MS);
      });
      await Promise.race([provider.shutdown().catch(() => undefined), late]);
      clearTimeout(timer);
    },
  };
}

/** Without the query, which may hold an accession number. */
function pathOf({ url }: FastifyRequest): string {
  return url.replace(/[?#].*$/s, '');
}

interface EndingSpan {
  readonly status: { readonly code: number };
  readonly events: unknown[];
  setStatus(status: { code: number }): unknown;
}

/** Messages of errors may hold the values of a statement. That a span failed is told; why stands in the log. */
function withoutMessages() {
  return {
    onStart: () => undefined,
    onEnding: (span: EndingSpan) => {
      if (span.status.code === ERROR) span.setStatus({ code: ERROR });
      span.events.length = 0;
    },
    onEnd: () => undefined,
    forceFlush: async () => undefined,
    shutdown: async () => undefined,
  };
}
