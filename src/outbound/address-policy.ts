/**
 * Which addresses the service may call. Pure. An address that a caller names could lead inwards, to a metadata service
 * or the database beside it (server-side request forgery): everything that is not public is refused, unless the
 * configuration lists its network, because a hospital's LIS lives on private addresses.
 */
import { isIPv4, isIPv6 } from 'node:net';
import ipaddr from 'ipaddr.js';

type Address = ipaddr.IPv4 | ipaddr.IPv6;

/** The first address of a network, and the length of its prefix. */
export type Network = readonly [Address, number];

export interface PortRange {
  readonly from: number;
  readonly to: number;
}

export interface OutboundPolicy {
  /** Networks that may be called although they are not public. */
  readonly allow: readonly Network[];
  readonly ports: readonly PortRange[];
}

/**
 * Special-purpose networks (IANA's registries, RFC 6890 and its updates), with what they are. IPv6 outside of these is
 * public only within the global unicast space.
 */
const SPECIAL: readonly (readonly [Network, string])[] = (
  [
    ['10.0.0.0/8', 'a private network'],
    ['100.64.0.0/10', "a carrier's shared network (CGNAT)"],
    ['127.0.0.0/8', 'this machine (loopback)'],
    ['169.254.0.0/16', 'a link-local address'],
    ['172.16.0.0/12', 'a private network'],
    ['192.0.0.0/24', 'reserved for protocols'],
    ['192.0.2.0/24', 'reserved for documentation'],
    ['192.88.99.0/24', 'a 6to4 relay'],
    ['192.168.0.0/16', 'a private network'],
    ['198.18.0.0/15', 'reserved for benchmarks'],
    ['198.51.100.0/24', 'reserved for documentation'],
    ['203.0.113.0/24', 'reserved for documentation'],
    ['::1/128', 'this machine (loopback)'],
    ['fc00::/7', 'a unique local address'],
    ['fe80::/10', 'a link-local address'],
    ['fec0::/10', 'a site-local address'],
    ['2001::/32', 'a Teredo address'],
    ['2001::/23', 'reserved for protocols'],
    ['2001:db8::/32', 'reserved for documentation'],
    ['2002::/16', 'a 6to4 address'],
    ['3fff::/20', 'reserved for documentation'],
  ] as const
).map(([text, meaning]) => [network(text), meaning]);

const GLOBAL_UNICAST_V6 = network('2000::/3');

/**
 * No listed network lets these through: they are no host's address, or answer with the credentials of the machine
 * that asks (cloud metadata; some of these lie in public or shared space).
 */
const NEVER: readonly (readonly [Network, string])[] = (
  [
    ['0.0.0.0/8', 'no address of a host (it reaches this machine)'],
    ['224.0.0.0/4', 'a multicast address'],
    ['240.0.0.0/4', 'a reserved or broadcast address'],
    ['169.254.169.254/32', 'a cloud metadata address'],
    ['169.254.170.2/32', 'a cloud metadata address'],
    ['169.254.170.23/32', 'a cloud metadata address'],
    ['100.100.100.200/32', 'a cloud metadata address'],
    ['168.63.129.16/32', 'a cloud metadata address'],
    ['192.0.0.192/32', 'a cloud metadata address'],
    ['::/128', 'no address of a host (it reaches this machine)'],
    ['ff00::/8', 'a multicast address'],
    ['fd00:ec2::254/128', 'a cloud metadata address'],
    ['fd00:ec2::23/128', 'a cloud metadata address'],
    ['fd20:ce::254/128', 'a cloud metadata address'],
  ] as const
).map(([text, meaning]) => [network(text), meaning]);

/** IPv6 networks whose last 32 bits are an IPv4 address that is reached instead: judged as that address. */
const EMBEDDING_V6 = [network('::ffff:0:0/96'), network('64:ff9b::/96')];

