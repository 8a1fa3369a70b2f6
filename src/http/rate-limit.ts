/**
 * A token bucket for each caller: it holds the requests of a minute, and fills up evenly. Kept by each process for
 * itself; what it says goes into `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
 */
const WINDOW_SECONDS = 60;
/** Callers that are remembered; a bucket that was not asked for a minute is full again and need not be. */
const MOST_BUCKETS = 10_000;

export interface RateVerdict {
  readonly allowed: boolean;
  readonly headers: Readonly<Record<string, string>>;
}

export interface RateLimit {
  take(caller: string, nowMs?: number): RateVerdict;
}

interface Bucket {
  tokens: number;
  atMs: number;
}

export function createRateLimit(name: string, perMinute: number): RateLimit {
  const buckets = new Map<string, Bucket>();
  const perMs = perMinute / (WINDOW_SECONDS * 1000);

  function bucketOf(caller: string, nowMs: number): Bucket {
    const bucket = buckets.get(caller) ?? { tokens: perMinute, atMs: nowMs };
    bucket.tokens = Math.min(perMinute, bucket.tokens + Math.max(0, nowMs - bucket.atMs) * perMs);
    bucket.atMs = nowMs;
    // Put last, so that the first in the map is the one that was quiet for longest.
    buckets.delete(caller);
    buckets.set(caller, bucket);
    if (buckets.size > MOST_BUCKETS) {
      const [oldest] = buckets.keys();
      if (oldest !== undefined) buckets.delete(oldest);
    }
    return bucket;
  }

  return {
    take: (caller, nowMs = Date.now()) => {
      const bucket = bucketOf(caller, nowMs);
      const allowed = bucket.tokens >= 1;
      if (allowed) bucket.tokens -= 1;
      const left = Math.floor(bucket.tokens);
      const fullInSeconds = Math.ceil((perMinute - bucket.tokens) / perMs / 1000);
      return {
        allowed,
        headers: {
          'ratelimit-policy': `"${name}";q=${perMinute};w=${WINDOW_SECONDS}`,
          ratelimit: `"${name}";r=${left};t=${fullInSeconds}`,
          ...(allowed ? {} : { 'retry-after': String(Math.max(1, Math.ceil((1 - bucket.tokens) / perMs / 1000))) }),
        },
      };
    },
  };
}
