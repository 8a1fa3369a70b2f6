/** Judges the address of a receiver while whoever names it still listens. What counts is the look-up of the delivery. */
import type { OutboundPolicy } from '../outbound/address-policy.js';
import { type Screening, screenUrl } from '../outbound/lookup.js';
import type { HttpConfig } from './deps.js';

/** A name server that does not answer must not hold back an order. */
const LOOKUP_TIMEOUT_MS = 2_000;

export async function screenAddress(
  url: string,
  config: Pick<HttpConfig, 'webhookNetworks' | 'webhookPorts'>,
): Promise<Screening> {
  const policy: OutboundPolicy = { allow: config.webhookNetworks, ports: config.webhookPorts };
  return screenUrl(url, policy, { timeoutMs: LOOKUP_TIMEOUT_MS });
}
