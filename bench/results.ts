/** Where figures are kept: one JSON a command in bench/results, which `npm run bench:docs` reads. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readVersion } from '../src/version.js';
import { machineSeconds } from './processes.js';

const FOLDER = fileURLToPath(new URL('results', import.meta.url));

export interface Conditions {
  readonly measured: string;
  readonly cores: number;
  readonly processor: string;
  /** The widest that the networks' kernels find. */
  readonly vectors?: string;
  readonly memoryGb: number;
  readonly node: string;
  readonly version: string;
  /** Cores that were busy with something else before the first measurement. */
  readonly busyBefore: number;
}

export function conditions(): Conditions {
  return {
    measured: new Date().toISOString().slice(0, 10),
    cores: availableParallelism(),
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    ...vectors(),
    memoryGb: Math.round(totalmem() / 1e9),
    node: process.version,
    version: readVersion(),
    busyBefore: Math.round(busyCores() * 100) / 100,
  };
}

const LOOK_MS = 2000;

/**
 * How many cores are busy while this program waits. The load average would still tell of the build that went before; it stands in
 * where there is no /proc.
 */
export function busyCores(): number {
  const before = machineSeconds();
  if (Number.isNaN(before)) return loadavg()[0] ?? Number.NaN;
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOOK_MS);
  return ((machineSeconds() - before) * 1000) / LOOK_MS;
}

/** As Linux tells; nothing elsewhere. */
function vectors(): Pick<Conditions, 'vectors'> {
  const file = '/proc/cpuinfo';
  const flags = existsSync(file) ? (/^flags.*/m.exec(readFileSync(file, 'utf8'))?.[0] ?? '') : '';
  const found = Object.entries({ avx512f: 'AVX-512', avx2: 'AVX2' }).find(([flag]) => flags.includes(` ${flag} `));
  return found === undefined ? {} : { vectors: found[1] };
}

/** e.g. `2 cores (AMD EPYC, AVX2)` */
export function coresOf({ cores, processor, vectors }: Conditions): string {
  return `${cores} cores (${[processor, vectors].filter(Boolean).join(', ')})`;
}

export function describe(conditions: Conditions): string {
  const { measured, memoryGb, node, busyBefore } = conditions;
  const busy = busyBefore > 0.2 ? ' **The machine was not idle: these figures say little.**' : '';
  return `Measured ${measured} on ${coresOf(conditions)}, ${memoryGb} GB, Node ${node}; ${busyBefore} cores busy before.${busy}`;
}

/** Names a file in bench/results. */
export function resultFile(name: string): string {
  mkdirSync(FOLDER, { recursive: true });
  return join(FOLDER, name);
}

export function writeResult(name: string, value: object): void {
  writeFileSync(resultFile(`${name}.json`), `${JSON.stringify(value, null, 2)}\n`);
}

/** Undefined where nobody has measured yet. The file is this program's own. */
export function readResult<T>(name: string): T | undefined {
  const file = join(FOLDER, `${name}.json`);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as T) : undefined;
}
