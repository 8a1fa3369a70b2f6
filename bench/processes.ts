/** Programs that are measured: started apart, watched through /proc, ended again whatever happens. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const START_TIMEOUT_MS = 90_000;
const STOP_TIMEOUT_MS = 20_000;
/** Linux counts processor time in these, on every platform that Node supports. */
const TICKS_PER_SECOND = 100;

export interface Running {
  readonly pid: number;
  readonly output: () => string;
  /** Writes a line to its standard input. */
  readonly tell: (line: string) => void;
  /** Resolves with the exit code. */
  readonly ended: Promise<number | null>;
  /** Stands still, with all its children, until `resume`. */
  pause(): void;
  resume(): void;
  stop(): Promise<void>;
}

const started = new Set<ChildProcess>();
process.once('exit', killAll);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

/** In a group of its own, so that a server's workers end with it. */
export function start(command: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Running {
  const child = spawn(command, args, {
    env: { PATH: process.env['PATH'] ?? '', HOME: process.env['HOME'] ?? '/', ...env },
    stdio: 'pipe',
    detached: true,
  });
  started.add(child);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      // Enough to find what it says at its start, and why it ended.
      text = (text + chunk.toString()).slice(-200_000);
    });
  }
  const ended = new Promise<number | null>((settle, fail) => {
    child.once('error', fail);
    child.once('close', (code) => {
      started.delete(child);
      settle(code);
    });
  });
  ended.catch(() => undefined);
  const { pid } = child;
  if (pid === undefined) throw new Error(`${command} cannot be started`);
  const signal = (name: NodeJS.Signals): void => {
    try {
      process.kill(-pid, name);
    } catch {
      // It has ended.
    }
  };
  return {
    pid,
    output: () => text,
    tell: (line) => child.stdin.write(`${line}\n`),
    ended,
    pause: () => signal('SIGSTOP'),
    resume: () => signal('SIGCONT'),
    stop: async () => {
      signal('SIGCONT');
      child.kill('SIGTERM');
      await Promise.race([ended, sleep(STOP_TIMEOUT_MS, undefined, { ref: false })]);
      signal('SIGKILL');
      await ended;
    },
  };
}

/** Last resort, whatever ended the measurement. */
function killAll(): void {
  for (const { pid } of started) {
    try {
      if (pid !== undefined) process.kill(-pid, 'SIGKILL');
    } catch {
      // It has ended.
    }
  }
}

/** Waits until `ready` gives something; throws with the program's last words when it ends or the time is over. */
export async function until<T>(
  running: Running,
  ready: () => Promise<T | undefined> | T | undefined,
  timeoutMs = START_TIMEOUT_MS,
): Promise<T> {
  let over = false;
  const end = (): void => {
    over = true;
  };
  running.ended.then(end, end);
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const found = await ready();
    if (found !== undefined) return found;
    if (over || Date.now() > deadline) {
      throw new Error(`${over ? 'ended early' : 'not ready in time'}:\n${running.output().slice(-3000)}`);
    }
    await sleep(50);
  }
}

