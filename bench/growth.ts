/** Whether cost grows linearly: with the images of an analysis, and with the analyses in the tables. */
import { doneIn, inTurn, type Started, service } from './contestants.js';
import { Client, formOf, type Reads, readAgain, SHORT_WARM_UP_SECONDS, TURN_WARM_UP_SECONDS } from './load.js';
import type { Place, Servers } from './servers.js';
import { figure, median, quantile } from './statistics.js';

const SIZES = [1, 10, 100, 1000] as const;
/** Repeats, so that small analyses are measured over enough images too. */
const REPEATS: Readonly<Record<number, number>> = { 1: 20, 10: 5, 100: 2, 1000: 3 };
const ANALYSES = 100_000;
/** Of what is read: as many in either tables, and alike. */
const SINGLES = 100;
const ROUNDS = 10;
const ORDERS_A_TURN = 3;
/** Reads take longer to settle than orders do. */
const ROUNDS_OF_READS = 3;
const READERS = 8;

/** What a service with so many analyses in its tables took, round by round; those of the other belong to the same rounds. */
export interface Tables {
  readonly analyses: number;
  readonly databaseMb: number;
  readonly msOfTen: readonly number[];
  readonly readsPerSecond: readonly number[];
  readonly readsP99: readonly number[];
  readonly listMs: readonly number[];
}

export interface Growth {
  /** Milliseconds an image, from the order to its result, with images that cost the networks nothing. */
  readonly msPerImage: readonly { readonly images: number; readonly ms: number }[];
  /** With few analyses in its tables, and with many. */
  readonly tables: readonly Tables[];
}

export async function growth(servers: Servers, tiny: readonly Buffer[], say: (text: string) => void): Promise<Growth> {
  const msPerImage = await withSize(servers, tiny, say);
  const tables = await withTables(servers, tiny);
  for (const { analyses, msOfTen, readsPerSecond, listMs } of tables) {
    say(
      `${analyses} analyses in the tables: ten images ${figure(median(msOfTen))} ms, ${figure(median(readsPerSecond))} reads/s, list ${figure(median(listMs))} ms`,
    );
  }
  return { msPerImage, tables };
}

const start = (servers: Servers): Promise<Started> =>
  service(servers, { env: { MAX_IMAGES: '1000', MAX_QUEUE_DEPTH: '5000', MAX_WAIT_SECONDS: '600' } }).start();

async function withSize(
  servers: Servers,
  tiny: readonly Buffer[],
  say: (text: string) => void,
): Promise<Growth['msPerImage']> {
  const started = await start(servers);
  const client = new Client(started.target, 2);
  try {
    await warmUp(client, tiny);
    const msPerImage: { images: number; ms: number }[] = [];
    for (const images of SIZES) {
      const times: number[] = [];
      for (let n = 0; n < (REPEATS[images] ?? 1); n++) {
        const at = images === 1000 ? 0 : (n * images) % (tiny.length - images);
        times.push(await analyse(client, formOf(tiny.slice(at, at + images))));
      }
      msPerImage.push({ images, ms: quantile(times, 0.5) / images });
      say(`${images} images in an analysis: ${figure(quantile(times, 0.5) / images)} ms an image`);
    }
    return msPerImage;
  } finally {
    await client.close();
    await started.stop();
  }
}

/** Two services with tables of their own, by turns: from one minute to the next the machine varies more than they differ. */
async function withTables(servers: Servers, tiny: readonly Buffer[]): Promise<Tables[]> {
  const services: Started[] = [];
  try {
    const tried: Tried[] = [];
    for (const analyses of [0, ANALYSES]) {
      const started = await start(servers);
      services.push(started);
      const client = new Client(started.target, READERS);
      for (const field of tiny.slice(0, SINGLES)) await analyse(client, formOf([field]));
      if (analyses > 0) await fill(started.place, analyses);
      await warmUp(client, tiny);
      const paths = await pathsOfSingles(started.place);
      await readAgain(started.target, paths, { warmUpSeconds: SHORT_WARM_UP_SECONDS, seconds: 1 }, READERS);
      for (const one of started.processes) one.pause();
      tried.push({ started, client, paths, msOfTen: [], reads: [], listMs: [] });
    }
    for (let round = 0; round < ROUNDS; round++) {
      for (const one of tried) await inTurn(one.started, () => turn(one, tiny, round));
    }
    return await Promise.all(tried.map(asTables));
  } finally {
    for (const one of services) await one.stop();
  }
}

