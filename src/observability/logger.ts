/**
 * The log: JSON lines, or readable in a terminal. Nothing that could carry an accession number, image bytes or a secret
 * gets in: requests, answers and errors are written by serializers that name the fields they take.
 */
import { type DestinationStream, type Logger, pino } from 'pino';
import { PinoPretty } from 'pino-pretty';

export type { Logger } from 'pino';

export interface LoggerOptions {
  readonly level: string;
  readonly format: 'auto' | 'json' | 'pretty';
  /** Standard output (default), or standard error for commands whose output is their result. */
  readonly stream?: 'stdout' | 'stderr';
  /** For tests, instead of `stream`. */
  readonly destination?: DestinationStream;
}

export function createLogger({ level, format, stream = 'stdout', destination }: LoggerOptions): Logger {
  const terminal = process[stream].isTTY === true && process.env['NODE_ENV'] !== 'production';
  const pretty = format === 'pretty' || (format === 'auto' && terminal);
  const fd = stream === 'stdout' ? 1 : 2;
  const options = {
    level,
    base: { service: 'leukodiff' },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { req: requestFields, res: responseFields, err: errorFields, error: errorFields },
  };
  const target = destination ?? pino.destination({ dest: fd, sync: true });
  if (!pretty) return pino(options, target);
  return pino(
    { ...options, formatters: {} },
    PinoPretty({
      destination: destination ?? fd,
      sync: true,
      ignore: 'service,pid,hostname',
      translateTime: 'SYS:HH:MM:ss',
      singleLine: true,
    }),
  );
}

/** Method and path without the query: `GET /analyses?accessionNumber=…` names a specimen. */
export function requestFields(request: unknown): Record<string, unknown> {
  const { id, method, url } = fields(request);
  return { id, method, path: typeof url === 'string' ? url.replace(/[?#].*$/s, '') : undefined };
}

export function responseFields(response: unknown): Record<string, unknown> {
  return { statusCode: fields(response)['statusCode'] };
}

/**
 * Errors of the database driver carry the row in `detail` and the statement's values in `where`; those and every other
 * extra property stay out. Messages are our own or a library's, and name columns rather than values.
 */
export function errorFields(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { message: String(error) };
  const { code } = fields(error);
  return {
    type: error.name,
    message: error.message,
    ...(typeof code === 'string' || typeof code === 'number' ? { code } : {}),
    stack: error.stack,
    ...(error.cause === undefined ? {} : { cause: errorFields(error.cause) }),
  };
}

function fields(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