/** A line of the service's log with this message. */
export function logEntry(running: Running, message: string): Promise<Record<string, unknown>> {
  return until(running, () => {
    const line = running
      .output()
      .split('\n')
      .find((one) => one.includes(`"msg":"${message}"`));
    return line === undefined ? undefined : (JSON.parse(line) as Record<string, unknown>);
  });
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

/** Peak resident memory in MB; NaN where there is no /proc. */
export function peakMemoryMb(pid: number): number {
  if (!existsSync(`/proc/${pid}/status`)) return Number.NaN;
  const kb = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return kb === undefined ? Number.NaN : (Number(kb) * 1024) / 1e6;
}

/** Processor seconds of the whole machine since it started, whatever used them; NaN where /proc does not tell. */
export function machineSeconds(): number {
  if (!existsSync('/proc/stat')) return Number.NaN;
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = (
    /^cpu +(.*)$/m.exec(readFileSync('/proc/stat', 'utf8'))?.[1] ?? ''
  )
    .split(' ')
    .map(Number);
  return (user + nice + system + irq + softirq) / TICKS_PER_SECOND;
}

/** Processor seconds of the whole machine between two times of `performance.now()`, once they are over. */
export function machineSecondsBetween(from: number, to: number): { end(): number } {
  let first = Number.NaN;
  let last = Number.NaN;
  const at = (time: number, note: () => void): NodeJS.Timeout =>
    setTimeout(note, Math.max(0, time - performance.now()));
  const timers = [
    at(from, () => {
      first = machineSeconds();
    }),
    at(to, () => {
      last = machineSeconds();
    }),
  ];
  return {
    end: () => {
      for (const timer of timers) clearTimeout(timer);
      return (Number.isNaN(last) ? machineSeconds() : last) - first;
    },
  };
}

/** Processor seconds that the processes of a group used so far; NaN where there is no /proc. */
export function cpuSeconds(group: number): number {
  if (!existsSync('/proc')) return Number.NaN;
  return processes()
    .filter((one) => one.group === group)
    .reduce((sum, one) => sum + one.seconds, 0);
}

/** Threads of the service, by what they do: those of the networks are nice (docs/decisions/0071). */
export type Part = 'networks' | 'main' | 'libvips' | 'helpers';

/** Processor seconds that each part of a process used so far. */
export function secondsByPart(pid: number): Record<Part, number> {
  const seconds = { networks: 0, main: 0, libvips: 0, helpers: 0 };
  for (const thread of statsIn(`/proc/${pid}/task`)) seconds[partOf(thread, pid)] += thread.seconds;
  return seconds;
}

function partOf({ id, name, niceness }: Stat, pid: number): Part {
  if (id === pid) return 'main';
  if (name.includes('vips')) return 'libvips';
  return niceness > 0 ? 'networks' : 'helpers';
}

/**
 * Processor seconds of a process and its children so far, as PostgreSQL's server has them for its connections; those of children that have
 * ended count as well.
 */
export function secondsWithChildren(pid: number): number {
  return processes()
    .filter(({ id, parent }) => id === pid || parent === pid)
    .reduce((sum, { id, seconds, secondsOfEnded }) => sum + seconds + (id === pid ? secondsOfEnded : 0), 0);
}

interface Stat {
  readonly id: number;
  readonly name: string;
  readonly parent: number;
  readonly group: number;
  readonly niceness: number;
  readonly seconds: number;
  /** Of children that it has waited for. */
  readonly secondsOfEnded: number;
}

const processes = (): Stat[] => statsIn('/proc');

/** What Linux says of the processes or threads in a folder of /proc. */
function statsIn(folder: string): Stat[] {
  return readdirSync(folder).flatMap((id) => {
    if (!/^\d+$/.test(id)) return [];
    try {
      const text = readFileSync(`${folder}/${id}/stat`, 'utf8');
      // The name may hold anything, brackets too.
      const end = text.lastIndexOf(')');
      const fields = text.slice(end + 2).split(' ');
      const number = (at: number): number => Number(fields[at]);
      return [
        {
          id: Number(id),
          name: text.slice(text.indexOf('(') + 1, end),
          parent: number(1),
          group: number(2),
          niceness: number(16),
          seconds: (number(11) + number(12)) / TICKS_PER_SECOND,
          secondsOfEnded: (number(13) + number(14)) / TICKS_PER_SECOND,
        },
      ];
    } catch {
      // It ended in between.
      return [];
    }
  });
}

/** The image's allocator (Dockerfile), or the next best where it is not installed. */
export function allocator(): Readonly<Record<string, string>> {
  const known = existsSync('/sbin/ldconfig') ? execFileSync('/sbin/ldconfig', ['-p'], { encoding: 'utf8' }) : '';
  return known.includes(JEMALLOC)
    ? { LD_PRELOAD: JEMALLOC, MALLOC_CONF: 'lg_tcache_max:20' }
    : { MALLOC_ARENA_MAX: '2' };
}
const JEMALLOC = 'libjemalloc.so.2';

export function has(command: string): boolean {
  try {
    execFileSync('which', [command], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
