import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Root of the package, seen from both `src` and `dist`. */
export const PACKAGE_ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Version of the program, from package.json. */
export function readVersion(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  return version;
}
