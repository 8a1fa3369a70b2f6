/**
 * Who may: every address says what it asks for (`access` of its route), and the application does not start with one
 * that says nothing. Keeps the audit trail and the rate limit, which both need to know who asks.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { trace } from '@opentelemetry/api';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { isApiKeyToken, SCOPES, type Scope } from '../../storage/api-keys.js';
import type { AuditOutcome, NewAuditEntry } from '../../storage/audit.js';
import { DEFAULT_LABORATORY } from '../../storage/laboratory.js';
import { type AuditTrail, createAuditTrail } from '../access/audit-trail.js';
import { createKeyRing, type KeyRing } from '../access/keys.js';
import { NOBODY, type Principal } from '../access/principal.js';
import { createTokenVerifier, IssuerUnavailableError, TokenRefusedError } from '../access/tokens.js';
import type { HttpDeps } from '../deps.js';
import { ProblemError } from '../problems.js';
import { createRateLimit } from '../rate-limit.js';
import { type TraceContext, traceOf } from '../trace.js';
import type { App } from '../types.js';

/** `open`: nobody is asked. `metrics`: see `mayReadMetrics`. Else the scope that a key or token must have. */
export type Access = 'open' | 'metrics' | Scope;

declare module 'fastify' {
  interface FastifyContextConfig {
    access?: Access;
  }
  interface FastifyRequest {
    /** Who asks; nobody at addresses that are open. */
    principal: Principal;
    /** Id of what the request made, for the audit trail; where the address names it, that is taken. */
    auditSubject: string | null;
    trace: TraceContext;
  }
  interface FastifyInstance {
    audit: AuditTrail;
    keyRing: KeyRing;
  }
}

/** Wrong keys from one address in a minute; more are not even looked at one by one in the trail. */
const REFUSALS_PER_MINUTE = 120;

const OPEN: Principal = { id: 'open', laboratory: DEFAULT_LABORATORY, scopes: SCOPES, kind: 'open' };

export function registerAccess(app: App, deps: HttpDeps): void {
  const { config, database } = deps;
  const keyRing = createKeyRing(database, deps.logger);
  const trail = createAuditTrail(database, deps.logger);
  const verifyToken =
    config.oidcIssuer === undefined || config.oidcAudience === undefined
      ? null
      : createTokenVerifier({
          issuer: config.oidcIssuer,
          audience: config.oidcAudience,
          jwksUrl: config.oidcJwksUrl,
          laboratoryClaim: config.oidcLaboratoryClaim,
          scopeClaim: config.oidcScopeClaim,
        });
  const limit = config.rateLimitPerMinute === 0 ? null : createRateLimit('caller', config.rateLimitPerMinute);
  const refusals = createRateLimit('refusals', REFUSALS_PER_MINUTE);

  app.decorate('audit', trail);
  app.decorate('keyRing', keyRing);
  // A hook before ours may refuse a request: then nobody asks.
  const principals = new WeakMap<FastifyRequest, Principal>();
  app.decorateRequest('principal', {
    getter() {
      return principals.get(this as FastifyRequest) ?? NOBODY;
    },
    setter(principal: Principal) {
      principals.set(this as FastifyRequest, principal);
    },
  });
  app.decorateRequest('auditSubject', null);
  app.decorateRequest('trace');
  app.addHook('onClose', () => trail.close());

  app.addHook('onRoute', (route) => {
    if (route.config?.access !== undefined || isLibraryRoute(route)) return;
    throw new Error(`${String(route.method)} ${route.url} does not say who may use it: set config.access`);
  });

  app.addHook('onRequest', async (request, reply) => {
    request.trace = traceOf(request.headers, trace.getActiveSpan()?.spanContext());
    const access = accessOf(request);
    if (access === 'open') return;
    if (access === 'metrics') {
      if (mayReadMetrics(request)) return;
      request.principal = await identify(request, reply);
      requireScope(request.principal, 'admin');
      return;
    }
    request.principal = await identify(request, reply);
    if (limit !== null) {
      const { kind, laboratory, id } = request.principal;
      const verdict = limit.take(`${kind} ${laboratory} ${id}`);
      reply.headers(verdict.headers);
      if (!verdict.allowed) throw new ProblemError('rate-limited');
    }
    requireScope(request.principal, access);
  });

  app.addHook('onSend', async (request, reply, payload) => {
    const access = accessOf(request);
    // What was turned away for its number has touched nothing, and would fill the trail.
    if (access === 'open' || access === 'metrics' || reply.statusCode === 429) return payload;
    const entry = entryOf(request, reply);
    const changes = !['GET', 'HEAD', 'OPTIONS'].includes(request.method) && reply.statusCode < 400;
    await (changes ? trail.write(entry) : trail.collect(entry));
    return payload;
  });

  async function identify(request: FastifyRequest, reply: FastifyReply): Promise<Principal> {
    if (config.access === 'open') return OPEN;
    const token = tokenOf(request);
    if (token === null) throw refuse(request, reply, undefined);
    if (isApiKeyToken(token)) {
      const check = await keyRing.check(token);
      if (check.ok)
        return { id: check.key.id, laboratory: check.key.laboratory, scopes: check.key.scopes, kind: 'key' };
      // Where the secret was right the trail names the key. It has no scopes, so nothing else can come of it.
      if (check.laboratory !== null) {
        request.principal = { ...NOBODY, id: check.id, laboratory: check.laboratory };
      }
      throw refuse(request, reply, REFUSED_KEY[check.reason]);
    }
    if (verifyToken === null) throw refuse(request, reply, 'The credentials are not an API key of this service.');
    try {
      return await verifyToken(token);
    } catch (error) {
      if (error instanceof TokenRefusedError) throw refuse(request, reply, error.message);
      if (!(error instanceof IssuerUnavailableError)) throw error;
      request.log.warn({ reason: error.message }, 'a token could not be checked');
      throw new ProblemError('identity-provider-unavailable', { headers: { 'retry-after': '10' }, cause: error });
    }
  }

  /** 401; or 429 for an address that tries key after key. */
  function refuse(request: FastifyRequest, reply: FastifyReply, detail: string | undefined): ProblemError {
    const verdict = refusals.take(request.ip);
    if (!verdict.allowed) {
      reply.headers(verdict.headers);
      return new ProblemError('rate-limited', {
        detail: 'Too many requests without a valid key came from this address.',
      });
    }
    return new ProblemError('unauthenticated', {
      ...(detail === undefined ? {} : { detail }),
      headers: {
        'www-authenticate': `Bearer realm="leukodiff"${detail === undefined ? '' : ', error="invalid_token"'}`,
      },
    });
  }

  /**
   * From this machine without a proxy in between, or with the scraper's own token: metrics name no specimen and no
   * laboratory. Anybody else needs a key of scope `admin`.
   */
  function mayReadMetrics(request: FastifyRequest): boolean {
    if (config.access === 'open') return true;
    const { metricsToken } = config;
    if (metricsToken !== undefined && sameText(tokenOf(request) ?? '', metricsToken)) return true;
    const forwarded = request.headers.forwarded !== undefined || request.headers['x-forwarded-for'] !== undefined;
    return !forwarded && isLoopback(request.socket.remoteAddress);
  }
}