/** Why an address must not be called; null: it may. */
export function refuseAddress(address: string, { allow }: OutboundPolicy): string | null {
  const parsed = parseAddress(address);
  if (parsed === null) return 'not an address';
  const reached = EMBEDDING_V6.some((one) => contains(one, parsed))
    ? new ipaddr.IPv4(parsed.toByteArray().slice(-4))
    : parsed;
  const never = NEVER.find(([one]) => contains(one, reached));
  if (never !== undefined) return never[1];
  if (allow.some((one) => contains(one, reached))) return null;
  const special = SPECIAL.find(([one]) => contains(one, reached));
  if (special !== undefined) return special[1];
  return reached.kind() === 'ipv6' && !contains(GLOBAL_UNICAST_V6, reached) ? 'not a public address' : null;
}

/**
 * Why a URL must not be called; null: nothing speaks against it before its host is looked up. Hosts in decimal, octal,
 * hexadecimal or shortened form are addresses after the URL standard's parser, which this rests on.
 */
export function refuseUrl(text: string, policy: OutboundPolicy): string | null {
  if (!URL.canParse(text)) return 'The address is not a URL.';
  const url = new URL(text);
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return 'Only http and https are allowed.';
  if (url.username !== '' || url.password !== '') {
    return 'Credentials in the address are not allowed: deliveries are signed instead.';
  }
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port);
  if (!policy.ports.some(({ from, to }) => port >= from && port <= to)) {
    return `Port ${port} is not allowed (WEBHOOK_PORTS).`;
  }
  const address = literalAddress(url);
  const reason = address === null ? null : refuseAddress(address, policy);
  return reason === null ? null : refusalSentence(reason);
}

/** The address that a URL names itself, without brackets; null where it names a host that has to be looked up. */
export function literalAddress(url: URL): string | null {
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  return isIPv4(host) || isIPv6(host) ? host : null;
}

/** For a caller: what is wrong, and who can change it. The address itself is not repeated. */
export function refusalSentence(reason: string): string {
  return `The host is ${reason}. Networks that may be called besides public ones are listed in WEBHOOK_ALLOW_NETWORKS.`;
}

/** Networks in CIDR form, or single addresses, separated by commas. Throws an `Error` that says what is wrong. */
export function parseNetworks(text: string): Network[] {
  return words(text).map(network);
}

/** Ports and ranges of ports, separated by commas: `80,443,8000-8999`. */
export function parsePorts(text: string): PortRange[] {
  return words(text).map((word) => {
    const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(word);
    const from = Number(match?.[1]);
    const to = Number(match?.[2] ?? match?.[1]);
    if (match === null || from < 1 || to > 65_535 || from > to) {
      throw new Error(`must be ports or ranges of ports such as 80,443,8000-8999, not "${word}"`);
    }
    return { from, to };
  });
}

function words(text: string): string[] {
  return text
    .split(',')
    .map((word) => word.trim())
    .filter((word) => word !== '');
}

function network(text: string): Network {
  const [address = '', length, ...more] = text.split('/');
  const parsed = parseAddress(address);
  const bits = parsed?.kind() === 'ipv4' ? 32 : 128;
  const prefixLength = length === undefined ? bits : Number(length);
  if (parsed === null || !/^\d{1,3}$/.test(length ?? '0') || prefixLength > bits || more.length > 0) {
    throw new Error(`must be networks such as 10.20.0.0/16 or fd12:3456::/32, not "${text}"`);
  }
  const family = parsed.kind() === 'ipv4' ? ipaddr.IPv4 : ipaddr.IPv6;
  if (family.networkAddressFromCIDR(`${address}/${prefixLength}`).toString() !== parsed.toString()) {
    throw new Error(`must be networks, and "${text}" has bits set behind its prefix`);
  }
  return [parsed, prefixLength];
}

/** An address of the other family is in no network. */
function contains([base, prefixLength]: Network, address: Address): boolean {
  return address.kind() === base.kind() && address.match(base, prefixLength);
}

/**
 * Null for what is no address; a zone (`fe80::1%eth0`) names a link, and no address that could be listed. Node's check
 * comes first, because the library also reads shortened, octal and hexadecimal forms.
 */
function parseAddress(text: string): Address | null {
  return isIPv4(text) || (isIPv6(text) && !text.includes('%')) ? ipaddr.parse(text) : null;
}
