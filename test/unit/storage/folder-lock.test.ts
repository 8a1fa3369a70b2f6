import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { acquireFolderLock, type FolderLock } from '../../../src/storage/embedded/folder-lock.js';

let folder: string;
let file: string;
const locks: FolderLock[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'leukodiff-lock-'));
  file = join(folder, 'leukodiff.lock');
});
afterEach(() => {
  for (const lock of locks.splice(0)) lock.release();
  rmSync(folder, { recursive: true, force: true });
});

async function acquire(): Promise<FolderLock> {
  const lock = await acquireFolderLock(folder);
  locks.push(lock);
  return lock;
}
const owner = (): Record<string, unknown> => JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
const leaveBehind = (changes: Record<string, unknown>, ageMs = 0): void => {
  writeFileSync(file, JSON.stringify(changes));
  const time = new Date(Date.now() - ageMs);
  utimesSync(file, time, time);
};

describe('the lock of the data folder', () => {
  it('is held until it is released', async () => {
    const lock = await acquire();
    await expect(acquireFolderLock(folder)).rejects.toThrow(/in use by another Leukodiff/);
    lock.release();
    expect(existsSync(file)).toBe(false);
    await acquire();
  });

  it('is taken by one of several that come at the same time', async () => {
    const all = await Promise.allSettled(Array.from({ length: 8 }, () => acquire()));
    expect(all.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  });

  it('is taken from a process that ended', async () => {
    const child = spawn(process.execPath, ['-e', '']);
    await new Promise((settle) => child.once('exit', settle));
    await acquire().then((lock) => {
      leaveBehind({ ...owner(), token: 'other', pid: child.pid });
      return lock;
    });
    await acquire();
    expect(owner()['pid']).toBe(process.pid);
  });

  it('is taken when its number belongs to a later process by now', async () => {
    await acquire();
    leaveBehind({ ...owner(), token: 'other', startTicks: '1' });
    await acquire();
    expect(owner()['token']).not.toBe('other');
  });

  it('of another container is honoured while it beats, and taken when it has stopped', async () => {
    const lock = await acquire();
    const foreign = { ...owner(), token: 'other', pidNamespace: 'pid:[1]' };
    leaveBehind(foreign, 60_000);
    // What the heart of `lock` does every three seconds now belongs to nobody.
    lock.release();
    await acquire();
    expect(owner()['token']).not.toBe('other');

    leaveBehind(foreign);
    const heart = setInterval(() => utimesSync(file, new Date(), new Date()), 500);
    await expect(acquireFolderLock(folder)).rejects.toThrow(/in use by another Leukodiff/);
    clearInterval(heart);
  });

  it('leaves alone what another process has taken meanwhile', async () => {
    const lock = await acquire();
    leaveBehind({ ...owner(), token: 'other' });
    lock.release();
    expect(existsSync(file)).toBe(true);
  });
});
