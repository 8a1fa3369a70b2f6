/** The MLLP sender against receivers that write what no library would: raw bytes on a real socket. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { createMllpSender, type MllpSender } from '../../../src/jobs/mllp.js';
import { randomFrom } from '../../support/random.js';

const message = (id: string): string =>
  `MSH|^~\\&|LEUKODIFF||LIS||20261125||ORU^R01^ORU_R01|${id}|P|2.5.1\rPID|1||A&B^\\T\\^李\rOBX|1|NM||5|\r`;
const MESSAGE = message('M1');
const HEADER = 'MSH|^~\\&|LIS||LEUKODIFF||20261125||ACK|9|P|2.5.1';
const block = (text: string): string => `\u000b${text}\u001c\r`;
const ack = (msa: string): string => block(`${HEADER}\r${msa}\r`);

const closers: (() => void)[] = [];
afterEach(() => {
  for (const close of closers.splice(0)) close();
});

interface Receiver {
  readonly sender: MllpSender;
  /** All bytes that came, over all connections. */
  readonly received: () => string;
  readonly connections: () => number;
}

/** A receiver that lets `answer` write once a whole message has come. */
async function receiver(answer: (socket: Socket, count: number) => unknown, timeoutMs = 20_000): Promise<Receiver> {
  let received = '';
  let count = 0;
  let connections = 0;
  const server = createServer((socket) => {
    connections += 1;
    closers.push(() => socket.destroy());
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      received += chunk.toString('utf8');
      if (received.endsWith('\u001c\r')) answer(socket, ++count);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const sender = createMllpSender({ host: '127.0.0.1', port, tls: false }, timeoutMs);
  closers.push(
    () => sender.close(),
    () => server.close(),
  );
  return { sender, received: () => received, connections: () => connections };
}

describe('createMllpSender', () => {
  it('sends the message to the byte, in one block', async () => {
    const { sender, received } = await receiver((socket) => socket.write(ack('MSA|AA|M1')));
    await sender.send(MESSAGE);
    expect(received()).toBe(block(MESSAGE));
  });

  it.each([
    ['an acknowledgement', ack('MSA|AA|M1'), 'AA'],
    ['small letters and blanks', ack('MSA| ar |M1|busy'), 'AR'],
    ['line feeds', block(`${HEADER}\nMSA|CE|M1\n`), 'CE'],
    ['other separators', block('MSH#^~\\&#LIS\rERR#x\rMSA#AE#M1'), 'AE'],
    ['one that does not say for which message', ack('MSA|CA'), 'CA'],
    ['noise before it', `\u0006\n${ack('MSA|AA|M1')}`, 'AA'],
    ['one for another message before it', ack('MSA|AE|OLD') + ack('MSA|AA|M1'), 'AA'],
    ['two, of commit level and of the application', ack('MSA|CA|M1') + ack('MSA|AA|M1'), 'CA'],
    ['a message of its own before it', block(`${HEADER}\rPID|1\r`) + ack('MSA|AA|M1'), 'AA'],
    ['a text with letters of several bytes', ack('MSA|AA|M1|Ångström 李'), 'AA'],
  ])('understands %s, wherever the network cuts it', async (_, answer, code) => {
    const random = randomFrom(11);
    let written: Promise<unknown> = Promise.resolve();
    const { sender } = await receiver((socket, count) => {
      const bytes = Buffer.from(answer.replaceAll('M1', `M${count}`), 'utf8');
      // What is still to be said of the message before comes first.
      written = written.then(async () => {
        for (let at = 0; at < bytes.length; ) {
          const end = at + 1 + Math.floor(random() * 60);
          socket.write(bytes.subarray(at, end));
          at = end;
          await sleep(1);
        }
      });
    });
    for (let round = 1; round <= 10; round += 1) expect(await sender.send(message(`M${round}`))).toBe(code);
  });

  it('keeps its connection, and is not hit by the time-out of what was answered before', async () => {
    const timeoutMs = 1_000;
    const { sender, connections } = await receiver(async (socket, count) => {
      // The second is the same message again, answered behind the moment at which the first would have been given up.
      if (count > 1) await sleep(timeoutMs * 0.6);
      socket.write(ack(count === 1 ? 'MSA|AR|M1' : 'MSA|AA|M1'));
    }, timeoutMs);
    expect(await sender.send(MESSAGE)).toBe('AR');
    await sleep(timeoutMs * 0.6);
    expect(await sender.send(MESSAGE)).toBe('AA');
    expect(connections()).toBe(1);
  });

  // Where time decides, little of it; else so much that a busy machine does not.
  it.each([
    ['a code that HL7 does not know', (socket: Socket) => socket.write(ack('MSA|XX|M1')), /table 0008/, 20_000],
    ['a flood without an end', (socket: Socket) => socket.write(`\u000b${'x'.repeat(2 << 20)}`), /too large/, 20_000],
    ['a hang-up', (socket: Socket) => socket.end(), /closed the connection/, 20_000],
    ['what is no HL7', (socket: Socket) => socket.write(block('hello')), /no acknowledgement in 1 s/, 1_000],
  ])('calls %s no answer, and goes on over a new connection', async (_, answer, reason, timeoutMs) => {
    const { sender, connections } = await receiver(
      (socket, count) => (count === 1 ? answer(socket) : socket.write(ack('MSA|AA|M1'))),
      timeoutMs,
    );
    await expect(sender.send(MESSAGE)).rejects.toThrow(reason);
    expect(await sender.send(MESSAGE)).toBe('AA');
    expect(connections()).toBe(2);
  });
});
