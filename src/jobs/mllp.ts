/**
 * Sends HL7 v2 messages over MLLP (HL7's Minimal Lower Layer Protocol) and waits for their acknowledgements. Frames, messages and
 * which answer belongs to which message are `@medplum/hl7`'s; here are the socket, the time-outs and one message in flight at a
 * time. What is left to the library and what is not: docs/decisions/0033-mllp-by-medplum.md.
 */
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { Hl7Message } from '@medplum/core';
import { Hl7Connection, type Hl7MessageEvent, ReturnAckCategory } from '@medplum/hl7';

const CONNECT_TIMEOUT_MS = 10_000;
/** Interface engines and firewalls drop connections that say nothing for minutes, often without telling. */
const IDLE_MS = 60_000;
/** An acknowledgement has some hundred bytes. */
const LARGEST_ANSWER_BYTES = 1024 * 1024;

export interface MllpDestination {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
  /** PEM of the authority that signed the receiver's certificate; undefined: those that Node trusts. */
  readonly ca?: string | undefined;
}

/** Table 0008: accept, error and reject, of the application or of its commit level. */
export type AckCode = 'AA' | 'AE' | 'AR' | 'CA' | 'CE' | 'CR';
const ACK_CODES: readonly string[] = ['AA', 'AE', 'AR', 'CA', 'CE', 'CR'] satisfies AckCode[];

/** Nobody could be reached, or nobody answered: nothing is known about the message. */
export class MllpConnectionError extends Error {
  override readonly name = 'MllpConnectionError';
}

export interface MllpSender {
  /** What the receiver said about the message, which has a control id (MSH-10). Throws `MllpConnectionError`. */
  send(message: string): Promise<AckCode>;
  close(): void;
}

export function createMllpSender(destination: MllpDestination, timeoutMs: number): MllpSender {
  let connection: Connection | null = null;
  /** Sends wait here for the one before. */
  let last: Promise<unknown> = Promise.resolve();

  async function sendNow(message: string): Promise<AckCode> {
    if (connection === null || connection.closed()) connection = await open(destination);
    try {
      return await connection.exchange(message, timeoutMs);
    } catch (error) {
      // A late answer must not be taken for that of the next message.
      connection.destroy();
      connection = null;
      throw error;
    }
  }

  return {
    send: (message) => {
      const sent = last.then(() => sendNow(message));
      last = sent.catch(() => undefined);
      return sent;
    },
    close: () => connection?.destroy(),
  };
}

interface Connection {
  exchange(message: string, timeoutMs: number): Promise<AckCode>;
  closed(): boolean;
  destroy(): void;
}

async function open({ host, port, tls, ca }: MllpDestination): Promise<Connection> {
  const socket = tls
    ? connectTls({ host, port, ...(ca === undefined ? {} : { ca }), ...(isAddress(host) ? {} : { servername: host }) })
    : connectTcp({ host, port });
  await new Promise<void>((resolve, reject) => {
    const fail = (reason: string): void => {
      socket.destroy();
      reject(new MllpConnectionError(reason));
    };
    const timer = setTimeout(() => fail(`no connection in ${CONNECT_TIMEOUT_MS / 1000} s`), CONNECT_TIMEOUT_MS);
    socket.once(tls ? 'secureConnect' : 'connect', () => {
      clearTimeout(timer);
      socket.off('error', onError);
      resolve();
    });
    const onError = (error: NodeJS.ErrnoException): void => {
      clearTimeout(timer);
      fail(error.code ?? error.message);
    };
    socket.once('error', onError);
  });
  return connectionOf(socket);
}

function connectionOf(socket: Socket): Connection {
  let onLost: (reason: string) => void = () => undefined;
  const lost = (reason: string): void => {
    socket.destroy();
    onLost(reason);
  };
  // Counted before the library sees the bytes: it keeps whatever comes until a message is whole.
  let unread = 0;
  socket.on('data', (chunk: Buffer) => {
    unread += chunk.length;
    if (unread > LARGEST_ANSWER_BYTES) lost('the answer is too large');
  });
  const mllp = new Hl7Connection(socket);
  mllp.addEventListener('message', () => {
    unread = 0;
  });
  socket.setKeepAlive(true, IDLE_MS);
  socket.setNoDelay(true);
  socket.setTimeout(IDLE_MS);
  // Only while nothing is under way: an answer has a time-out of its own.
  socket.on('timeout', () => socket.destroy());
  // A peer that has closed its side will answer nothing more.
  socket.on('end', () => lost('the receiver closed the connection before it answered'));
  socket.on('close', () => lost('the connection was closed before the receiver answered'));
  socket.on('error', (error: NodeJS.ErrnoException) => lost(error.code ?? error.message));

  return {
    exchange: async (text, timeoutMs) => {
      const message = Hl7Message.parse(text);
      socket.setTimeout(0);
      let timer: NodeJS.Timeout | undefined;
      let onAnswer: (event: Hl7MessageEvent) => void = () => undefined;
      try {
        const answer = await new Promise<Hl7Message>((resolve, reject) => {
          onLost = (reason) => reject(new MllpConnectionError(reason));
          // Some receivers leave out which message they mean (MSA-2); there is only one.
          onAnswer = (event) => {
            if (msa(event.message, 1) !== '' && msa(event.message, 2) === '') resolve(event.message);
          };
          mllp.addEventListener('message', onAnswer);
          // The library's own time-out outlives the answer, and would hit the same message when it is sent again.
          timer = setTimeout(
            () => reject(new MllpConnectionError(`no acknowledgement in ${timeoutMs / 1000} s`)),
            timeoutMs,
          );
          mllp.sendAndWait(message, { returnAck: ReturnAckCategory.FIRST }).then(resolve, reject);
        });
        return ackCode(answer);
      } finally {
        clearTimeout(timer);
        mllp.removeEventListener('message', onAnswer);
        onLost = () => undefined;
        socket.setTimeout(IDLE_MS);
      }
    },
    closed: () => socket.destroyed || !socket.writable,
    destroy: () => socket.destroy(),
  };
}

/** Field of the answer's MSA segment; '' where there is none. */
function msa(answer: Hl7Message, field: number): string {
  return answer.getSegment('MSA')?.getField(field)?.toString().trim() ?? '';
}

function ackCode(answer: Hl7Message): AckCode {
  const code = msa(answer, 1).toUpperCase();
  if (!isAckCode(code)) throw new MllpConnectionError('the acknowledgement has no code of table 0008 in MSA-1');
  return code;
}

function isAckCode(code: string): code is AckCode {
  return ACK_CODES.includes(code);
}

/** Certificates name hosts; SNI must not carry an address (RFC 6066). */
function isAddress(host: string): boolean {
  return host.includes(':') || /^[\d.]+$/.test(host);
}
