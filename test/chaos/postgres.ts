/** PostgreSQL as a server of its own, started again whenever it ends. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/storage/embedded-postgres.js';
import { family } from './process.js';

export interface Postgres {
  /** Of the server itself, which changes its port when it starts again. */
  readonly url: () => string;
  /** To the server and its processes. */
  signal(signal: NodeJS.Signals): void;
  readonly ends: () => number;
  stop(): Promise<void>;
}

export async function supervisePostgres(
  dataDir: string,
  log: string,
  onStart: (port: number) => void,
): Promise<Postgres> {
  const options = {
    dataDir,
    log: pino(pino.destination({ dest: log, sync: true })),
    settings: { max_wal_size: '64MB' },
  };
  let server: EmbeddedPostgres = await startEmbeddedPostgres(options);
  let stopping = false;
  let ends = 0;
  onStart(server.port);
  const again = async (): Promise<void> => {
    for (;;) {
      await server.died;
      if (stopping) return;
      ends += 1;
      await server.stop();
      for (;;) {
        try {
          server = await startEmbeddedPostgres(options);
          break;
        } catch {
          // Its disk may still be full.
          if (stopping) return;
          await sleep(500);
        }
      }
      onStart(server.port);
    }
  };
  void again();
  return {
    url: () => server.url,
    ends: () => ends,
    signal: (signal) => {
      const postmaster = Number.parseInt(readFileSync(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8'), 10);
      // A killed postmaster takes its processes with it; a stopped one does not.
      const targets = signal === 'SIGKILL' ? [postmaster] : family(postmaster);
      for (const pid of targets) {
        try {
          process.kill(pid, signal);
        } catch {
          // It has ended meanwhile.
        }
      }
    },
    stop: async () => {
      stopping = true;
      await server.stop();
    },
  };
}
