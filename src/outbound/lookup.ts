/** Name look-ups that answer with addresses which may be called, and with nothing else. */
import { lookup as systemLookup } from 'node:dns';
import type { LookupFunction } from 'node:net';
import { literalAddress, type OutboundPolicy, refusalSentence, refuseAddress, refuseUrl } from './address-policy.js';

/** Of one host; `node:dns` fits, and so does a resolver of a test. */
export type Resolve = (host: string) => Promise<readonly { readonly address: string; readonly family: 4 | 6 }[]>;

/** The name led nowhere that may be called. `code` is what a delivery's log shows. */
export class AddressRefusedError extends Error {
  override readonly name = 'AddressRefusedError';
  readonly code = 'ADDRESS_REFUSED';
  /** What the address is: `a private network`. */
  readonly reason: string;

  constructor(reason: string) {
    super(`the host is ${reason}`);
    this.reason = reason;
  }
}

/** The machine's own resolver, hosts file included. */
export const resolveBySystem: Resolve = (host) =>
  new Promise((settle, fail) => {
    systemLookup(host, { all: true, verbatim: true }, (error, addresses) => {
      if (error !== null) fail(error);
      else settle(addresses.map(({ address, family }) => ({ address, family: family === 6 ? 6 : 4 })));
    });
  });

/**
 * The look-up of a connector. The addresses that it hands out are the ones that are connected to, so an answer that
 * changes between a check and the connection (DNS rebinding) changes nothing.
 */
export function guardedLookup(policy: OutboundPolicy, resolve: Resolve = resolveBySystem): LookupFunction {
  return (host, options, callback) => {
    resolve(host)
      .then((addresses) => allowedOf(addresses, policy))
      .then(
        (addresses) => {
          const wanted = addresses.filter(({ family }) => !options.family || Number(options.family) === family);
          const [first] = wanted;
          if (first === undefined) callback(notFound(host), '', 4);
          else if (options.all === true) callback(null, [...wanted]);
          else callback(null, first.address, first.family);
        },
        (error: NodeJS.ErrnoException) => callback(error, '', 4),
      );
  };
}

/** Throws `AddressRefusedError` when none may be called. */
function allowedOf(addresses: Awaited<ReturnType<Resolve>>, policy: OutboundPolicy): Awaited<ReturnType<Resolve>> {
  const judged = addresses.map((one) => ({ ...one, refused: refuseAddress(one.address, policy) }));
  const allowed = judged.filter(({ refused }) => refused === null);
  const reason = judged[0]?.refused;
  if (allowed.length === 0 && reason != null) throw new AddressRefusedError(reason);
  return allowed;
}

function notFound(host: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${host} has no address`), { code: 'ENOTFOUND' });
}

/** What the screening of an address found. `unknown`: its host could not be looked up, now and from here. */
export type Screening =
  | { readonly verdict: 'allowed' }
  | { readonly verdict: 'refused' | 'unknown'; readonly detail: string };

/**
 * Judges an address before anything is sent, so that whoever names it gets a clear answer. It proves nothing about the
 * delivery, whose own look-up decides again.
 */
export async function screenUrl(
  text: string,
  policy: OutboundPolicy,
  { timeoutMs, resolve = resolveBySystem }: { readonly timeoutMs: number; readonly resolve?: Resolve },
): Promise<Screening> {
  const refused = refuseUrl(text, policy);
  if (refused !== null) return { verdict: 'refused', detail: refused };
  const url = new URL(text);
  if (literalAddress(url) !== null) return { verdict: 'allowed' };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, fail) => {
    timer = setTimeout(() => fail(new Error('late')), timeoutMs);
  });
  try {
    allowedOf(await Promise.race([resolve(url.hostname), late]), policy);
    return { verdict: 'allowed' };
  } catch (error) {
    if (error instanceof AddressRefusedError) return { verdict: 'refused', detail: refusalSentence(error.reason) };
    return { verdict: 'unknown', detail: 'The host cannot be looked up from here. Check its name.' };
  } finally {
    clearTimeout(timer);
  }
}
