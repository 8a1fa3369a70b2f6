/** A process that is started again whenever it ends, as a supervisor does, and that faults can be done to. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const RESTART_MS = 200;
const FAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1';

export interface Supervised {
  readonly name: string;
  readonly pid: () => number | undefined;
  /** How often it has ended so far. */
  readonly ends: () => number;
  signal(signal: NodeJS.Signals): void;
  /** Moves its clock from now on; 0 is the true time. */
  jump(seconds: number): void;
  stop(): Promise<void>;
}

export interface Command {
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Where its output goes. */
  readonly log: string;
  /** File that holds the offset of its clock; absent: its clock is left alone. */
  readonly clock?: string;
}

export function supervise({ name, program, args, env = {}, log, clock }: Command): Supervised {
  mkdirSync(dirname(log), { recursive: true });
  const setClock = (seconds: number): void => {
    if (clock !== undefined) writeFileSync(clock, `${seconds < 0 ? '-' : '+'}${Math.abs(seconds)}s\n`);
  };
  setClock(0);
  let child: ChildProcess | undefined;
  let stopping = false;
  let ends = 0;
  const running = (async () => {
    while (!stopping) {
      const output = openSync(log, 'a');
      child = spawn(program, args, {
        env: { PATH: process.env['PATH'] ?? '', ...env, ...clockEnv(clock) },
        stdio: ['ignore', output, output],
      });
      closeSync(output);
      await new Promise<void>((settle) => {
        child?.once('error', () => settle());
        child?.once('close', () => settle());
      });
      if (stopping) return;
      ends += 1;
      await sleep(RESTART_MS);
    }
  })();
  return {
    name,
    pid: () => (child?.exitCode === null && child.signalCode === null ? child.pid : undefined),
    ends: () => ends,
    signal: (signal) => {
      child?.kill(signal);
    },
    jump: setClock,
    stop: async () => {
      stopping = true;
      child?.kill('SIGCONT');
      child?.kill('SIGTERM');
      const late = sleep(20_000, 'late', { ref: false });
      if ((await Promise.race([running, late])) === 'late') child?.kill('SIGKILL');
      await running;
    },
  };
}

/** libfaketime moves the wall clock alone: timers go by the monotonic one, as on a machine whose clock is set. */
function clockEnv(clock: string | undefined): Record<string, string> {
  if (clock === undefined) return {};
  return {
    LD_PRELOAD: FAKETIME,
    FAKETIME_TIMESTAMP_FILE: clock,
    FAKETIME_CACHE_DURATION: '1',
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
  };
}

/** The process and its children. */
export function family(pid: number): number[] {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    return [pid, ...(children === '' ? [] : children.split(' ').map(Number))];
  } catch {
    return [];
  }
}
