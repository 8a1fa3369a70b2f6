/**
 * One Leukodiff for one data folder. PostgreSQL guards its own files, but a second program must be told so in words,
 * and what a killed one left behind must not stop the next.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync, readlinkSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ExpectedError } from '../../errors.js';
import { isErrno } from './errno.js';

const LOCK_FILE = 'leukodiff.lock';
const HEARTBEAT_MS = 3_000;
/** Three heartbeats: an owner whose process cannot be seen from here (another container) is dead after that. */
const STALE_AFTER_MS = 3 * HEARTBEAT_MS;

export interface FolderLock {
  release(): void;
}

interface Owner {
  readonly token: string;
  readonly pid: number;
  /** Start time in clock ticks since boot: tells a process from a later one with its number. */
  readonly startTicks: string | null;
  readonly bootId: string | null;
  readonly pidNamespace: string | null;
}

/** Throws `ExpectedError` when a live process holds the folder. */
export async function acquireFolderLock(dataDir: string): Promise<FolderLock> {
  const file = join(dataDir, LOCK_FILE);
  const me: Owner = { token: randomUUID(), pid: process.pid, startTicks: startTicks(process.pid), ...machine() };
  for (;;) {
    try {
      writeFileSync(file, `${JSON.stringify(me)}\n`, { flag: 'wx', mode: 0o600 });
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw folderError(error, dataDir);
      const owner = readOwner(file);
      if (owner !== null && (await isAlive(owner, file))) throw heldBy(owner, dataDir);
      rmSync(file, { force: true });
      continue;
    }
    // Two processes may have found the same stale lock, and the slower one removed the faster one's.
    await sleep(50);
    const owner = readOwner(file);
    if (owner?.token === me.token) break;
    if (owner !== null) throw heldBy(owner, dataDir);
  }
  const heartbeat = setInterval(() => {
    try {
      utimesSync(file, new Date(), new Date());
    } catch {
      // The folder was removed under us; PostgreSQL will say so.
    }
  }, HEARTBEAT_MS);
  heartbeat.unref();
  return {
    release: () => {
      clearInterval(heartbeat);
      if (readOwner(file)?.token === me.token) rmSync(file, { force: true });
    },
  };
}

async function isAlive(owner: Owner, file: string): Promise<boolean> {
  const here = machine();
  if (owner.bootId === here.bootId && owner.pidNamespace === here.pidNamespace) {
    return processExists(owner.pid) && startTicks(owner.pid) === owner.startTicks;
  }
  // Its process cannot be seen from here (another container, another boot): watch its heartbeat.
  for (;;) {
    const ageMs = heartbeatAgeMs(file);
    if (ageMs === null || ageMs > STALE_AFTER_MS) return false;
    await sleep(HEARTBEAT_MS + 500);
    const laterMs = heartbeatAgeMs(file);
    if (laterMs !== null && laterMs < ageMs) return true;
  }
}

function heartbeatAgeMs(file: string): number | null {
  try {
    return Math.abs(Date.now() - statSync(file).mtimeMs);
  } catch {
    return null;
  }
}

function heldBy(owner: Owner, dataDir: string): ExpectedError {
  return new ExpectedError(
    `The data folder ${dataDir} is in use by another Leukodiff (process ${owner.pid}). ` +
      'Stop it first, set DATA_DIR to another folder, or set DATABASE_URL so that several processes can share a server.',
  );
}

function folderError(error: unknown, dataDir: string): unknown {
  if (!isErrno(error, 'EACCES', 'EROFS', 'EPERM')) return error;
  return new ExpectedError(
    `The data folder ${dataDir} is not writable. Change its owner, or set DATA_DIR to another folder.`,
  );
}

function readOwner(file: string): Owner | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Owner;
  } catch {
    // Missing, or cut off by a crash while it was written.
    return null;
  }
}

function processExists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return isErrno(error, 'EPERM');
  }
}

function startTicks(pid: number): string | null {
  try {
    // The command name may hold blanks and brackets: count fields behind its closing bracket. Start time is field 22.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null;
  }
}

function machine(): { bootId: string | null; pidNamespace: string | null } {
  return {
    bootId: attempt(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()),
    pidNamespace: attempt(() => readlinkSync('/proc/self/ns/pid')),
  };
}

function attempt(read: () => string): string | null {
  try {
    return read();
  } catch {
    return null;
  }
}
