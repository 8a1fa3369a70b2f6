/**
 * `npm run chaos`: faults at random points while orders come in, then the invariant.
 *
 *     npm run chaos                         220 faults, a quarter of an hour on an idle machine
 *     npm run chaos -- --short              12 faults
 *     npm run chaos -- --queue postgres     jobs in PostgreSQL, as by default, instead of Redis
 *     npm run chaos -- --seed 7 --faults 40
 *     npm run chaos -- --only 'disk|clock'  those alone whose name fits
 *
 * Needs redis-server and libfaketime (apt-get install redis-server faketime) and root, to mount disks that can be filled.
 * The seed decides which faults come, in which order, how long each lasts and when; what they meet is up to the machine.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { createRandom } from '../support/random.js';
import { FAULTS, type Fault, shuffled } from './faults.js';
import { check, notes, settle } from './invariant.js';
import { drawImages, startLoad } from './load.js';
import { backendOf, startSystem } from './system.js';

const READY_WITHIN_MS = 30_000;
/** Every eighth fault is held for longer than a job's lock and its renewal live. */
const LONG_HOLD_EVERY = 8;
const LONG_HOLD_MS = 18_000;
const OUT = 'out/chaos';

const { values } = parseArgs({
  options: {
    short: { type: 'boolean', default: false },
    queue: { type: 'string', default: 'redis' },
    seed: { type: 'string' },
    faults: { type: 'string' },
    only: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
});
const queue = backendOf(values.queue);
const seed = Number(values.seed ?? (values.short ? 1 : Math.floor(Math.random() * 1_000_000)));
const wanted = Number(values.faults ?? (values.short ? 12 : 220));
const limitMs = values.short ? 40_000 : 35 * 60_000;
const random = createRandom(seed);
// Of its own: how often the load draws depends on the machine, and must not change which faults come.
const randomOfLoad = createRandom(seed + 1);
const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

interface Happened {
  readonly fault: string;
  readonly heldMs: number;
  /** From its end until API and workers were ready; null: not within READY_WITHIN_MS. */
  readonly readyMs: number | null;
}

say(`seed ${seed}, queue on ${queue}`);
const begun = Date.now();
const images = await drawImages();
const system = await startSystem({ queue });
const happened: Happened[] = [];
let passed = false;
try {
  const load = startLoad(system, images, randomOfLoad, () => new Set(notes(system).map((note) => note.id)).size);
  await sleep(2_000);
  const from = Date.now();
  for (const fault of sequence()) {
    if (happened.length >= wanted || Date.now() - from > limitMs) break;
    happened.push(await cause(fault));
  }
  await load.finish();
  const { settled, hurried } = await settle(system, values.short ? 150_000 : 300_000);
  // What ended last may still be on its way out of the queue.
  await sleep(3_000);
  const late = happened.filter(({ readyMs }) => readyMs === null);
  const checks = [
    ...(await check(system, load.orders)),
    {
      name: 'ready within 30 s after every fault',
      met: late.length === 0,
      found:
        late.length === 0
          ? `slowest ${Math.max(0, ...happened.map(({ readyMs }) => readyMs ?? 0))} ms`
          : late.map(({ fault }) => fault).join(', '),
    },
    { name: 'everything has ended', met: settled, found: `${hurried} deliveries were hurried` },
    ...(values.short || values.only !== undefined || values.faults !== undefined
      ? []
      : [{ name: 'at least 200 faults', met: happened.length >= 200, found: String(happened.length) }]),
  ];
  passed = checks.every(({ met }) => met);
  const arrived = notes(system);
  const report = {
    ...{ seed, queue, passed, seconds: Math.round((Date.now() - begun) / 1000), checks },
    faults: happened,
    orders: load.orders.length,
    sentAgain: load.orders.filter(({ tries }) => tries > 1).length,
    answers: Object.fromEntries(load.answers),
    arrivals: arrived.length,
    arrivedAgain: arrived.length - new Set(arrived.map(({ id }) => id)).size,
    ends: Object.fromEntries(
      [system.api, ...system.workers, ...(system.redis === null ? [] : [system.redis.server]), system.lis]
        .map((one): [string, number] => [one.name, one.ends()])
        .concat([['postgres', system.postgres.ends()]]),
    ),
  };
  mkdirSync(OUT, { recursive: true });
  const file = join(OUT, `${values.short ? 'short' : 'report'}-${queue}.json`);
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
  say(
    `\n${happened.length} faults, ${report.orders} orders (${report.sentAgain} sent again), ${report.arrivals} webhooks (${report.arrivedAgain} arrived again), ${report.seconds} s`,
  );
  for (const { name, met, found } of checks) say(`${met ? 'met    ' : 'NOT MET'}  ${name}: ${found}`);
  say(`\n${passed ? 'met' : 'NOT MET'} (seed ${seed}, ${file})`);
} finally {
  if (values.keep) say(`left: ${system.folder}`);
  await system.stop(values.keep);
}
process.exit(passed ? 0 : 1);

function* sequence(): Generator<Fault> {
  const fits = new RegExp(values.only ?? '');
  const fitting = FAULTS[queue].filter(({ name }) => fits.test(name));
  if (fitting.length === 0) throw new Error(`no fault fits --only ${values.only}`);
  for (;;) yield* shuffled(fitting, random);
}

async function cause(fault: Fault): Promise<Happened> {
  await sleep(random.integer(0, 1_200));
  const long = !values.short && happened.length % LONG_HOLD_EVERY === LONG_HOLD_EVERY - 1;
  const heldMs = long ? LONG_HOLD_MS : random.integer(200, 2_500);
  await fault.happen(system, heldMs);
  const end = Date.now();
  let readyMs: number | null = null;
  // A process that was killed has to be seen ended first.
  await sleep(50);
  while (readyMs === null && Date.now() - end < READY_WITHIN_MS) {
    if (await system.ready()) readyMs = Date.now() - end;
    else await sleep(100);
  }
  say(
    `${String(happened.length + 1).padStart(3)}  ${fault.name.padEnd(36)} ${readyMs === null ? 'NOT READY IN TIME' : `ready after ${readyMs} ms`}`,
  );
  return { fault: fault.name, heldMs, readyMs };
}