interface Tried {
  readonly started: Started;
  readonly client: Client;
  readonly paths: readonly string[];
  readonly msOfTen: number[];
  readonly reads: Reads[];
  readonly listMs: number[];
}

async function turn({ started, client, paths, msOfTen, reads, listMs }: Tried, tiny: readonly Buffer[], round: number) {
  // What waited for its turn has timers to catch up with.
  await analyse(client, formOf(tiny.slice(0, 10)));
  const times: number[] = [];
  for (let n = 0; n < ORDERS_A_TURN; n++) times.push(await analyse(client, formOf(tiny.slice(n * 10, n * 10 + 10))));
  msOfTen.push(median(times));
  if (round >= ROUNDS_OF_READS) return;
  reads.push(await readAgain(started.target, paths, { warmUpSeconds: TURN_WARM_UP_SECONDS, seconds: 3 }, READERS));
  const lists: number[] = [];
  for (let n = 0; n < 20; n++) lists.push((await client.get('/analyses?limit=50')).ms);
  listMs.push(median(lists));
}

async function asTables({ started: { place }, client, msOfTen, reads, listMs }: Tried): Promise<Tables> {
  await client.close();
  await doneIn(place);
  const [size] = await place.query<{ analyses: string; bytes: string }>(
    'SELECT (SELECT count(*) FROM analyses) AS analyses, pg_database_size(current_database()) AS bytes',
  );
  return {
    analyses: Number(size?.analyses),
    databaseMb: Number(size?.bytes) / 1e6,
    msOfTen,
    readsPerSecond: reads.map(({ perSecond }) => perSecond),
    readsP99: reads.map(({ p99 }) => p99),
    listMs,
  };
}

/** Code compiled, connections open, statements planned. */
async function warmUp(client: Client, tiny: readonly Buffer[]): Promise<void> {
  for (let n = 0; n < 10; n++) await analyse(client, formOf(tiny.slice(0, 10)));
}

async function pathsOfSingles(place: Place): Promise<string[]> {
  const rows = await place.query<{ id: string }>(
    `SELECT id FROM analyses WHERE status = 'completed' AND (SELECT count(*) FROM images WHERE analysis_id = id) = 1
      ORDER BY md5(id::text) LIMIT ${SINGLES}`,
  );
  return rows.map(({ id }) => `/analyses/${id}`);
}

/** Milliseconds from the order to its result. */
async function analyse(client: Client, form: Buffer): Promise<number> {
  const { status, ms, text } = await client.post(form, { prefer: 'wait=600' });
  if (status !== 200) throw new Error(`answered ${status}: ${text.slice(0, 500)}`);
  return ms;
}

/** So many copies of a finished analysis with one image, a second apart into the past. */
async function fill(place: Place, analyses: number): Promise<void> {
  await place.query(
    `CREATE TEMPORARY TABLE copies AS
       SELECT at, (substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7' || substr(noise, 1, 3) || '-8' || substr(noise, 4, 3)
              || '-' || substr(noise, 7, 12))::uuid AS id
         FROM (SELECT at, lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS ms, md5(n::text) AS noise
                 FROM (SELECT n, now() - n * interval '1 second' AS at FROM generate_series(1, $1::int) AS n) AS times) AS parts`,
    [analyses],
  );
  const [model] = await place.query<{ id: string }>(
    `SELECT id FROM analyses WHERE status = 'completed' AND (SELECT count(*) FROM images WHERE analysis_id = id) = 1 LIMIT 1`,
  );
  if (model === undefined) throw new Error('no finished analysis to copy');
  for (const table of ['analyses', 'images', 'image_files', 'image_saliency', 'cells', 'differential_rows']) {
    const columns = await place.query<{ name: string }>(
      `SELECT column_name AS name FROM information_schema.columns WHERE table_name = $1 AND table_schema = 'public'`,
      [table],
    );
    const key = table === 'analyses' ? 'id' : 'analysis_id';
    const value = ({ name }: { name: string }): string =>
      name === key ? 'copies.id' : name === 'created_at' ? 'copies.at' : `one."${name}"`;
    await place.query(
      `INSERT INTO ${table} (${columns.map(({ name }) => `"${name}"`).join(', ')})
         SELECT ${columns.map(value).join(', ')} FROM ${table} AS one CROSS JOIN copies WHERE one.${key} = $1`,
      [model.id],
    );
  }
  // What autovacuum and the next checkpoint do within minutes: else they do it while something is measured.
  await place.query('VACUUM (ANALYZE)');
  await place.query('CHECKPOINT');
}
