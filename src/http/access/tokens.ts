/**
 * Access tokens of the site's identity provider: JWTs that are signed by the configured issuer, made for our audience
 * and not expired. Keys are fetched from the issuer alone, and kept.
 */
import { createRemoteJWKSet, errors, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from 'jose';
import { isLaboratory, SCOPES, type Scope } from '../../storage/api-keys.js';
import type { Principal } from './principal.js';

export interface TokenSettings {
  readonly issuer: string;
  readonly audience: string;
  readonly jwksUrl: string | undefined;
  readonly laboratoryClaim: string;
  readonly scopeClaim: string;
}

/** The token is not good; the message is for its bearer. */
export class TokenRefusedError extends Error {
  override readonly name = 'TokenRefusedError';
}

/** The issuer's keys cannot be had: the token may be good. */
export class IssuerUnavailableError extends Error {
  override readonly name = 'IssuerUnavailableError';
}

export type TokenVerifier = (token: string) => Promise<Principal>;

/** Signatures that only the issuer's private key makes; `none` and shared secrets are no proof of anything here. */
const ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'Ed25519',
];
const CLOCK_TOLERANCE_SECONDS = 30;
const FETCH_TIMEOUT_MS = 5_000;
/** After a failure the discovery document is asked for again no sooner than this. */
const DISCOVERY_PAUSE_MS = 5_000;
const SUBJECT_MAX_LENGTH = 255;

export function createTokenVerifier(settings: TokenSettings): TokenVerifier {
  const keysOf = rememberKeys(settings);
  return async (token) => {
    const { payload } = await verify(token, await keysOf(), settings);
    return principalOf(payload, settings);
  };
}

async function verify(token: string, keys: JWTVerifyGetKey, { issuer, audience }: TokenSettings) {
  try {
    return await jwtVerify(token, keys, {
      issuer,
      audience,
      algorithms: ALGORITHMS,
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
      requiredClaims: ['sub', 'exp'],
    });
  } catch (error) {
    // The messages of the library name claims, never their values.
    if (error instanceof errors.JWTExpired) throw new TokenRefusedError('The token has expired. Get a new one.');
    if (error instanceof errors.JWTClaimValidationFailed) {
      throw new TokenRefusedError(`The claim \`${error.claim}\` of the token is not what this service asks for.`);
    }
    if (error instanceof errors.JWKSTimeout) throw new IssuerUnavailableError('no keys in time', { cause: error });
    if (
      error instanceof errors.JWSSignatureVerificationFailed ||
      error instanceof errors.JWSInvalid ||
      error instanceof errors.JWTInvalid ||
      error instanceof errors.JOSEAlgNotAllowed ||
      error instanceof errors.JOSENotSupported ||
      error instanceof errors.JWKSNoMatchingKey ||
      error instanceof errors.JWKSMultipleMatchingKeys
    ) {
      throw new TokenRefusedError('The token is not one that the configured issuer signed.');
    }
    throw new IssuerUnavailableError('the keys of the issuer cannot be had', { cause: error });
  }
}

/** The issuer's keys; where they lie is asked once. */
function rememberKeys({ issuer, jwksUrl }: TokenSettings): () => Promise<JWTVerifyGetKey> {
  let keys: JWTVerifyGetKey | undefined;
  let asking: Promise<JWTVerifyGetKey> | undefined;
  let failedAtMs = Number.NEGATIVE_INFINITY;
  const open = async (): Promise<JWTVerifyGetKey> => {
    const url = jwksUrl ?? (await discover(issuer));
    return createRemoteJWKSet(new URL(url), { timeoutDuration: FETCH_TIMEOUT_MS });
  };
  return async () => {
    if (keys !== undefined) return keys;
    if (Date.now() - failedAtMs < DISCOVERY_PAUSE_MS) throw new IssuerUnavailableError('the issuer did not answer');
    asking ??= open();
    try {
      keys = await asking;
      return keys;
    } catch (error) {
      failedAtMs = Date.now();
      throw new IssuerUnavailableError('the issuer did not answer', { cause: error });
    } finally {
      asking = undefined;
    }
  };
}

/** OpenID Connect Discovery 1.0, section 4. Only an address on the issuer's own host is taken from the document. */
async function discover(issuer: string): Promise<string> {
  const response = await fetch(`${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`, {
    redirect: 'error',
    signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
    headers: { accept: 'application/json' },
  });
  if (!response.ok) throw new Error(`the discovery document was answered with ${response.status}`);
  const document: unknown = await response.json();
  const fields = typeof document === 'object' && document !== null ? (document as Record<string, unknown>) : {};
  const { issuer: named, jwks_uri: url } = fields;
  if (named !== issuer) throw new Error('the discovery document is that of another issuer');
  if (typeof url !== 'string' || !URL.canParse(url) || new URL(url).origin !== new URL(issuer).origin) {
    throw new Error('the discovery document names keys on another host; set OIDC_JWKS_URL if that is meant');
  }
  return url;
}

function principalOf(payload: JWTPayload, { laboratoryClaim, scopeClaim }: TokenSettings): Principal {
  const laboratory = words(claim(payload, laboratoryClaim));
  const [only] = laboratory;
  if (only === undefined || laboratory.length > 1 || !isLaboratory(only)) {
    throw new TokenRefusedError(`The claim \`${laboratoryClaim}\` of the token must name one laboratory.`);
  }
  const given = words(claim(payload, scopeClaim)).map((word) => word.replace(/^leukodiff[:.]/, ''));
  const scopes = SCOPES.filter((scope): scope is Scope => given.includes(scope));
  const id = String(payload.sub ?? '')
    .replace(/[\p{Cc}\u2028\u2029\p{Cs}]/gu, '')
    .slice(0, SUBJECT_MAX_LENGTH);
  return { id, laboratory: only, scopes, kind: 'token' };
}

/** A claim by its name, or by a path through objects (`realm_access.roles`). */
function claim(payload: JWTPayload, name: string): unknown {
  if (Object.hasOwn(payload, name)) return payload[name];
  let value: unknown = payload;
  for (const part of name.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined;
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}

function words(value: unknown): string[] {
  if (typeof value === 'string') return value.split(/\s+/).filter((word) => word !== '');
  return Array.isArray(value) ? value.filter((item) => typeof item === 'string') : [];
}
