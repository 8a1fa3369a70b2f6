/** Receivers of webhooks on this machine, and what a worker needs to call them. */
import { randomBytes } from 'node:crypto';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { parseNetworks, parsePorts } from '../../src/outbound/address-policy.js';
import { createSealer } from '../../src/storage/sealing.js';

/** Of a worker that may call receivers on this machine. */
export const WEBHOOK_CONFIG = {
  webhookNetworks: parseNetworks('127.0.0.0/8,::1/128'),
  webhookPorts: parsePorts('80,443,1024-65535'),
  webhookDisableAfterDays: 5,
};

export const SEALER = createSealer(randomBytes(32));

export interface Received {
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  readonly at: number;
}

export interface Receiver {
  readonly url: string;
  readonly server: Server;
  readonly received: Received[];
  readonly close: () => Promise<void>;
}

/** Answers with `statuses` in turn, the last one for good; `never` takes the request and says nothing. */
export async function startReceiver(
  statuses: readonly number[] | 'never',
  headers: Record<string, string> = {},
): Promise<Receiver> {
  const received: Received[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      received.push({ headers: request.headers, body: Buffer.concat(chunks).toString(), at: performance.now() });
      if (statuses === 'never') return;
      response.writeHead(statuses[Math.min(received.length, statuses.length) - 1] ?? 200, headers).end('thanks');
    });
  });
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    server,
    received,
    close: () =>
      new Promise((settle) => {
        server.close(() => settle());
        server.closeAllConnections();
      }),
  };
}
