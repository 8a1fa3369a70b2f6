/** What is removed before its analysis is, and that nothing stays behind. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sweep } from '../../../src/jobs/sweep.js';
import { createMetrics } from '../../../src/observability/metrics.js';
import type { AuditEntry } from '../../../src/storage/audit.js';
import { removeUnreferencedObjects } from '../../../src/storage/image-objects.js';
import { SILENT } from '../../support/database.js';
import { KEEP_ALL } from '../../support/retention.js';
import { expectContract } from './contract.js';
import { blob, finish, type Harness, picture, post, startHarness } from './harness.js';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.close());

async function posted(end = true): Promise<string> {
  const response = await post(harness.app, [
    ['images', blob(await picture('png')), 'a.png'],
    ['callbackUrl', 'https://1.1.1.1/hook'],
  ]);
  const { id } = response.json<{ id: string }>();
  if (end) await finish(harness, id, { images: 1 });
  return id;
}

const remove = (url: string) => harness.app.inject({ method: 'DELETE', url });

async function statuses(id: string): Promise<Record<string, number>> {
  const paths = [
    '',
    '/cells',
    '/images/0/original',
    '/images/0/overlay.png',
    '/images/0/mask.png',
    '/images/0/saliency.png',
    '/cells/0-0/crop.png',
    '/cells/0-0/mask.png',
    '/cells/0-0/cam.png',
  ];
  const entries = paths.map(async (path) => {
    const response = await harness.app.inject(`/analyses/${id}${path}`);
    if (response.statusCode === 410) {
      const pattern = `/analyses/{id}${path.replace('/images/0', '/images/{index}').replace('/0-0', '/{cellId}')}`;
      expectContract(harness.app, response, 'get', pattern);
    }
    return [path, response.statusCode] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}

const WHOLE = {
  '': 200,
  '/cells': 200,
  '/images/0/original': 200,
  '/images/0/overlay.png': 200,
  '/images/0/mask.png': 200,
  '/images/0/saliency.png': 200,
  '/cells/0-0/crop.png': 200,
  '/cells/0-0/mask.png': 200,
  '/cells/0-0/cam.png': 200,
};
const WITHOUT_IMAGES = { ...WHOLE, '/images/0/original': 410, '/images/0/overlay.png': 410 };
const WITHOUT_MASKS = {
  ...Object.fromEntries(Object.keys(WHOLE).map((path) => [path, 410])),
  '': 200,
  '/cells': 200,
  '/images/0/original': 200,
};

/**
 * Rows that name an analysis, in every table of the service and of the queue, but for the audit trail and the queue's list
 * of its last thousand events, which are ids alone.
 */
async function rowsOf(id: string): Promise<string[]> {
  const { pool } = harness.database;
  const { rows: tables } = await pool.query<{ name: string }>(
    `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
      WHERE schemaname IN ('public', 'bullmq') AND tablename NOT IN ('audit_entries', 'event')`,
  );
  expect(tables.length).toBeGreaterThan(10);
  const found: string[] = [];
  for (const { name } of tables) {
    const { rows } = await pool.query(`SELECT FROM ${name} AS one WHERE one::text LIKE $1`, [`%${id}%`]);
    if (rows.length > 0) found.push(name);
  }
  return found;
}

describe('on request', () => {
  it('images go, and the result stays', async () => {
    const id = await posted();
    expect(await statuses(id)).toEqual(WHOLE);
    const response = await remove(`/analyses/${id}/images`);
    expectContract(harness.app, response, 'delete', '/analyses/{id}/images');
    expect(response.statusCode).toBe(204);
    expect(await statuses(id)).toEqual(WITHOUT_IMAGES);
    expect((await remove(`/analyses/${id}/images`)).statusCode).toBe(204);
  });

  it('pictures of the result go, and its numbers stay', async () => {
    const id = await posted();
    const response = await remove(`/analyses/${id}/masks`);
    expectContract(harness.app, response, 'delete', '/analyses/{id}/masks');
    expect(await statuses(id)).toEqual(WITHOUT_MASKS);
  });

  it('nothing goes that a running analysis needs', async () => {
    const id = await posted(false);
    for (const part of ['images', 'masks']) {
      const response = await remove(`/analyses/${id}/${part}`);
      expect(response.statusCode).toBe(409);
      expectContract(harness.app, response, 'delete', `/analyses/{id}/${part}`);
    }
    await finish(harness, id, { images: 1 });
    expect(await statuses(id)).toEqual(WHOLE);
  });

  it('the analysis goes with all that belongs to it', async () => {
    const ended = await posted();
    const running = await posted(false);
    expect((await rowsOf(ended)).length).toBeGreaterThan(6);
    for (const id of [ended, running]) {
      expect((await remove(`/analyses/${id}`)).statusCode).toBe(204);
      await removeUnreferencedObjects(harness.database);
      expect(await rowsOf(id)).toEqual([]);
    }
    expect(await harness.spooled()).toEqual([]);
  });
});

describe('by age', () => {
  const clean = (config: Partial<Parameters<typeof sweep>[0]['config']>) =>
    sweep({
      db: harness.database,
      queues: harness.queues,
      metrics: createMetrics({ version: 'test' }),
      log: SILENT,
      publicUrl: undefined,
      config: { ...KEEP_ALL, maxAnalysisAgeMinutes: 10_000_000, ...config },
    });

  it('images, masks and results go each in their time, and the trail tells', async () => {
    const ages = { fresh: 0, noImages: 10, noMasks: 40, gone: 100 };
    const ids = Object.fromEntries(
      await Promise.all(
        Object.entries(ages).map(async ([name, days]) => {
          const id = await posted();
          await harness.database.pool.query(
            `UPDATE analyses SET created_at = now() - $2 * interval '1 day' WHERE id = $1`,
            [id, days],
          );
          return [name, id] as const;
        }),
      ),
    ) as Record<keyof typeof ages, string>;
    const rules = { retentionImagesDays: 7, retentionMasksDays: 30, retentionDays: 90 };
    expect(await clean(rules)).toMatchObject({ removed: 1, thinned: 3 });
    expect(await statuses(ids.fresh)).toEqual(WHOLE);
    expect(await statuses(ids.noImages)).toEqual(WITHOUT_IMAGES);
    expect(await statuses(ids.noMasks)).toEqual({ ...WITHOUT_MASKS, '/images/0/original': 410 });
    expect(Object.values(await statuses(ids.gone)).every((status) => status === 404)).toBe(true);
    expect(await rowsOf(ids.gone)).toEqual([]);
    expect(await clean(rules)).toMatchObject({ removed: 0, thinned: 0 });

    const { items } = (await harness.app.inject(`/audit?subjectId=${ids.noMasks}`)).json<{ items: AuditEntry[] }>();
    const own = items.filter(({ actorKind }) => actorKind === 'system').map(({ operation }) => operation);
    expect(own.sort()).toEqual(['removeImagesByAge', 'removeMasksByAge']);
  });
});
