/** A disk of its own for a process, small enough to be filled. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { join } from 'node:path';

export interface Disk {
  readonly folder: string;
  fill(): void;
  free(): void;
  unmount(): void;
}

/** Throws where this process may not mount. */
export function mountDisk(folder: string, mebibytes: number): Disk {
  mkdirSync(folder, { recursive: true });
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}m,mode=0755`, 'tmpfs', folder], {
    encoding: 'utf8',
  });
  if (mounted.status !== 0) throw new Error(`No disk to fill: ${mounted.stderr.trim()} (run as root)`);
  const ballast = join(folder, 'ballast');
  return {
    folder,
    fill: () => {
      const file = openSync(ballast, 'w');
      const piece = Buffer.alloc(64 * 1024, 1);
      try {
        for (;;) writeSync(file, piece);
      } catch {
        // Full.
      } finally {
        closeSync(file);
      }
      if (statfsSync(folder).bavail > 16) throw new Error(`${folder} is not full`);
    },
    free: () => rmSync(ballast, { force: true }),
    unmount: () => {
      spawnSync('umount', ['--lazy', folder]);
    },
  };
}

/** One that cannot be filled. */
export function plainFolder(folder: string): Disk {
  mkdirSync(folder, { recursive: true });
  const refuse = (): never => {
    throw new Error(`${folder} is no disk of its own`);
  };
  return { folder, fill: refuse, free: refuse, unmount: () => undefined };
}
