/** Where reports go: an MLLP receiver, a FHIR server. Both are named by the operator, so private addresses are fine. */
import { request } from 'undici';
import { retryAfterMs } from './deliver.js';
import { createMllpSender, type MllpDestination } from './mllp.js';
import type { ReportSender, SendResult } from './send-report.js';

export function hl7Sender(destination: MllpDestination, timeoutMs: number): ReportSender {
  const mllp = createMllpSender(destination, timeoutMs);
  return {
    channel: 'hl7',
    // Connecting has a time-out of its own.
    timeoutMs: timeoutMs + 10_000,
    send: async ({ body }) => {
      try {
        const code = await mllp.send(body);
        // Chapter 2.9.2: an error is about the message, a rejection about the receiver's state or the header.
        if (code === 'AA' || code === 'CA') return { outcome: 'accepted', answer: code };
        return { outcome: code === 'AE' || code === 'CE' ? 'refused' : 'later', answer: code };
      } catch (error) {
        return { outcome: 'unreachable', error: error instanceof Error ? error.message : String(error) };
      }
    },
    close: () => mllp.close(),
  };
}

export interface FhirServer {
  /** Base address. */
  readonly url: string;
  /** Sent as a bearer token. */
  readonly token: string | undefined;
}

export function fhirSender({ url, token }: FhirServer, timeoutMs: number): ReportSender {
  return {
    channel: 'fhir',
    timeoutMs,
    send: async ({ body }): Promise<SendResult> => {
      try {
        const response = await request(url, {
          method: 'POST',
          headers: {
            'content-type': 'application/fhir+json; charset=utf-8',
            accept: 'application/fhir+json',
            'user-agent': 'Leukodiff',
            // The answer may be long, and none of it is read.
            prefer: 'return=minimal',
            ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          },
          body,
          signal: AbortSignal.timeout(timeoutMs),
        });
        await response.body.dump({ limit: 64 * 1024 }).catch(() => undefined);
        const { statusCode } = response;
        const answer = String(statusCode);
        // A transaction is all or nothing: 200 says that everything in it was stored.
        if (statusCode >= 200 && statusCode < 300) return { outcome: 'accepted', answer };
        // A conflict, or two conditional updates at the same time: the next attempt settles it.
        if (statusCode >= 500 || [401, 403, 408, 409, 412, 425, 429].includes(statusCode)) {
          const after = response.headers['retry-after'];
          return { outcome: 'later', answer, retryAfterMs: retryAfterMs(typeof after === 'string' ? after : null) };
        }
        return { outcome: 'refused', answer };
      } catch (error) {
        return { outcome: 'unreachable', error: connectionError(error, timeoutMs) };
      }
    },
    close: () => undefined,
  };
}

function connectionError(error: unknown, timeoutMs: number): string {
  if (!(error instanceof Error)) return String(error);
  if (error.name === 'TimeoutError') return `no answer in ${timeoutMs / 1000} s`;
  return 'code' in error ? String(error.code) : error.message;
}
