/** What can go wrong, and how it ends again. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../support/random.js';
import type { QueueBackend, System } from './system.js';

export interface Fault {
  readonly name: string;
  /** Does it, holds it for `holdMs`, and takes it back. */
  happen(system: System, holdMs: number): Promise<void>;
}

const MID_INFERENCE_PATIENCE_MS = 3_000;
const SLOW_MS = 60;
const CLOCK_JUMP_SECONDS = 3_600;

type Part = (system: System) => { signal(signal: NodeJS.Signals): void };

const PARTS: Readonly<Record<string, Part>> = {
  api: (system) => system.api,
  postgres: (system) => system.postgres,
  LIS: (system) => system.lis,
};
const NETWORKS = ['api-postgres', 'workers-postgres', 'workers-lis'];
const REDIS: Part = ({ redis }) => redis?.server ?? absent('redis');
const REDIS_NETWORKS = ['api-redis', 'workers-redis'];

const spoiltInAllWays = (network: string): Fault[] => [
  spoil(network, 'slow', (one) => one.slow(SLOW_MS)),
  spoil(network, 'stalled', (one) => one.stall()),
  spoil(network, 'cut', (one) => one.cut()),
  spoil(network, 'severed', (one) => one.sever()),
];

const COMMON: readonly Fault[] = [
  ...Object.entries(PARTS).flatMap(([name, part]) => [kill(name, part), freeze(name, part)]),
  // Twice as often as the others: this is where the work is.
  ...[0, 1].flatMap((n) => [killMidInference(n), freeze(`worker ${n}`, (system) => system.workers[n] ?? system.api)]),
  ...NETWORKS.flatMap(spoiltInAllWays),
  ...['spool', 'postgres'].map(fillDisk),
  ...[CLOCK_JUMP_SECONDS, -CLOCK_JUMP_SECONDS].flatMap((seconds) => [
    jump('api', seconds, (system) => system.api),
    jump('worker 0', seconds, (system) => system.workers[0] ?? system.api),
  ]),
];

/** What can happen to a system whose jobs lie there. */
export const FAULTS: Readonly<Record<QueueBackend, readonly Fault[]>> = {
  postgres: COMMON,
  redis: [
    ...COMMON,
    ...[kill('redis', REDIS), freeze('redis', REDIS), fillDisk('redis')],
    ...REDIS_NETWORKS.flatMap(spoiltInAllWays),
  ],
};

/** Every fault once before any comes again, in an order of the seed's. */
export function shuffled(all: readonly Fault[], random: Random): Fault[] {
  const faults = [...all];
  for (let last = faults.length - 1; last > 0; last--) {
    const other = random.integer(0, last);
    const [a, b] = [faults[last], faults[other]];
    if (a !== undefined && b !== undefined) [faults[last], faults[other]] = [b, a];
  }
  return faults;
}

function kill(name: string, part: Part): Fault {
  return {
    name: `kill ${name}`,
    happen: async (system) => part(system).signal('SIGKILL'),
  };
}

function killMidInference(n: number): Fault {
  return {
    name: `kill worker ${n} mid-inference`,
    happen: async (system) => {
      const deadline = Date.now() + MID_INFERENCE_PATIENCE_MS;
      while (Date.now() < deadline && !(await system.busy(n))) await sleep(10);
      system.workers[n]?.signal('SIGKILL');
    },
  };
}

function freeze(name: string, part: Part): Fault {
  return {
    name: `freeze ${name}`,
    happen: async (system, holdMs) => {
      part(system).signal('SIGSTOP');
      await sleep(holdMs);
      part(system).signal('SIGCONT');
    },
  };
}

function spoil(name: string, how: string, start: (network: System['networks'][string]) => void): Fault {
  return {
    name: `network ${name} ${how}`,
    happen: async (system, holdMs) => {
      const network = system.networks[name] ?? absent(name);
      start(network);
      await sleep(holdMs);
      network.heal();
    },
  };
}

function fillDisk(name: string): Fault {
  return {
    name: `disk of ${name} full`,
    happen: async (system, holdMs) => {
      const disk = system.disks[name] ?? absent(name);
      disk.fill();
      await sleep(holdMs);
      disk.free();
    },
  };
}

function jump(name: string, seconds: number, part: (system: System) => System['api']): Fault {
  return {
    name: `clock of ${name} ${seconds > 0 ? 'forward' : 'back'}`,
    happen: async (system, holdMs) => {
      part(system).jump(seconds);
      await sleep(holdMs);
      part(system).jump(0);
    },
  };
}

function absent(name: string): never {
  throw new Error(`there is no ${name}`);
}
