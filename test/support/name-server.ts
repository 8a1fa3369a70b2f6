/** A name server of a test: real DNS over UDP (RFC 1035), as much of it as a look-up needs. */
import { createSocket } from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import { isIPv4 } from 'node:net';
import type { Resolve } from '../../src/outbound/lookup.js';

const TYPE_A = 1;
const TYPE_AAAA = 28;
const NO_SUCH_NAME = 3;

export interface NameServer {
  /** Asks this server. */
  readonly resolve: Resolve;
  readonly questions: string[];
  readonly close: () => Promise<void>;
}

/**
 * @param zone The addresses of a name at this moment; undefined: there is no such name; null: no answer at all.
 */
export async function startNameServer(
  zone: (name: string) => readonly string[] | undefined | null,
): Promise<NameServer> {
  const questions: string[] = [];
  const socket = createSocket('udp4');
  socket.on('message', (query, { port, address }) => {
    const labels: string[] = [];
    let at = 12;
    for (let length = query.readUInt8(at); length > 0; length = query.readUInt8(at)) {
      labels.push(query.toString('latin1', at + 1, at + 1 + length));
      at += 1 + length;
    }
    const type = query.readUInt16BE(at + 1);
    const name = labels.join('.').toLowerCase();
    questions.push(`${name} ${type}`);
    const addresses = zone(name);
    if (addresses === null) return;
    const records = (addresses ?? [])
      .filter((one) => (isIPv4(one) ? TYPE_A : TYPE_AAAA) === type)
      .map((one) => {
        const data = isIPv4(one) ? Buffer.from(one.split('.').map(Number)) : bytesOfV6(one);
        const head = Buffer.alloc(12);
        head.writeUInt16BE(0xc00c, 0); // the name of the question
        head.writeUInt16BE(type, 2);
        head.writeUInt16BE(1, 4); // IN; the time to live stays 0
        head.writeUInt16BE(data.length, 10);
        return Buffer.concat([head, data]);
      });
    const answer = Buffer.from(query.subarray(0, at + 5));
    answer.writeUInt16BE(0x8180 | (addresses === undefined ? NO_SUCH_NAME : 0), 2);
    answer.writeUInt16BE(records.length, 6);
    answer.writeUInt32BE(0, 8);
    socket.send(Buffer.concat([answer, ...records]), port, address);
  });
  await new Promise<void>((settle) => socket.bind(0, '127.0.0.1', settle));
  const resolver = new Resolver({ timeout: 300, tries: 1 });
  resolver.setServers([`127.0.0.1:${socket.address().port}`]);
  return {
    questions,
    resolve: async (host) => {
      const [four, six] = await Promise.allSettled([resolver.resolve4(host), resolver.resolve6(host)]);
      if (four.status === 'rejected' && six.status === 'rejected') throw four.reason;
      return [
        ...(four.status === 'fulfilled' ? four.value.map((address) => ({ address, family: 4 as const })) : []),
        ...(six.status === 'fulfilled' ? six.value.map((address) => ({ address, family: 6 as const })) : []),
      ];
    },
    close: () => new Promise((settle) => socket.close(settle)),
  };
}

function bytesOfV6(address: string): Buffer {
  const [head = '', tail] = new URL(`http://[${address}]/`).hostname.slice(1, -1).split('::');
  const groups = (part: string | undefined): string[] => (part ? part.split(':') : []);
  const [left, right] = [groups(head), groups(tail)];
  const zeros = Array.from({ length: 8 - left.length - right.length }, () => '0');
  const bytes = Buffer.alloc(16);
  [...left, ...zeros, ...right].forEach((group, n) => {
    bytes.writeUInt16BE(Number.parseInt(group, 16), 2 * n);
  });
  return bytes;
}