const REFUSED_KEY = {
  unknown: 'There is no such API key.',
  revoked: 'The API key was revoked. Ask an administrator of your laboratory for another.',
  expired: 'The API key has expired. Ask an administrator of your laboratory for another.',
} as const;

function requireScope({ scopes }: Principal, scope: Scope): void {
  if (scopes.includes(scope)) return;
  throw new ProblemError('insufficient-scope', {
    detail: `This address asks for the scope \`${scope}\`; the key or token has ${scopes.length === 0 ? 'none' : scopes.join(', ')}.`,
    headers: { 'www-authenticate': `Bearer realm="leukodiff", error="insufficient_scope", scope="${scope}"` },
  });
}

/** What an address asks for. An address that does not exist asks for nobody: it answers 404 to all alike. */
function accessOf(request: FastifyRequest): Access {
  return request.is404 ? 'open' : (request.routeOptions.config.access ?? 'open');
}

/** `/docs` and preflight requests belong to libraries, and are open. */
function isLibraryRoute({ url, method }: { url: string; method: string | string[] }): boolean {
  return url === '/docs' || url.startsWith('/docs/') || [method].flat().every((name) => name === 'OPTIONS');
}

/** The credentials of a request: `Authorization: Bearer`, or `X-Api-Key`. */
function tokenOf({ headers }: FastifyRequest): string | null {
  const bearer = /^Bearer +([^\s,]+) *$/i.exec(headers.authorization ?? '')?.[1];
  if (headers.authorization !== undefined) return bearer ?? null;
  const key = headers['x-api-key'];
  return typeof key === 'string' && key.trim() !== '' ? key.trim() : null;
}

const UUID = /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/;
const KEY_ID = /^[a-z0-9]{12}$/;

/**
 * Only ids that we give out ourselves: whatever else stands in an address may name a specimen. Twelve letters may be
 * anything until a key with that id was found.
 */
function subjectOf(request: FastifyRequest, found: boolean): string | null {
  if (request.auditSubject !== null) return request.auditSubject;
  const { params } = request;
  const id = typeof params === 'object' && params !== null && 'id' in params ? String(params.id).toLowerCase() : '';
  return UUID.test(id) || (found && KEY_ID.test(id)) ? id : null;
}

function entryOf(request: FastifyRequest, reply: FastifyReply): NewAuditEntry {
  const { principal, routeOptions } = request;
  const { schema } = routeOptions;
  const { statusCode } = reply;
  const outcome: AuditOutcome = statusCode < 400 ? 'success' : statusCode < 500 ? 'refused' : 'failed';
  return {
    at: new Date(),
    laboratory: principal.laboratory === '' ? null : principal.laboratory,
    actorKind: principal.kind,
    actorId: principal.id === '' ? null : principal.id,
    operation: schema?.operationId ?? 'unnamed',
    method: request.method,
    route: routeOptions.url ?? null,
    subjectId: subjectOf(request, statusCode < 400),
    status: statusCode,
    outcome,
    remote: request.ip,
    requestId: request.id,
  };
}

function isLoopback(address: string | undefined): boolean {
  return address === '::1' || (address ?? '').replace(/^::ffff:/, '').startsWith('127.');
}

/** Takes the same time whatever differs, lengths included. */
function sameText(a: string, b: string): boolean {
  const hash = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(hash(a), hash(b));
}
