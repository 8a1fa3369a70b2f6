/** The bare loop (bare.ts) in a process of its own: what is set and what it answers. */
import { allocator, start } from './processes.js';

export interface BareSetting {
  /** Each in a thread of its own. */
  readonly sessions: number;
  /** Processor threads, all sessions together. */
  readonly threads: number;
  /** Images on their way at once. */
  readonly lanes: number;
  readonly seconds: number;
  /** Most crops in a run; 1: no run is shared. Absent: the service's default. */
  readonly batchCrops?: number;
}

export interface BareResult {
  readonly imagesPerSecond: number;
  readonly p50: number;
  readonly p99: number;
  /** Mean milliseconds an image spent in each stage; with several lanes stages wait for each other. */
  readonly stagesMs: Readonly<Record<string, number>>;
}

export async function runBare(setting: BareSetting, env: Readonly<Record<string, string>> = {}): Promise<BareResult> {
  const program = start('npx', ['tsx', 'bench/bare.ts', JSON.stringify(setting)], { ...allocator(), ...env });
  const code = await program.ended;
  const line = program
    .output()
    .split('\n')
    .find((one) => one.startsWith('{'));
  if (code !== 0 || line === undefined) throw new Error(`the bare loop ended with ${code}:\n${program.output()}`);
  return JSON.parse(line) as BareResult;
}
