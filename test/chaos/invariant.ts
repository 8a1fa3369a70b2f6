/**
 * What must hold when everything works again: every order that was answered 202 has exactly one result and one sequence of
 * deliveries, nothing is lost, nothing is there twice, and no job is left.
 */
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { pino } from 'pino';
import { openQueues, type Queues } from '../../src/jobs/queues.js';
import { messageIdOf } from '../../src/storage/delivery-log.js';
import type { Order } from './load.js';
import type { System } from './system.js';

export interface Check {
  readonly name: string;
  readonly met: boolean;
  readonly found: string;
}

interface Note {
  readonly id: string;
  readonly type: string;
  readonly analysis: string;
  readonly sha256: string;
}

/** What the LIS noted; the last line may have been cut off with its process. */
export function notes(system: System): Note[] {
  if (!existsSync(system.received)) return [];
  return readFileSync(system.received, 'utf8')
    .split('\n')
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line) as Note);
}

const OPEN_ANALYSES = `SELECT count(*)::int AS open FROM analyses WHERE status IN ('queued', 'processing')`;
const OPEN_DELIVERIES = `SELECT count(*)::int AS open FROM deliveries WHERE status = 'pending'`;

/** Not under way: no claim, or one so old that the attempt it was for has timed out. */
const HURRY = `UPDATE deliveries SET next_attempt_at = now(), claimed_until = NULL
  WHERE status = 'pending' AND (claimed_until IS NULL OR claimed_until < now() + interval '19 seconds') RETURNING id`;
const HURRY_EVERY_MS = 4_000;

/**
 * Waits for the end of every analysis and delivery. Receivers that failed are called again after minutes and hours, and what a
 * killed worker was delivering when its claim lapses: these waits are shortened here.
 */
export async function settle(system: System, patienceMs: number): Promise<{ settled: boolean; hurried: number }> {
  const deadline = Date.now() + patienceMs;
  let hurried = 0;
  const client = await connect(system);
  const queues = await openSystemQueues(system);
  try {
    while (Date.now() < deadline) {
      const open = await one(client, OPEN_ANALYSES);
      const pending = await one(client, OPEN_DELIVERIES);
      if (open + pending === 0) return { settled: true, hurried };
      const { rows } = await client.query<{ id: string }>(HURRY);
      for (const { id } of rows) await queues.addDelivery(id, { again: true });
      hurried += rows.length;
      await sleep(HURRY_EVERY_MS);
    }
    return { settled: false, hurried };
  } finally {
    await client.end();
    await queues.close();
  }
}

export async function check(system: System, orders: readonly Order[]): Promise<Check[]> {
  const client = await connect(system);
  const queues = await openSystemQueues(system);
  const checks: Check[] = [];
  const must = (name: string, wrong: readonly string[], of: number): void => {
    const found = wrong.length === 0 ? `all ${of}` : `${wrong.length} of ${of}: ${wrong.slice(0, 5).join('; ')}`;
    checks.push({ name, met: wrong.length === 0, found });
  };
  try {
    const { rows: analyses } = await client.query<{
      id: string;
      accession: string;
      status: string;
      ended: boolean;
      problem: string | null;
    }>(
      `SELECT id, accession_number AS accession, status, problem->>'code' AS problem,
              completed_at IS NOT NULL AND result->>'status' = status::text AS ended FROM analyses`,
    );
    const byId = new Map(analyses.map((analysis) => [analysis.id, analysis]));
    const accepted = orders.flatMap(({ id }) => (id === undefined ? [] : [id]));
    must(
      'every 202 ends in one result',
      accepted.filter((id) => byId.get(id)?.ended !== true).map((id) => `${id} ${byId.get(id)?.status ?? 'is lost'}`),
      accepted.length,
    );
    const perOrder = new Map<string, number>();
    for (const { accession } of analyses) perOrder.set(accession, (perOrder.get(accession) ?? 0) + 1);
    must(
      'no order is there twice',
      [...perOrder].filter(([, count]) => count > 1).map(([accession, count]) => `${accession} ${count} times`),
      perOrder.size,
    );
    must(
      'no image fails but for runs that were cut off again and again',
      analyses
        .filter(({ problem }) => problem !== null && problem !== 'image-interrupted')
        .map(({ problem }) => `${problem}`),
      analyses.length,
    );
    checks.push(await cellsOnce(client));
    checks.push(await sameCells(client));
    await deliveriesOnce(client, system, analyses, must);
    const counts = Object.entries(await queues.counts());
    must(
      'no job is stuck',
      counts.flatMap(([queue, states]) =>
        ['active', 'waiting', 'prioritized', 'waiting-children', 'delayed', 'paused']
          // A delivery that was hurried leaves the job that would have reminded of it.
          .filter((state) => (states[state] ?? 0) > 0 && !(state === 'delayed' && queue.includes('deliveries')))
          .map((state) => `${states[state]} ${state} in ${queue}`),
      ),
      counts.length,
    );
  } finally {
    await client.end();
    await queues.close();
  }
  return checks;
}

