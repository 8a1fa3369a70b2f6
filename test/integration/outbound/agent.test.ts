/** Connections to the outside, against a real listener on every address of this machine and a real name server. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type Dispatcher, request } from 'undici';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type OutboundPolicy, parseNetworks, parsePorts } from '../../../src/outbound/address-policy.js';
import { createOutboundAgent } from '../../../src/outbound/agent.js';
import { AddressRefusedError, screenUrl } from '../../../src/outbound/lookup.js';
import { ALLOWED_LOOPBACK, atPort, NEVER, REFUSED_NAMES, REFUSED_URLS } from '../../support/hostile-addresses.js';
import { type NameServer, startNameServer } from '../../support/name-server.js';

const PORTS = parsePorts('80,443,1024-65535');
const DEFAULT: OutboundPolicy = { allow: [], ports: PORTS };
const LOOPBACK: OutboundPolicy = { allow: parseNetworks('127.0.0.0/8,::1/128'), ports: PORTS };
const ALL: OutboundPolicy = { allow: parseNetworks('0.0.0.0/0,::/0'), ports: PORTS };

let listener: Server;
let port = 0;
let connections = 0;
let requests: string[] = [];
let names: NameServer;
let zone: (name: string) => readonly string[] | undefined | null;

beforeAll(async () => {
  listener = createServer((incoming, response) => {
    requests.push(`${incoming.method} ${incoming.url} for ${incoming.headers.host}`);
    if (incoming.url === '/redirect') response.writeHead(307, { location: `http://127.0.0.1:${port}/inside` });
    response.end();
  });
  listener.on('connection', () => {
    connections += 1;
  });
  await new Promise<void>((settle) => listener.listen(0, '::', settle));
  port = (listener.address() as AddressInfo).port;
  names = await startNameServer((name) => zone(name));
});
afterAll(async () => {
  listener.closeAllConnections();
  listener.close();
  await names.close();
});
beforeEach(() => {
  connections = 0;
  requests = [];
  zone = (name) => (name === 'localhost' ? ['127.0.0.1'] : REFUSED_NAMES[name]);
});

async function call(url: string, policy: OutboundPolicy, agent?: Dispatcher): Promise<number> {
  const dispatcher = agent ?? createOutboundAgent(policy, names.resolve);
  try {
    const signal = AbortSignal.timeout(10_000);
    const { statusCode, body } = await request(url, { dispatcher, method: 'POST', body: '{}', signal });
    await body.dump();
    return statusCode;
  } finally {
    if (agent === undefined) await dispatcher.destroy();
  }
}

describe('the connector alone, without a check of the URL before it', () => {
  // Without the policy of ports, credentials and schemes, which belongs to the URL: here it is about addresses.
  const addresses = REFUSED_URLS.filter(
    (url) => /^https?:/i.test(url) && URL.canParse(atPort(url, 1)) && !/:(?:0|22|23|25|465)\/$/.test(url),
  ).filter((url) => !url.includes('@1.1.1.1'));

  it.each(addresses)('%s leads nowhere', async (url) => {
    await expect(call(atPort(url, port), DEFAULT)).rejects.toThrow(AddressRefusedError);
    expect(connections).toBe(0);
  });

  it('leaves most of the table to refuse', () => {
    expect(addresses.length).toBeGreaterThan(70);
  });

  it('would reach the listener under these addresses: the table can fail', async () => {
    for (const url of ALLOWED_LOOPBACK) expect(await call(atPort(url, port), LOOPBACK), url).toBe(200);
    expect(requests).toHaveLength(ALLOWED_LOOPBACK.length);
  });

  it.each(NEVER)('%s leads nowhere, with every network listed', async (url) => {
    await expect(call(atPort(url, port), ALL)).rejects.toThrow(AddressRefusedError);
    expect(connections).toBe(0);
  });
});

describe('a name', () => {
  it.each(Object.entries(REFUSED_NAMES))('%s leads nowhere (%j)', async (name, addresses) => {
    await expect(call(`http://${name}:${port}/`, DEFAULT)).rejects.toThrow(
      addresses.length === 0 ? /ENODATA|ENOTFOUND|ECONNREFUSED|no address/ : AddressRefusedError,
    );
    expect(connections).toBe(0);
    expect(names.questions.some((question) => question.startsWith(name))).toBe(true);
  });

  it('that does not exist, or whose server is silent, is refused', async () => {
    zone = (name) => (name === 'silent.test' ? null : undefined);
    await expect(call(`http://absent.test:${port}/`, LOOPBACK)).rejects.toMatchObject({ code: 'ENOTFOUND' });
    await expect(call(`http://silent.test:${port}/`, LOOPBACK)).rejects.toMatchObject({ code: 'ETIMEOUT' });
    expect(connections).toBe(0);
  });

  it('with a good and a bad address is called at the good one', async () => {
    zone = () => ['10.1.2.3', '127.0.0.1', '169.254.169.254'];
    expect(await call(`http://mixed.test:${port}/`, LOOPBACK)).toBe(200);
    expect(requests).toEqual([`POST / for mixed.test:${port}`]);
  });

  it('that changes its answer after the check is refused when it is connected to (rebinding)', async () => {
    let asked = 0;
    const rebinding = (): readonly string[] => {
      asked += 1;
      // Two questions (A and AAAA) for the screening, which sees a public address.
      return asked <= 2 ? ['93.184.216.34'] : ['127.0.0.1'];
    };
    zone = rebinding;
    const url = `http://rebinding.test:${port}/`;
    const screening = await screenUrl(url, DEFAULT, { timeoutMs: 2_000, resolve: names.resolve });
    expect(screening).toEqual({ verdict: 'allowed' });
    await expect(call(url, DEFAULT)).rejects.toThrow(AddressRefusedError);
    expect(asked).toBe(4);
    expect(connections).toBe(0);
  });

  it('is looked up for every connection, so that a kept answer is no way in', async () => {
    const agent = createOutboundAgent(LOOPBACK, names.resolve);
    try {
      zone = () => ['127.0.0.1'];
      expect(await call(`http://changing.test:${port}/`, LOOPBACK, agent)).toBe(200);
      listener.closeAllConnections();
      zone = () => ['10.1.2.3'];
      await expect
        .poll(() => call(`http://changing.test:${port}/`, LOOPBACK, agent).catch((error: Error) => error.name))
        .toBe('AddressRefusedError');
      expect(requests).toHaveLength(1);
    } finally {
      await agent.destroy();
    }
  });
});

describe('a redirect', () => {
  it('is not followed', async () => {
    expect(await call(`http://127.0.0.1:${port}/redirect`, LOOPBACK)).toBe(307);
    expect(requests).toEqual([`POST /redirect for 127.0.0.1:${port}`]);
  });
});

describe('a proxy of the environment', () => {
  it('is not used: it would look up the name itself', async () => {
    process.env['http_proxy'] = `http://127.0.0.1:${port}`;
    try {
      await expect(call('http://loopback.test:8080/', DEFAULT)).rejects.toThrow(AddressRefusedError);
      expect(connections).toBe(0);
    } finally {
      delete process.env['http_proxy'];
    }
  });
});

describe('the screening of an address', () => {
  const screen = (url: string, policy = DEFAULT) => screenUrl(url, policy, { timeoutMs: 500, resolve: names.resolve });

  it('tells refused, unknown and allowed apart', async () => {
    zone = (name) => ({ 'public.test': ['93.184.216.34'], 'private.test': ['10.1.2.3'], 'silent.test': null })[name];
    expect(await screen('https://public.test/')).toEqual({ verdict: 'allowed' });
    expect(await screen('https://private.test/')).toMatchObject({ verdict: 'refused' });
    expect(await screen('https://private.test/', { ...DEFAULT, allow: parseNetworks('10.0.0.0/8') })).toEqual({
      verdict: 'allowed',
    });
    expect(await screen('https://absent.test/')).toMatchObject({ verdict: 'unknown' });
    expect(await screen('https://silent.test/')).toMatchObject({ verdict: 'unknown' });
    expect(connections).toBe(0);
  });

  it('refuses the whole table', async () => {
    for (const url of REFUSED_URLS) {
      expect(await screen(atPort(url, port)), url).toMatchObject({ verdict: 'refused' });
    }
    expect(connections).toBe(0);
  });
});
