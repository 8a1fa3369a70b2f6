/** Where figures are kept: one JSON a command in bench/results, which `npm run bench:docs` reads. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readVersion } from '../src/version.js';

const FOLDER = fileURLToPath(new URL('results', import.meta.url));

export interface Conditions {
  readonly measured: string;
  readonly cores: number;
  readonly processor: string;
  readonly memoryGb: number;
  readonly node: string;
  readonly version: string;
  /** Processes that wanted the processor before the first measurement: near 0 on an idle machine. */
  readonly loadBefore: number;
}

export function conditions(): Conditions {
  return {
    measured: new Date().toISOString().slice(0, 10),
    cores: availableParallelism(),
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    memoryGb: Math.round(totalmem() / 1e9),
    node: process.version,
    version: readVersion(),
    loadBefore: Math.round((loadavg()[0] ?? 0) * 100) / 100,
  };
}

export function describe({ measured, cores, processor, memoryGb, node, loadBefore }: Conditions): string {
  const busy = loadBefore > 0.5 ? ' **The machine was not idle: these figures say little.**' : '';
  return `Measured ${measured} on ${cores} cores (${processor}), ${memoryGb} GB, Node ${node}; load before ${loadBefore}.${busy}`;
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
