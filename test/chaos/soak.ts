/**
 * `npm run soak`: many images through the whole system, and what its processes hold at the end that they did not hold before.
 *
 *     npm run soak                     20,000 images
 *     npm run soak -- --images 400
 *     npm run soak -- --queue postgres     jobs in PostgreSQL, as by default, instead of Redis
 *
 * Needs redis-server. Every quarter's figures are the medians of its samples; the first one warms up and is not judged.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import pg from 'pg';
import { drawImages } from './load.js';
import { backendOf, type System, startSystem } from './system.js';

const SAMPLES_A_QUARTER = 25;
const POSTERS = 4;
const IMAGES_AN_ORDER = 5;
const MOST_RSS_GROWTH = 0.05;
/** Connections and files come and go with requests. */
const MOST_HANDLE_GROWTH = 4;
const OUT = 'out/chaos';

/** By name: `api.rssMiB`, `worker-0.handles`, `postgres.connections` … */
type Sample = Readonly<Record<string, number>>;

const { values } = parseArgs({
  options: { images: { type: 'string', default: '20000' }, queue: { type: 'string', default: 'redis' } },
});
const queue = backendOf(values.queue);
const wanted = Number(values.images);
const say = (text: string): void => {
  process.stdout.write(`${text}\n`);
};

const images = await drawImages();
const system = await startSystem({ queue, spoilable: false });
let passed = false;
try {
  const database = new pg.Client({ connectionString: system.postgres.url() });
  await database.connect();
  const redis = system.redis === null ? null : new Redis(system.redis.url);
  const samples: { readonly done: number; readonly sample: Sample }[] = [];
  const begun = Date.now();
  let posted = 0;
  let done = 0;
  const post = async (): Promise<void> => {
    while (posted < wanted) {
      const count = Math.min(IMAGES_AN_ORDER, wanted - posted);
      const first = posted % images.length;
      posted += count;
      await order(Array.from({ length: count }, (_, n) => images[(first + n) % images.length] ?? Buffer.of()));
      done += count;
    }
  };
  const posting = Promise.all(Array.from({ length: POSTERS }, post));
  let over = false;
  const end = (): void => {
    over = true;
  };
  posting.then(end, end);
  const step = Math.max(1, Math.floor(wanted / (4 * SAMPLES_A_QUARTER)));
  for (let next = step; !over; ) {
    if (done >= next) {
      samples.push({ done, sample: await look(system, database, redis) });
      next = done + step;
    }
    await sleep(20);
  }
  await posting;
  const seconds = Math.round((Date.now() - begun) / 1000);
  const quarters = [0, 1, 2, 3].map((quarter) =>
    medians(
      samples.filter((one) => Math.min(3, Math.floor((4 * one.done) / wanted)) === quarter).map((one) => one.sample),
    ),
  );
  const rows = Object.keys(quarters[3] ?? {}).map((name) => {
    const figures = quarters.map((quarter) => quarter[name] ?? Number.NaN);
    const [, second = Number.NaN, , last = Number.NaN] = figures;
    const limit = name.endsWith('rssMiB') ? second * (1 + MOST_RSS_GROWTH) : second + MOST_HANDLE_GROWTH;
    return { name, figures, met: last <= limit };
  });
  passed = rows.every(({ met }) => met);
  say(`${done} images in ${seconds} s; medians of each quarter\n`);
  for (const { name, figures, met } of rows) {
    say(
      `${met ? 'met    ' : 'NOT MET'}  ${name.padEnd(24)}${figures.map((one) => one.toFixed(1).padStart(9)).join('')}`,
    );
  }
  mkdirSync(OUT, { recursive: true });
  writeFileSync(`${OUT}/soak.json`, `${JSON.stringify({ passed, images: done, seconds, rows, samples }, null, 2)}\n`);
  say(`\n${passed ? 'met' : 'NOT MET'} (${OUT}/soak.json)`);
  await database.end();
  redis?.disconnect();
} finally {
  await system.stop();
}
process.exit(passed ? 0 : 1);

/** Posts an order and waits for its result. */
async function order(fields: readonly Buffer[]): Promise<void> {
  const form = new FormData();
  form.append('micronsPerPixel', '0.2');
  form.append('callbackUrl', system.callbackUrl);
  for (const [n, bytes] of fields.entries()) form.append('images', new Blob([new Uint8Array(bytes)]), `${n}.png`);
  const response = await fetch(`${system.address}/analyze`, {
    method: 'POST',
    body: form,
    headers: { prefer: 'wait=60' },
  });
  const { status } = (await response.json()) as { status: string };
  if (response.status !== 200 || status !== 'completed')
    throw new Error(`an order was answered ${response.status} ${status}`);
}

async function look({ api, workers }: System, database: pg.Client, redis: Redis | null): Promise<Sample> {
  const sample: Record<string, number> = {};
  for (const one of [api, ...workers]) {
    const pid = one.pid();
    if (pid === undefined) throw new Error(`${one.name} has ended`);
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    sample[`${one.name}.rssMiB`] = Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) / 1024;
    sample[`${one.name}.threads`] = Number(/^Threads:\s+(\d+)/m.exec(status)?.[1]);
    sample[`${one.name}.handles`] = readdirSync(`/proc/${pid}/fd`).length;
  }
  const { rows } = await database.query<{ count: number }>(
    `SELECT count(*)::int AS count FROM pg_stat_activity WHERE backend_type = 'client backend'`,
  );
  sample['postgres.connections'] = rows[0]?.count ?? Number.NaN;
  if (redis !== null) {
    sample['redis.connections'] = String(await redis.client('LIST'))
      .trim()
      .split('\n').length;
  }
  return sample;
}

function medians(samples: readonly Sample[]): Sample {
  const names = Object.keys(samples[0] ?? {});
  return Object.fromEntries(
    names.map((name) => {
      const sorted = samples.map((sample) => sample[name] ?? Number.NaN).toSorted((a, b) => a - b);
      return [name, sorted[Math.floor(sorted.length / 2)] ?? Number.NaN];
    }),
  );
}