/** Each cell is stored once, with one raster and one score, and the image counts them right. */
async function cellsOnce(client: pg.Client): Promise<Check> {
  const { rows } = await client.query<{ wrong: number; images: number }>(
    `SELECT count(*)::int AS images, count(*) FILTER (WHERE i.status = 'completed' AND (
              i.cell_count IS DISTINCT FROM c.cells OR c.highest IS DISTINCT FROM c.cells
              OR c.rasters <> c.cells OR c.scores <> c.cells))::int AS wrong
       FROM images i LEFT JOIN LATERAL (
         SELECT count(*)::int AS cells, coalesce(max(number) + 1, 0) AS highest,
                (SELECT count(*)::int FROM cell_rasters r
                  WHERE r.analysis_id = i.analysis_id AND r.image_index = i.index) AS rasters,
                (SELECT count(*)::int FROM consistency_scores s
                  WHERE s.analysis_id = i.analysis_id AND s.image_index = i.index) AS scores
           FROM cells WHERE analysis_id = i.analysis_id AND image_index = i.index) AS c ON true`,
  );
  const { wrong = 0, images = 0 } = rows[0] ?? {};
  return {
    name: 'cells are stored once',
    met: wrong === 0,
    found: wrong === 0 ? `all ${images} images` : `${wrong} of ${images} images wrong`,
  };
}

/** The same bytes gave the same cells, however often a run was cut off. */
async function sameCells(client: pg.Client): Promise<Check> {
  const { rows } = await client.query<{ kinds: number; pictures: number }>(
    `SELECT count(*)::int AS pictures, coalesce(max(kinds), 0)::int AS kinds FROM (
       SELECT sha256, count(DISTINCT found) AS kinds FROM (
         SELECT i.sha256, i.analysis_id, i.index,
                string_agg(c.class || ' ' || c.box_x || ' ' || c.box_y, ',' ORDER BY c.number) AS found
           FROM images i LEFT JOIN cells c ON c.analysis_id = i.analysis_id AND c.image_index = i.index
          WHERE i.status = 'completed' GROUP BY 1, 2, 3) AS image GROUP BY sha256) AS picture`,
  );
  const { kinds = 0, pictures = 0 } = rows[0] ?? {};
  return { name: 'the same picture gives the same cells', met: kinds <= 1, found: `${pictures} pictures` };
}

/** One event for each end, recorded once, arrived at least once, always under its id and with the same bytes. */
async function deliveriesOnce(
  client: pg.Client,
  system: System,
  analyses: readonly { readonly id: string }[],
  must: (name: string, wrong: readonly string[], of: number) => void,
): Promise<void> {
  const { rows } = await client.query<{ id: string; analysis: string; type: string; status: string }>(
    'SELECT id, analysis_id AS analysis, event_type AS type, status FROM deliveries',
  );
  const arrived = groupBy(notes(system), (note) => note.id);
  const ofAnalysis = groupBy(rows, (row) => row.analysis);
  must(
    'every end is recorded as one event',
    analyses
      .filter(({ id }) => ofAnalysis.get(id)?.length !== 1)
      .map(({ id }) => `${id} ${ofAnalysis.get(id)?.length ?? 0}`),
    analyses.length,
  );
  must(
    'every event arrived, always under the same id with the same bytes',
    rows
      .filter(({ id, analysis, type, status }) => {
        const received = arrived.get(messageIdOf(id)) ?? [];
        const same = new Set(received.map((note) => `${note.analysis} ${note.type} ${note.sha256}`));
        const [first] = received;
        return status !== 'delivered' || same.size !== 1 || first?.analysis !== analysis || first.type !== type;
      })
      .map(({ id, status }) => `${id} ${status}, arrived ${arrived.get(messageIdOf(id))?.length ?? 0} times`),
    rows.length,
  );
  const known = new Set(rows.map(({ id }) => messageIdOf(id)));
  must(
    'nothing arrived that is not recorded',
    [...arrived.keys()].filter((id) => !known.has(id)),
    arrived.size,
  );
}

async function connect(system: System): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: system.postgres.url() });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

function openSystemQueues({ redis, postgres }: System): Promise<Queues> {
  return openQueues({ redisUrl: redis?.url, databaseUrl: postgres.url(), log: pino({ level: 'silent' }) });
}

async function one(client: pg.Client, statement: string): Promise<number> {
  return (await client.query<{ open: number }>(statement)).rows[0]?.open ?? 0;
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(keyOf(item));
    if (group === undefined) groups.set(keyOf(item), [item]);
    else group.push(item);
  }
  return groups;
}
