/** The built program, started as a user starts it: its own process, folder and environment. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MAIN, NODE_FLAGS } from './main.js';

const START_TIMEOUT_MS = 90_000;

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Program {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  readonly output: () => string;
}

export interface Service extends Program {
  /** e.g. `http://127.0.0.1:40213` */
  readonly address: string;
  /** `Authorization` with the key that the service made at its first start. */
  readonly headers: Readonly<Record<string, string>>;
  /** Sends the signal and waits for the end. */
  readonly stop: (signal?: NodeJS.Signals) => Promise<Ended>;
}

const started = new Set<ChildProcess>();

/** Starts `leukodiff` with nothing of our environment but the path and, for a model under test, MODEL_DIR. */
export function run(args: readonly string[], env: Readonly<Record<string, string>> = {}): Program {
  if (!existsSync(MAIN)) throw new Error('dist/start.cjs is missing: run `npm run build` first');
  const model = process.env['MODEL_DIR'];
  const child = spawn(process.execPath, [...NODE_FLAGS, MAIN, ...args], {
    env: {
      PATH: process.env['PATH'] ?? '',
      EXECUTION_PROVIDER: 'cpu',
      ...(model === undefined ? {} : { MODEL_DIR: model }),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  started.add(child);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const ended = new Promise<Ended>((settle) => {
    child.once('close', (code, signal) => {
      started.delete(child);
      settle({ code, signal, stdout, stderr });
    });
  });
  return { child, ended, output: () => stdout + stderr };
}

/** Starts `leukodiff serve` on a free port and waits until it listens. */
export async function serve(
  env: Readonly<Record<string, string>>,
  args: readonly string[] = ['serve'],
): Promise<Service> {
  const program = run(args, { PORT: '0', ...env });
  const entry = await logEntry(program, 'listening');
  return {
    ...program,
    address: String(entry['address']),
    headers: authorization(env['DATA_DIR']),
    stop: async (signal = 'SIGTERM') => {
      program.child.kill(signal);
      return program.ended;
    },
  };
}

function authorization(dataDir: string | undefined): Record<string, string> {
  const file = join(dataDir ?? '', 'first-key');
  return existsSync(file) ? { authorization: `Bearer ${readFileSync(file, 'utf8').trim()}` } : {};
}

/** Waits for a line of the JSON log with this message. */
export async function logEntry(program: Program, message: string): Promise<Record<string, unknown>> {
  let over: Ended | undefined;
  void program.ended.then((ended) => {
    over = ended;
  });
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    for (const line of program.output().split('\n')) {
      if (line.includes(`"msg":"${message}"`)) return JSON.parse(line) as Record<string, unknown>;
    }
    if (over !== undefined) throw new Error(`the program ended with ${over.code ?? over.signal}:\n${program.output()}`);
    if (Date.now() > deadline) throw new Error(`no "${message}" in time:\n${program.output()}`);
    await sleep(25);
  }
}

/** Ends whatever a failed test left running. */
export async function stopAll(): Promise<void> {
  await Promise.all(
    [...started].map(
      (child) =>
        new Promise<void>((settle) => {
          child.once('close', () => settle());
          child.kill('SIGKILL');
        }),
    ),
  );
}

/** A folder that `cleanUp` removes. */
const folders: string[] = [];
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'leukodiff-e2e-'));
  folders.push(folder);
  return folder;
}

let prepared: Promise<string> | undefined;

/** A data folder with its database made and migrated: copies of one, because making one costs seconds each time. */
export async function preparedDataDir(): Promise<string> {
  prepared ??= (async () => {
    const folder = join(temporaryFolder(), 'data');
    const { code, stderr } = await run(['migrate'], { DATA_DIR: folder }).ended;
    if (code !== 0) throw new Error(stderr);
    return folder;
  })();
  const copy = join(temporaryFolder(), 'data');
  // Owners are kept: as root, the database's files belong to another user.
  const { status, stderr } = spawnSync('cp', ['-a', await prepared, copy], { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
  return copy;
}

export async function cleanUp(): Promise<void> {
  await stopAll();
  for (const folder of folders.splice(0))
    rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
}
