/** Every answer that is not a success leaves through here, as a problem document. */
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { Counter, type Registry } from 'prom-client';
import { isDatabaseUnavailable, isStorageFull } from '../../storage/database-errors.js';
import { ObjectStoreError } from '../../storage/object-store.js';
import { type ProblemCause, ProblemError, type ProblemSlug, problemDocument } from '../problems.js';
import { ClientGoneError } from '../upload/receive.js';

const PROBLEM_MEDIA_TYPE = 'application/problem+json';

export function registerErrors(app: FastifyInstance, registry: Registry): void {
  const problems = new Counter({
    name: 'leukodiff_http_problems_total',
    help: 'Requests answered with a problem document, by its type.',
    labelNames: ['type'],
    registers: [registry],
  });
  const sendProblem = (request: FastifyRequest, reply: FastifyReply, problem: ProblemError): FastifyReply => {
    problems.inc({ type: problem.slug });
    return writeProblem(request, reply, problem);
  };
  const allowedMethods = trackRoutes(app);
  const missing = (request: FastifyRequest) => missingProblem(request, allowedMethods(pathOf(request)));

  app.setNotFoundHandler(async (request, reply) => sendProblem(request, reply, missing(request)));

  app.setErrorHandler(async (error: FastifyError, request, reply) => {
    // Fastify checks the body of some methods before it finds that nobody takes them.
    const problem = request.is404 && !(error instanceof ProblemError) ? missing(request) : toProblem(error);
    if (problem.slug === 'internal-error') {
      request.log.error({ fault: loggable(error) }, 'request failed unexpectedly');
    } else if (UNAVAILABLE.has(problem.slug)) {
      request.log.warn({ fault: loggable(error) }, problem.message);
    }
    return sendProblem(request, reply, problem);
  });
}

/** What stands outside this process: for its operator, and no defect. */
const UNAVAILABLE: ReadonlySet<ProblemSlug> = new Set([
  'database-unavailable',
  'image-storage-unavailable',
  'storage-full',
]);

/** The problem of a path or a method that does not exist. */
function missingProblem(request: FastifyRequest, allow: readonly string[]): ProblemError {
  if (allow.length === 0) return new ProblemError('not-found');
  return new ProblemError('method-not-allowed', {
    detail: `This address takes ${allow.join(', ')}, not ${request.method}.`,
    headers: { allow: allow.join(', ') },
  });
}

/** Path of a request without its query, which may hold an accession number. */
export function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0] ?? '/';
}

function writeProblem(request: FastifyRequest, reply: FastifyReply, problem: ProblemError): FastifyReply {
  const document = problemDocument(problem, { path: pathOf(request), requestId: request.id });
  return reply
    .code(problem.statusCode)
    .headers({ 'cache-control': 'no-store', ...problem.headers })
    .type(PROBLEM_MEDIA_TYPE)
    .send(JSON.stringify(document));
}

/** A problem document for what fails before there is a request that could carry a path. */
export function problemResponseText(slug: ProblemSlug, id: string): { status: number; type: string; body: string } {
  const problem = new ProblemError(slug);
  const document = problemDocument(problem, { path: '/', requestId: id });
  return { status: problem.statusCode, type: PROBLEM_MEDIA_TYPE, body: JSON.stringify(document) };
}

function toProblem(error: FastifyError): ProblemError {
  if (error instanceof ProblemError) return error;
  // Nobody reads the answer to a client that left; the document only has to be a document.
  if (error instanceof ClientGoneError) return new ProblemError('malformed-multipart', { cause: error });
  if (error.validation !== undefined) {
    const slug = error.validationContext === 'body' ? 'invalid-fields' : 'invalid-parameters';
    return new ProblemError(slug, { errors: error.validation.map((entry) => parameterCause(entry)) });
  }
  const known = FASTIFY_PROBLEMS[error.code];
  if (known !== undefined) return new ProblemError(known, { cause: error });
  if (error instanceof ObjectStoreError) {
    return new ProblemError('image-storage-unavailable', { headers: { 'retry-after': '5' }, cause: error });
  }
  if (isStorageFull(error)) return new ProblemError('storage-full', { cause: error });
  if (isDatabaseUnavailable(error)) {
    return new ProblemError('database-unavailable', { headers: { 'retry-after': '5' }, cause: error });
  }
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500) {
    return new ProblemError('malformed-request', { cause: error });
  }
  return new ProblemError('internal-error', { cause: error });
}

/** What Fastify itself refuses. */
const FASTIFY_PROBLEMS: Readonly<Record<string, ProblemSlug>> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported-media-type',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'malformed-json',
  FST_ERR_CTP_INVALID_JSON_BODY: 'malformed-json',
  FST_ERR_CTP_BODY_TOO_LARGE: 'request-too-large',
  FST_ERR_NOT_FOUND: 'not-found',
};

/** One Ajv error, without the value that caused it. */
function parameterCause(entry: NonNullable<FastifyError['validation']>[number]): ProblemCause {
  const { keyword, params, message } = entry;
  if (keyword === 'additionalProperties') {
    return { field: String(params['additionalProperty']), detail: 'There is no such field or parameter.' };
  }
  const field = entry.instancePath.replace(/^\//, '').replaceAll('/', '.') || String(params['missingProperty'] ?? '');
  if (keyword === 'enum') {
    return { field, detail: `Use one of: ${(params['allowedValues'] as readonly unknown[]).join(', ')}.` };
  }
  if (keyword === 'pattern') return { field, detail: 'The value does not have the form that the parameter takes.' };
  return { field, detail: `The value ${message ?? 'is not valid'}.` };
}

/**
 * Of an unexpected error, what may go into a log: database clients write the values of a failed statement into their
 * messages, and those can be accession numbers. The frames of the stack are enough to find the place.
 */
export function loggable(error: Error): { name: string; code?: string; message?: string; frames: string[] } {
  const code = (error as NodeJS.ErrnoException).code;
  const hidesMessage = /prisma|driveradapter|databaseerror/i.test(error.name);
  return {
    name: error.name,
    ...(code === undefined ? {} : { code: String(code) }),
    ...(hidesMessage ? {} : { message: error.message }),
    frames: (error.stack ?? '')
      .split('\n')
      .filter((line) => /^\s+at /.test(line))
      .slice(0, 12)
      .map((line) => line.trim()),
  };
}

/**
 * Remembers which methods each address has: Fastify answers 404 also where only the method is wrong.
 * @returns The methods of a path, sorted; empty for a path that is no address.
 */
function trackRoutes(app: FastifyInstance): (path: string) => string[] {
  const methodsByPattern = new Map<string, { segments: string[]; methods: Set<string> }>();
  app.addHook('onRoute', ({ url, method }) => {
    // The preflight handler of CORS, which takes every address.
    if (url === '*') return;
    const route = methodsByPattern.get(url) ?? { segments: url.split('/'), methods: new Set<string>() };
    for (const name of [method].flat()) route.methods.add(name);
    methodsByPattern.set(url, route);
  });
  return (path) => {
    const segments = path.replace(/(?<=.)\/$/, '').split('/');
    const found = new Set<string>();
    for (const route of methodsByPattern.values()) {
      if (matches(route.segments, segments)) for (const method of route.methods) found.add(method);
    }
    return [...found].sort();
  };
}

function matches(pattern: readonly string[], path: readonly string[]): boolean {
  if (pattern.at(-1) === '*') return path.length >= pattern.length && pattern.slice(0, -1).every(same);
  return pattern.length === path.length && pattern.every(same);

  function same(segment: string, i: number): boolean {
    return segment.startsWith(':') ? path[i] !== '' : segment === path[i];
  }
}
