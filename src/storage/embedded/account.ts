/**
 * The account that runs PostgreSQL, which refuses to be root. As an ordinary user that is ourselves. As root (a plain
 * container, a first try on a server) it is the owner of the data, or a system user made for it.
 */
import { type SpawnOptions, spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { userInfo } from 'node:os';
import { dirname } from 'node:path';
import type { Logger } from 'pino';
import { ExpectedError } from '../../errors.js';

const SYSTEM_USER = 'leukodiff';

export interface Account {
  /** Owner of the cluster's files; null where that is ourselves. */
  readonly owner: { readonly uid: number; readonly gid: number } | null;
  /** Turns a command into one that runs as this account. */
  command(program: string, args: readonly string[]): { program: string; args: string[]; options: SpawnOptions };
}

/** Throws `ExpectedError` where no account can both run PostgreSQL and reach `dataDir` and the program. */
export function chooseAccount(cluster: string, dataDir: string, program: string, log: Logger): Account {
  const setpriv = findSetpriv();
  // The server shall not outlive us, not even after kill -9: the kernel then asks it for a fast shutdown.
  const followParent = setpriv === null ? [] : [setpriv, '--pdeathsig', 'INT'];
  const present = existsSync(cluster) ? statSync(cluster) : null;

  if (process.getuid?.() !== 0) {
    if (present !== null && process.getuid !== undefined && present.uid !== process.getuid()) {
      throw new ExpectedError(
        `The embedded database in ${cluster} belongs to another user (uid ${present.uid}; you are ` +
          `${userInfo().username}). Start Leukodiff as that user, or set DATA_DIR to a folder of your own.`,
      );
    }
    return account(null, followParent, {});
  }

  const owner = present !== null && present.uid !== 0 ? { uid: present.uid, gid: present.gid } : systemUser(log);
  for (const candidate of asOwner(owner, setpriv, followParent)) {
    if (!reaches(candidate, [dataDir, program])) continue;
    return candidate;
  }
  throw new ExpectedError(
    `Leukodiff runs as root, PostgreSQL must not, and the user that would run it (uid ${owner.uid}) cannot enter ` +
      `${dataDir} or ${dirname(program)}. Start Leukodiff as an ordinary user, move it to a folder that others may ` +
      'enter, or set DATABASE_URL to a PostgreSQL server.',
  );
}

function account(owner: Account['owner'], wrapper: readonly string[], options: SpawnOptions): Account {
  return {
    owner,
    command: (program, args) => {
      const [first, ...rest] = [...wrapper, program, ...args];
      return { program: first ?? program, args: rest, options };
    },
  };
}

/**
 * Ways to run as `owner`, the least privileged first. A clone below /root or in a private folder of /tmp is closed to
 * every other user; one capability opens the way there for the server. The first is the lesser one, but containers
 * often grant only the second.
 */
function asOwner(owner: { uid: number; gid: number }, setpriv: string | null, followParent: string[]): Account[] {
  if (setpriv === null) return [account(owner, [], { uid: owner.uid, gid: owner.gid })];
  const identity = [...followParent, `--reuid=${owner.uid}`, `--regid=${owner.gid}`, '--clear-groups'];
  return [null, 'dac_read_search', 'dac_override'].map((capability) => {
    if (capability === null) return account(owner, identity, {});
    // access(2), by which initdb looks at its own program, ignores capabilities of a user other than root without this bit.
    const passOn = ['--securebits=+no_setuid_fixup', `--inh-caps=+${capability}`, `--ambient-caps=+${capability}`];
    return account(owner, [...identity, ...passOn], {});
  });
}

function reaches(candidate: Account, paths: readonly string[]): boolean {
  const script = 'for path; do test -x "$path" || exit 1; done';
  const { program, args, options } = candidate.command('/bin/sh', ['-c', script, 'sh', ...paths]);
  return spawnSync(program, args, { ...options, cwd: '/', stdio: 'ignore' }).status === 0;
}

/** setpriv of util-linux, which every Debian has; null elsewhere. */
function findSetpriv(): string | null {
  if (process.platform !== 'linux') return null;
  for (const path of ['/usr/bin/setpriv', '/bin/setpriv']) {
    // BusyBox has a setpriv without these options.
    const help = existsSync(path) ? spawnSync(path, ['--help'], { encoding: 'utf8' }).stdout : '';
    if (help?.includes('--pdeathsig') && help.includes('--ambient-caps')) return path;
  }
  return null;
}

function systemUser(log: Logger): { uid: number; gid: number } {
  for (const name of [SYSTEM_USER, 'postgres']) {
    const found = lookUp(name);
    if (found !== null) return found;
  }
  const made = spawnSync(
    'useradd',
    ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', SYSTEM_USER],
    {
      encoding: 'utf8',
    },
  );
  const found = lookUp(SYSTEM_USER);
  if (found === null) {
    throw new ExpectedError(
      `Leukodiff runs as root, PostgreSQL must not, and no system user could be made for it ` +
        `(useradd: ${(made.stderr || made.error?.message || 'failed').trim()}). ` +
        'Start Leukodiff as an ordinary user, or set DATABASE_URL to a PostgreSQL server.',
    );
  }
  log.info({ user: SYSTEM_USER, uid: found.uid }, 'made a system user that runs the embedded database');
  return found;
}

function lookUp(name: string): { uid: number; gid: number } | null {
  const [uid, gid] = ['-u', '-g'].map((flag) =>
    Number.parseInt(spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout ?? '', 10),
  );
  return uid !== undefined && gid !== undefined && uid > 0 && gid >= 0 ? { uid, gid } : null;
}
