/** W3C Trace Context (https://www.w3.org/TR/trace-context/), as far as a participant that may start no spans needs it. */
import { randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { isSpanContextValid, type SpanContext } from '@opentelemetry/api';

export interface TraceContext {
  /** 32 hexadecimal digits. */
  readonly traceId: string;
  /** For what comes after: the same trace, with an id of this request as parent. */
  readonly traceparent: string;
  readonly tracestate: string | null;
}

/** Version 00; of a later version the part that is the same is read (section 3.2.4). */
const TRACEPARENT = /^(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;
/** Section 3.3.1.5 asks for at least this many characters to be passed on. */
const TRACESTATE_MAX_LENGTH = 512;

/**
 * The trace that a request belongs to: that of its span where traces are exported, else the one that it names; a new one where it
 * names none that can be read.
 */
export function traceOf(headers: IncomingHttpHeaders, span?: SpanContext): TraceContext {
  if (span !== undefined && isSpanContextValid(span)) {
    const flags = span.traceFlags.toString(16).padStart(2, '0');
    return {
      traceId: span.traceId,
      traceparent: `00-${span.traceId}-${span.spanId}-${flags}`,
      tracestate: span.traceState?.serialize() || null,
    };
  }
  const given = headers['traceparent'];
  const [, version, traceId = '', parent = '', flags = '00', more] =
    (typeof given === 'string' ? TRACEPARENT.exec(given.trim()) : null) ?? [];
  const valid = version !== undefined && !/^0+$/.test(traceId) && !/^0+$/.test(parent);
  if (!valid || (version === '00' && more !== undefined)) {
    const fresh = randomDigits();
    return { traceId: fresh, traceparent: `00-${fresh}-${spanId()}-00`, tracestate: null };
  }
  return { traceId, traceparent: `00-${traceId}-${spanId()}-${flags}`, tracestate: traceState(headers['tracestate']) };
}

function traceState(given: string | string[] | undefined): string | null {
  const text = [given ?? []].flat().join(',').trim();
  return text === '' || text.length > TRACESTATE_MAX_LENGTH || !/^[ -~]+$/.test(text) ? null : text;
}

function spanId(): string {
  return randomDigits().slice(16);
}

/** 32 hexadecimal digits, nearly all of them random, from the supply of UUIDs that Node keeps. */
function randomDigits(): string {
  return randomUUID().replaceAll('-', '');
}
