/** What an image costs in processor time, by the part that spends it: the service, in orders of one and of ten, against the bare loop. */
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { imagesAtOnce } from '../src/jobs/images-at-once.js';
import { sizingFor } from '../src/vision/sizing.js';
import { openBare } from './bare-process.js';
import { doneIn, inTurn, service } from './contestants.js';
import { TURN_WARM_UP_SECONDS, WARM_UP_SECONDS } from './load.js';
import { type Part, secondsByPart, secondsWithChildren } from './processes.js';
import type { Servers } from './servers.js';

const PARTS: Readonly<Record<Part, string>> = {
  networks: 'networks (ONNX Runtime), with the threads that call it',
  main: 'main thread: crops, outlines, PNGs, database client, HTTP, queue, log',
  helpers: "V8's helpers and libuv's: garbage collection, compiling, decoding, packing",
  libvips: 'libvips: decoding',
};
const POSTGRES = 'PostgreSQL';
const CLIENT = 'the client that posts';
export const ALL_PARTS: readonly string[] = [...Object.values(PARTS), POSTGRES, CLIENT];

const cores = availableParallelism();
/** By the service's rule (docs/decisions/0071), with as many images on their way. */
const BARE = { sessions: sizingFor(cores, 'cpu').sessions, threads: cores };
const lanes = imagesAtOnce(cores);
/** A little more than a turn's worth; it ends when all of them are done, so that none is half counted. */
const BARE_IMAGES_A_SECOND = 20;

/** Milliseconds of processor time an image, by the names of `ALL_PARTS`. */
export interface Costs {
  readonly name: string;
  readonly ms: Readonly<Record<string, number>>;
}

interface Runner {
  readonly name: string;
  /** Takes a turn: `look` notes the processor time so far, once when what counts begins and once at its end. Returns the images between. */
  turn(look: () => void): Promise<number>;
  readonly pid: number;
  stop(): Promise<void>;
}

/** All are started and warmed up once; then they take turns, and who has no turn stands still. */
export async function costsByTurns(
  servers: Servers,
  frames: readonly Buffer[],
  { rounds, seconds }: { readonly rounds: number; readonly seconds: number },
): Promise<Costs[]> {
  const runners: Runner[] = [];
  try {
    runners.push(await bareRunner(seconds));
    for (const images of [10, 1]) runners.push(await serviceRunner(servers, frames, images, seconds));
    const sums = runners.map(() => ({ images: 0, spent: new Map<string, number>() }));
    for (let round = 0; round < rounds; round++) {
      for (const [i, runner] of runners.entries()) {
        const looks: Record<string, number>[] = [];
        const images = await runner.turn(() => looks.push(secondsSpent(servers, runner.pid)));
        const sum = sums[i];
        if (sum === undefined) continue;
        sum.images += images;
        for (const part of ALL_PARTS) {
          sum.spent.set(part, (sum.spent.get(part) ?? 0) + (looks[1]?.[part] ?? NaN) - (looks[0]?.[part] ?? NaN));
        }
      }
    }
    return runners.map(({ name }, i) => {
      const { images = Number.NaN, spent } = sums[i] ?? {};
      return { name, ms: Object.fromEntries([...(spent ?? [])].map(([part, s]) => [part, (s * 1000) / images])) };
    });
  } finally {
    for (const runner of runners) await runner.stop();
  }
}

function secondsSpent(servers: Servers, pid: number): Record<string, number> {
  const threads = secondsByPart(pid);
  const own = process.cpuUsage();
  return {
    ...Object.fromEntries((Object.keys(PARTS) as Part[]).map((part) => [PARTS[part], threads[part]])),
    [POSTGRES]: secondsWithChildren(servers.postgresPid),
    [CLIENT]: (own.user + own.system) / 1e6,
  };
}

async function bareRunner(seconds: number): Promise<Runner> {
  const loop = openBare(BARE);
  const limit = 60;
  await loop.run({ lanes, warmUpSeconds: WARM_UP_SECONDS - 1, seconds: 1 });
  return {
    name: 'bare loop',
    pid: loop.pid,
    turn: async (look) => {
      await loop.run({ lanes, warmUpSeconds: 0, seconds: 1 });
      look();
      const images = BARE_IMAGES_A_SECOND * seconds;
      const { imagesPerSecond } = await loop.run({ lanes, images, warmUpSeconds: 0, seconds: limit });
      look();
      return Math.round(imagesPerSecond * limit);
    },
    stop: () => loop.stop(),
  };
}

async function serviceRunner(
  servers: Servers,
  frames: readonly Buffer[],
  imagesPerOrder: number,
  seconds: number,
): Promise<Runner> {
  const started = await service(servers, { imagesPerOrder }).start();
  const [running] = started.processes;
  if (running === undefined) throw new Error('the service has no process');
  await started.saturate(frames, { warmUpSeconds: WARM_UP_SECONDS - 1, seconds: 1 });
  running.pause();
  return {
    name: imagesPerOrder === 1 ? 'an order of its own' : `orders of ${imagesPerOrder}`,
    pid: running.pid,
    turn: (look) =>
      inTurn(started, async () => {
        const load = started.saturate(frames, { warmUpSeconds: TURN_WARM_UP_SECONDS, seconds: seconds + 1 });
        await sleep(TURN_WARM_UP_SECONDS * 1000);
        const before = await doneIn(started.place);
        look();
        await sleep(seconds * 1000);
        const after = await doneIn(started.place);
        look();
        await load;
        return after - before;
      }),
    stop: () => started.stop(),
  };
}
