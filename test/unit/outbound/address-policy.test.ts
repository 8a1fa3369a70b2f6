import { describe, expect, it } from 'vitest';
import {
  type OutboundPolicy,
  parseNetworks,
  parsePorts,
  refuseAddress,
  refuseUrl,
} from '../../../src/outbound/address-policy.js';
import { ALLOWED_LOOPBACK, atPort, NEVER, PUBLIC, REFUSED, REFUSED_URLS } from '../../support/hostile-addresses.js';

const PORT = 8080;
const PORTS = parsePorts('80,443,1024-65535');
const DEFAULT: OutboundPolicy = { allow: [], ports: PORTS };
const allowing = (networks: string): OutboundPolicy => ({ allow: parseNetworks(networks), ports: PORTS });

describe('by default', () => {
  it('the table is as long as it is said to be', () => {
    expect(REFUSED_URLS.length + PUBLIC.length).toBeGreaterThan(100);
    expect(new Set(REFUSED_URLS).size).toBe(REFUSED_URLS.length);
  });

  for (const [kind, urls] of Object.entries(REFUSED)) {
    it.each(urls)(`${kind}: %s is refused`, (url) => {
      expect(refuseUrl(atPort(url, PORT), DEFAULT)).not.toBeNull();
    });
  }

  it.each(PUBLIC)('a public address: %s is called', (url) => {
    expect(refuseUrl(url, DEFAULT)).toBeNull();
  });

  it('a name is called when its look-up allows it', () => {
    expect(refuseUrl('https://lis.example/hook', DEFAULT)).toBeNull();
  });
});

describe('with listed networks', () => {
  it.each(ALLOWED_LOOPBACK)('%s is called', (url) => {
    expect(refuseUrl(atPort(url, PORT), allowing('127.0.0.0/8, ::1/128'))).toBeNull();
  });

  it.each(NEVER)('%s is refused whatever is listed', (url) => {
    expect(refuseUrl(atPort(url, PORT), allowing('0.0.0.0/0,::/0'))).not.toBeNull();
  });

  it('exactly those are called', () => {
    const policy = allowing('10.20.0.0/16,fd12:3456::/32,192.168.7.9');
    for (const address of ['10.20.0.0', '10.20.255.255', 'fd12:3456::1', '192.168.7.9', '::ffff:10.20.1.1']) {
      expect(refuseAddress(address, policy), address).toBeNull();
    }
    for (const address of ['10.19.255.255', '10.21.0.0', 'fd12:3457::1', '192.168.7.8', '127.0.0.1', '::1']) {
      expect(refuseAddress(address, policy), address).not.toBeNull();
    }
  });

  it('an IPv4 network does not let IPv6 through, nor the other way round', () => {
    expect(refuseAddress('::1', allowing('0.0.0.0/0'))).not.toBeNull();
    expect(refuseAddress('127.0.0.1', allowing('::/0'))).not.toBeNull();
  });
});

describe('the settings', () => {
  it.each([
    '10.0.0.0/33',
    '10.0.0.1/8',
    '10.0.0/8',
    'lis.example',
    '::1/129',
    '10.0.0.0/8/8',
    '10.0.0.0/-1',
    '10.0.0.0/',
  ])('the network %s cannot be used', (text) => {
    expect(() => parseNetworks(text)).toThrow(/must be networks/);
  });

  it.each(['0', '65536', '90-80', '80-', 'http', '1-2-3', '-80'])('the ports %s cannot be used', (text) => {
    expect(() => parsePorts(text)).toThrow(/must be ports/);
  });

  it('ports can be narrowed', () => {
    const ports = parsePorts('443, 8440-8449');
    expect(refuseUrl('https://1.1.1.1/', { allow: [], ports })).toBeNull();
    expect(refuseUrl('https://1.1.1.1:8449/', { allow: [], ports })).toBeNull();
    expect(refuseUrl('https://1.1.1.1:8450/', { allow: [], ports })).toMatch(/Port 8450 .*WEBHOOK_PORTS/);
    expect(refuseUrl('http://1.1.1.1/', { allow: [], ports })).toMatch(/Port 80 /);
  });

  it('a refusal says what to do and does not repeat the address', () => {
    const refusal = refuseUrl('http://10.1.2.3/token', DEFAULT);
    expect(refusal).toMatch(/a private network.*WEBHOOK_ALLOW_NETWORKS/);
    expect(refusal).not.toContain('10.1.2.3');
  });
});
