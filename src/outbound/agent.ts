/** The only way out: an undici agent whose connections lead to allowed addresses, whatever a URL or a name server says. */
import { Agent, buildConnector } from 'undici';
import { type OutboundPolicy, refuseAddress } from './address-policy.js';
import { AddressRefusedError, guardedLookup, type Resolve } from './lookup.js';

/** A host that is switched off does not answer at all: it is not worth the whole time of an attempt. */
const CONNECT_TIMEOUT_MS = 5_000;
/** Short, so that a pool of connections does not outlive a change of the receiver's address. */
const KEEP_ALIVE_MS = 4_000;
const BRACKETS = /^\[(.*)\]$/;

/** Redirects are not followed and proxies of the environment are not used: neither would be judged. */
export function createOutboundAgent(policy: OutboundPolicy, resolve?: Resolve): Agent {
  const connect = buildConnector({ timeout: CONNECT_TIMEOUT_MS, lookup: guardedLookup(policy, resolve) });
  return new Agent({
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    connect: (options, callback) => {
      // Node looks up names only: an address in the URL never comes to the guarded look-up.
      const host = options.hostname.replace(BRACKETS, '$1');
      const literal = refuseAddress(host, policy);
      if (literal !== null && literal !== 'not an address') {
        callback(new AddressRefusedError(literal), null);
        return;
      }
      connect(options, (error, socket) => {
        if (error !== null) {
          callback(error, null);
          return;
        }
        // The last line: nothing has been sent yet, and this is where the connection really leads.
        const reason = refuseAddress(socket.remoteAddress ?? '', policy);
        if (reason === null) {
          callback(null, socket);
        } else {
          socket.destroy();
          callback(new AddressRefusedError(reason), null);
        }
      });
    },
  });
}
