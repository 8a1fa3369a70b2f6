/** A stretch of network between two processes: a TCP proxy that can be slow, stall, or be cut. */
import { connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Network {
  readonly port: number;
  /** Where new connections lead from now on. */
  lead(port: number): void;
  /** Every piece of data waits this long, in either direction. */
  slow(delayMs: number): void;
  /** Nothing passes, and nobody is told; until `heal`. */
  stall(): void;
  /** Resets every connection. */
  cut(): void;
  /** Resets every connection, and every new one; until `heal`. */
  sever(): void;
  heal(): void;
  connections(): number;
  close(): Promise<void>;
}

export async function openNetwork(initialTarget: number): Promise<Network> {
  let target = initialTarget;
  let delayMs = 0;
  let severed = false;
  let passable: Promise<void> = Promise.resolve();
  let open = (): void => undefined;
  const sockets = new Set<Socket>();

  const carry = async (from: Socket, to: Socket): Promise<void> => {
    // Iterating reads the next piece when this one is on its way: a slow network holds its sender back.
    for await (const piece of from) {
      await passable;
      if (delayMs > 0) await sleep(delayMs);
      if (to.destroyed) return;
      to.write(piece as Buffer);
    }
    await passable;
    to.end();
  };
  const keep = (socket: Socket, other: () => Socket): void => {
    sockets.add(socket);
    socket.setNoDelay(true);
    socket.on('error', () => undefined);
    socket.once('close', () => {
      sockets.delete(socket);
      other().destroy();
    });
  };
  const server = createServer({ allowHalfOpen: true }, (near) => {
    if (severed) {
      near.on('error', () => undefined);
      near.resetAndDestroy();
      return;
    }
    const far: Socket = connect({ port: target, host: '127.0.0.1', allowHalfOpen: true });
    keep(near, () => far);
    keep(far, () => near);
    for (const way of [carry(near, far), carry(far, near)]) way.catch(() => undefined);
  });
  await new Promise<void>((settle, fail) => {
    server.once('error', fail);
    server.listen(0, '127.0.0.1', settle);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no TCP port');
  const cut = (): void => {
    for (const socket of sockets) socket.resetAndDestroy();
  };
  const heal = (): void => {
    delayMs = 0;
    severed = false;
    open();
    passable = Promise.resolve();
  };
  return {
    port: address.port,
    lead: (port) => {
      target = port;
    },
    slow: (ms) => {
      delayMs = ms;
    },
    stall: () => {
      passable = new Promise((settle) => {
        open = settle;
      });
    },
    cut,
    sever: () => {
      severed = true;
      cut();
    },
    heal,
    connections: () => sockets.size / 2,
    close: async () => {
      heal();
      cut();
      await new Promise((settle) => server.close(settle));
    },
  };
}
