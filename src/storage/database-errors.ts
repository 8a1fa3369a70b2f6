/** Codes that mean "there is no database to talk to", as pg, PostgreSQL, Node and Prisma give them. */
const UNAVAILABLE_CODES = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ENOTFOUND',
  'EPIPE',
  'ETIMEDOUT',
  'EAI_AGAIN',
  // PostgreSQL: connection exceptions, shutdown, crash, starting up, too many connections.
  '08000',
  '08001',
  '08003',
  '08004',
  '08006',
  '57P01',
  '57P02',
  '57P03',
  '53300',
  // Prisma: cannot reach, timed out, closed, pool exhausted.
  'P1001',
  'P1002',
  'P1008',
  'P1017',
  'P2024',
]);

/** pg has no code for these. */
const UNAVAILABLE_MESSAGE =
  /connection terminated|timeout exceeded when trying to connect|connection (?:is )?closed|client has encountered a connection error|cannot use a pool after calling end/i;

/** No room: on the disk of this process, or on that of PostgreSQL. */
const FULL_CODES = new Set(['ENOSPC', 'EDQUOT', '53100']);

/** Under which an error holds what caused it; Prisma keeps the driver's error, a plain object, below `meta`. */
const WRAPPERS = ['cause', 'meta', 'driverAdapterError', 'errors', '0'] as const;
const MAX_DEPTH = 10;

/** Whether an error, or what caused it, is the database being away rather than a defect. */
export function isDatabaseUnavailable(error: unknown): boolean {
  return someCause(
    error,
    ({ codes, message }) => codes.some((code) => UNAVAILABLE_CODES.has(code)) || UNAVAILABLE_MESSAGE.test(message),
  );
}

/** Whether an error, or what caused it, is a disk that is full. */
export function isStorageFull(error: unknown): boolean {
  return someCause(error, ({ codes }) => codes.some((code) => FULL_CODES.has(code)));
}

interface Cause {
  readonly codes: readonly string[];
  readonly message: string;
}

function someCause(error: unknown, test: (cause: Cause) => boolean, depth = 0): boolean {
  if (typeof error !== 'object' || error === null || depth > MAX_DEPTH) return false;
  const fields = error as Readonly<Record<string, unknown>>;
  const codes = [fields['code'], fields['originalCode']].filter((code) => typeof code === 'string');
  const message = typeof fields['message'] === 'string' ? fields['message'] : '';
  return test({ codes, message }) || WRAPPERS.some((name) => someCause(fields[name], test, depth + 1));
}
