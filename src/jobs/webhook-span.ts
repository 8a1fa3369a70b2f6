/** The span of a webhook attempt, in the trace of the request that brought the order. Does nothing where no traces are exported. */
import { isSpanContextValid, propagation, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';

export interface TraceHeaders {
  readonly traceparent: string | null;
  readonly tracestate: string | null;
}

/**
 * The parent is the stored one, not the job's: a job that the sweep put back belongs to no trace. `attempt` gets the headers for
 * the receiver: of the span, or as they were stored where there is none.
 */
export async function inWebhookSpan<T extends { readonly ok: boolean; readonly httpStatus: number | null }>(
  { traceparent, tracestate }: TraceHeaders,
  attributes: Readonly<Record<string, string | number>>,
  attempt: (headers: TraceHeaders) => Promise<T>,
): Promise<T> {
  const stored = { ...(traceparent === null ? {} : { traceparent }), ...(tracestate === null ? {} : { tracestate }) };
  const parent = propagation.extract(ROOT_CONTEXT, stored);
  const span = trace.getTracer('leukodiff').startSpan('webhook', { kind: SpanKind.CLIENT, attributes }, parent);
  const sent: Record<string, string> = { ...stored };
  if (isSpanContextValid(span.spanContext())) propagation.inject(trace.setSpan(parent, span), sent);
  try {
    const result = await attempt({
      traceparent: sent['traceparent'] ?? null,
      tracestate: sent['tracestate'] ?? null,
    });
    if (result.httpStatus !== null) span.setAttribute('http.response.status_code', result.httpStatus);
    if (!result.ok) span.setStatus({ code: SpanStatusCode.ERROR });
    return result;
  } finally {
    span.end();
  }
}
