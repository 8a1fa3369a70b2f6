/**
 * Sends HL7 v2 messages over MLLP (HL7's Minimal Lower Layer Protocol, release 1: 0x0B, message, 0x1C 0x0D) and reads their
 * acknowledgements. One connection, one message in flight. Why no library does this: docs/decisions/0033-mllp-of-our-own.md.
 */
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

const START = 0x0b;
const END = Buffer.from([0x1c, 0x0d]);
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
  /** What the receiver said about the message with this control id (MSH-10). Throws `MllpConnectionError`. */
  send(message: string, controlId: string): Promise<AckCode>;
  close(): void;
}

export function createMllpSender(destination: MllpDestination, timeoutMs: number): MllpSender {
  let connection: Connection | null = null;
  /** Sends wait here for the one before. */
  let last: Promise<unknown> = Promise.resolve();

  async function sendNow(message: string, controlId: string): Promise<AckCode> {
    if (connection === null || connection.closed()) connection = await open(destination);
    try {
      return await connection.exchange(message, controlId, timeoutMs);
    } catch (error) {
      // A late answer must not be taken for that of the next message.
      connection.destroy();
      connection = null;
      throw error;
    }
  }

  return {
    send: (message, controlId) => {
      const sent = last.then(() => sendNow(message, controlId));
      last = sent.catch(() => undefined);
      return sent;
    },
    close: () => connection?.destroy(),
  };
}

interface Connection {
  exchange(message: string, controlId: string, timeoutMs: number): Promise<AckCode>;
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
  const frames = createFrames();
  let onFrame: (frame: string) => void = () => undefined;
  let onLost: (reason: string) => void = () => undefined;
  const lost = (reason: string): void => {
    socket.destroy();
    onLost(reason);
  };
  socket.setKeepAlive(true, IDLE_MS);
  socket.setNoDelay(true);
  socket.setTimeout(IDLE_MS);
  // Only while nothing is under way: an answer has a time-out of its own.
  socket.on('timeout', () => socket.destroy());
  socket.on('data', (chunk) => {
    for (const frame of frames.push(chunk)) onFrame(frame);
    if (frames.pendingBytes() > LARGEST_ANSWER_BYTES) lost('the answer is too large');
  });
  // A peer that has closed its side will answer nothing more.
  socket.on('end', () => lost('the receiver closed the connection before it answered'));
  socket.on('close', () => lost('the connection was closed before the receiver answered'));
  socket.on('error', (error: NodeJS.ErrnoException) => lost(error.code ?? error.message));

  return {
    exchange: async (message, controlId, timeoutMs) => {
      socket.setTimeout(0);
      let timer: NodeJS.Timeout | undefined;
      try {
        return await new Promise<AckCode>((resolve, reject) => {
          onLost = (reason) => reject(new MllpConnectionError(reason));
          onFrame = (frame) => {
            const ack = readAck(frame);
            // Some receivers leave out which message they mean; there is only one.
            if (ack !== null && (ack.controlId === controlId || ack.controlId === '')) resolve(ack.code);
          };
          timer = setTimeout(
            () => reject(new MllpConnectionError(`no acknowledgement in ${timeoutMs / 1000} s`)),
            timeoutMs,
          );
          socket.write(Buffer.concat([Buffer.from([START]), Buffer.from(message, 'utf8'), END]));
        });
      } finally {
        clearTimeout(timer);
        onLost = () => undefined;
        onFrame = () => undefined;
        socket.setTimeout(IDLE_MS);
      }
    },
    closed: () => socket.destroyed || !socket.writable,
    destroy: () => socket.destroy(),
  };
}

/** Cuts a stream into blocks, wherever the network cut it: several in one chunk, or one in many. */
export function createFrames(): { push(chunk: Buffer): string[]; pendingBytes(): number } {
  let pending = Buffer.alloc(0);
  return {
    push: (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      const frames: string[] = [];
      for (;;) {
        const start = pending.indexOf(START);
        // What stands before a block is no message.
        if (start < 0) {
          pending = Buffer.alloc(0);
          return frames;
        }
        const end = pending.indexOf(END, start);
        if (end < 0) {
          pending = pending.subarray(start);
          return frames;
        }
        frames.push(pending.subarray(start + 1, end).toString('utf8'));
        pending = pending.subarray(end + END.length);
      }
    },
    pendingBytes: () => pending.length,
  };
}

/** MSA-1 and MSA-2 of an acknowledgement; null for anything else. */
export function readAck(frame: string): { readonly code: AckCode; readonly controlId: string } | null {
  const segments = frame.split(/[\r\n]+/);
  if (segments[0]?.startsWith('MSH') !== true) return null;
  const separator = segments[0].charAt(3);
  const [, code = '', controlId = ''] =
    segments.find((one) => one.startsWith(`MSA${separator}`))?.split(separator) ?? [];
  const known = code.trim().toUpperCase();
  return isAckCode(known) ? { code: known, controlId: controlId.trim() } : null;
}

function isAckCode(code: string): code is AckCode {
  return ACK_CODES.includes(code);
}

/** Certificates name hosts; SNI must not carry an address (RFC 6066). */
function isAddress(host: string): boolean {
  return host.includes(':') || /^[\d.]+$/.test(host);
}
