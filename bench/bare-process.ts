/** The bare loop (bare.ts) in a process of its own: what is set, what it is told and what it answers. */
import type { Window } from './load.js';
import { allocator, start, until } from './processes.js';

export interface BareSetting {
  /** Each in a thread of its own. */
  readonly sessions: number;
  /** Processor threads, all sessions together. */
  readonly threads: number;
  /** Most crops in a run; 1: no run is shared. Absent: the service's default. */
  readonly batchCrops?: number;
}

export interface BareTurn extends Window {
  /** Images on their way at once. */
  readonly lanes: number;
  /** The turn ends after so many, however much of its time is left. */
  readonly images?: number;
}

export interface BareResult {
  readonly imagesPerSecond: number;
  /** Of the whole machine, for an image. */
  readonly processorMs: number;
  readonly p50: number;
  readonly p99: number;
  /** Mean milliseconds an image spent in each stage; with several lanes stages wait for each other. */
  readonly stagesMs: Readonly<Record<string, number>>;
}

export interface BareLoop {
  readonly pid: number;
  run(turn: BareTurn): Promise<BareResult>;
  stop(): Promise<void>;
}

/** Rests until it is told a turn. */
export function openBare(setting: BareSetting, env: Readonly<Record<string, string>> = {}): BareLoop {
  const program = start(process.execPath, ['--import', 'tsx', 'bench/bare.ts', JSON.stringify(setting)], {
    ...allocator(),
    ...env,
  });
  let answered = 0;
  return {
    pid: program.pid,
    run: async (turn) => {
      program.tell(JSON.stringify(turn));
      const timeoutMs = (turn.warmUpSeconds + turn.seconds) * 1000 + START_AND_LAST_IMAGES_MS;
      const line = await until(program, () => answers(program.output())[answered], timeoutMs);
      answered++;
      return JSON.parse(line) as BareResult;
    },
    stop: () => program.stop(),
  };
}
const START_AND_LAST_IMAGES_MS = 60_000;

/** Whole lines: one may still be on its way. */
function answers(output: string): string[] {
  return output
    .split('\n')
    .slice(0, -1)
    .filter((line) => line.startsWith('{'));
}
