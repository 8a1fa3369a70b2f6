/** Whether cost grows linearly: with the images of an analysis, and with the analyses in the tables. */
import { doneIn, service } from './contestants.js';
import { Client, formOf, type Reads, readAgain, SHORT_WARM_UP_SECONDS, type Target } from './load.js';
import type { Place, Servers } from './servers.js';
import { figure, quantile } from './statistics.js';

const SIZES = [1, 10, 100, 1000] as const;
/** Repeats, so that small analyses are measured over enough images too. */
const REPEATS: Readonly<Record<number, number>> = { 1: 20, 10: 5, 100: 2, 1000: 3 };
const ANALYSES = 100_000;
const READERS = 8;

export interface Growth {
  /** Milliseconds an image, from the order to its result, with images that cost the networks nothing. */
  readonly msPerImage: readonly { readonly images: number; readonly ms: number }[];
  /** The same service with few analyses in its tables, and with many. */
  readonly tables: readonly {
    readonly analyses: number;
    readonly msOfTen: number;
    readonly readsPerSecond: number;
    readonly readsP99: number;
    readonly listP50: number;
    readonly databaseMb: number;
  }[];
}

export async function growth(servers: Servers, tiny: readonly Buffer[], say: (text: string) => void): Promise<Growth> {
  const started = await service(servers, {
    env: {
      MAX_IMAGES: '1000',
      MAX_QUEUE_DEPTH: '5000',
      MAX_WAIT_SECONDS: '600',
    },
  }).start();
  const { target, place } = started;
  try {
    const client = new Client(target, 2);
    // Warm: code compiled, connections open, statements planned.
    for (let n = 0; n < 5; n++) await analyse(client, formOf(tiny.slice(0, 10)));
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
    const tables = [await look(target, place, client, tiny)];
    await fill(place);
    tables.push(await look(target, place, client, tiny));
    for (const { analyses, msOfTen, readsPerSecond, listP50 } of tables) {
      say(
        `${analyses} analyses in the tables: ten images ${figure(msOfTen)} ms, ${figure(readsPerSecond)} reads/s, list ${figure(listP50)} ms`,
      );
    }
    await client.close();
    return { msPerImage, tables };
  } finally {
    await started.stop();
  }
}

/** Milliseconds from the order to its result. */
async function analyse(client: Client, form: Buffer): Promise<number> {
  const { status, ms, text } = await client.post(form, { prefer: 'wait=600' });
  if (status !== 200) throw new Error(`answered ${status}: ${text.slice(0, 500)}`);
  return ms;
}

async function look(
  target: Target,
  place: Place,
  client: Client,
  tiny: readonly Buffer[],
): Promise<Growth['tables'][number]> {
  const times: number[] = [];
  for (let n = 0; n < 10; n++) times.push(await analyse(client, formOf(tiny.slice(n * 10, n * 10 + 10))));
  const rows = await place.query<{ id: string }>('SELECT id FROM analyses ORDER BY md5(id::text) LIMIT 200');
  const reads: Reads = await readAgain(
    target,
    rows.map(({ id }) => `/analyses/${id}`),
    { warmUpSeconds: SHORT_WARM_UP_SECONDS, seconds: 2 },
    READERS,
  );
  const lists: number[] = [];
  for (let n = 0; n < 20; n++) lists.push((await client.get('/analyses?limit=50')).ms);
  const [size] = await place.query<{ analyses: string; bytes: string }>(
    'SELECT (SELECT count(*) FROM analyses) AS analyses, pg_database_size(current_database()) AS bytes',
  );
  await doneIn(place);
  return {
    analyses: Number(size?.analyses),
    msOfTen: quantile(times, 0.5),
    readsPerSecond: reads.perSecond,
    readsP99: reads.p99,
    listP50: quantile(lists, 0.5),
    databaseMb: Number(size?.bytes) / 1e6,
  };
}

/** Copies of a finished analysis with ten images, a second apart into the past, until there are 10^5. */
async function fill(place: Place): Promise<void> {
  await place.query(
    `CREATE TEMPORARY TABLE copies AS
       SELECT at, (substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7' || substr(noise, 1, 3) || '-8' || substr(noise, 4, 3)
              || '-' || substr(noise, 7, 12))::uuid AS id
         FROM (SELECT at, lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') AS ms, md5(n::text) AS noise
                 FROM (SELECT n, now() - n * interval '1 second' AS at FROM generate_series(1, $1::int) AS n) AS times) AS parts`,
    [ANALYSES],
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
  // What autovacuum would do within a minute.
  await place.query('ANALYZE');
}
