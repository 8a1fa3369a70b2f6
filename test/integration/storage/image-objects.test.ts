/** Images in S3-compatible storage: a real server, taken away in the middle. */
import { randomBytes } from 'node:crypto';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, inject, it, vi } from 'vitest';
import { sweep } from '../../../src/jobs/sweep.js';
import { createMetrics } from '../../../src/observability/metrics.js';
import { createAnalysis, deleteAnalysis } from '../../../src/storage/analyses.js';
import type { Database } from '../../../src/storage/database.js';
import { removeUnreferencedObjects } from '../../../src/storage/image-objects.js';
import { getImageFile, readImageBytes } from '../../../src/storage/images.js';
import { type ObjectStore, ObjectStoreError } from '../../../src/storage/object-store.js';
import { openS3 } from '../../../src/storage/s3.js';
import { openTestDatabase, openTestQueues, type TestDatabase } from '../../support/database.js';
import { openTestObjectStore } from '../../support/object-store.js';
import { KEEP_ALL } from '../../support/retention.js';
import { type S3Server, startS3Server } from '../../support/s3-server.js';
import { analyzeRequest, startHarness } from '../http/harness.js';

let s3: S3Server;
let store: ObjectStore;
let test: TestDatabase;
let db: Database;

beforeEach(async () => {
  s3 = await startS3Server();
  store = openTestObjectStore(s3.url);
  test = await openTestDatabase({ store, writable: true });
  db = test.database;
});
afterEach(async () => {
  await test.close();
  await s3.close();
});

const image = (bytes: Uint8Array | (() => Promise<Uint8Array>)) => ({
  filename: 'a.png',
  contentType: 'image/png',
  sha256: 'a'.repeat(64),
  bytes,
});
const create = async (...images: Parameters<typeof image>[0][]) =>
  (await createAnalysis(db, 'default', { images: images.map(image) })).id;
const unreferenced = async () =>
  (await db.pool.query<{ key: string }>('SELECT key FROM unreferenced_objects ORDER BY key')).rows.map(
    ({ key }) => key,
  );
/** As if the grace of an upload had passed. */
const letAnHourPass = () => db.pool.query(`UPDATE unreferenced_objects SET due_at = due_at - interval '1 hour'`);

describe('images in S3', () => {
  it('come back to the byte, and PostgreSQL holds none of them', async () => {
    const large = randomBytes(9 * 1024 * 1024 + 1);
    const id = await create(Buffer.from('first'), large, Buffer.alloc(0));
    expect((await readImageBytes(db, id, 0))?.toString()).toBe('first');
    expect((await readImageBytes(db, id, 1))?.equals(large)).toBe(true);
    expect((await readImageBytes(db, id, 2))?.length).toBe(0);
    expect((await getImageFile(db, 'default', id, 0))?.bytes.toString()).toBe('first');
    expect(await getImageFile(db, 'another', id, 0)).toBeNull();
    expect(await db.prisma.imageFile.count({ where: { bytes: { not: null } } })).toBe(0);
    expect(await unreferenced()).toEqual([]);
  });

  it('go with their analysis, and leave no orphan', async () => {
    const id = await create(Buffer.from('a'), Buffer.from('b'));
    const other = await create(Buffer.from('c'));
    expect(await removeUnreferencedObjects(db)).toBe(0);
    await deleteAnalysis(db, 'default', id);
    expect(await unreferenced()).toEqual([`${id}/0`, `${id}/1`]);
    expect(await removeUnreferencedObjects(db)).toBe(2);
    expect([await store.get(`${id}/0`), await store.get(`${id}/1`), await unreferenced()]).toEqual([null, null, []]);
    expect((await readImageBytes(db, other, 0))?.toString()).toBe('c');
  });

  it('are removed when their order was never stored, but not while it may still be', async () => {
    let uploaded = '';
    // So large that they do not go in one batch, which is read whole before it is uploaded.
    const [large, second] = [Buffer.alloc(1 << 20, 'a'), Buffer.alloc(1 << 20, 'b')];
    const failing = create(large, second, async () => {
      // A second connection sees what a crash here would leave.
      uploaded = (await db.pool.query<{ key: string }>('SELECT key FROM unreferenced_objects')).rows[0]?.key ?? '';
      throw new Error('the spool is gone');
    });
    await expect(failing).rejects.toThrow('the spool is gone');
    expect(uploaded).toMatch(/\/0$/);
    expect((await store.get(uploaded))?.equals(large)).toBe(true);
    expect(await removeUnreferencedObjects(db)).toBe(0);
    await letAnHourPass();
    expect(await removeUnreferencedObjects(db)).toBe(1);
    expect(await store.get(uploaded)).toBeNull();
  });

  it('stay where they are when the setting changes', async () => {
    const inS3 = await create(Buffer.from('s3'));
    const open = (objects: Database['objects']): Database => ({ ...db, objects });
    const back = open({ store, writable: false });
    const { id: inPostgres } = await createAnalysis(back, 'default', { images: [image(Buffer.from('postgres'))] });
    for (const each of [db, back]) {
      expect((await readImageBytes(each, inS3, 0))?.toString()).toBe('s3');
      expect((await readImageBytes(each, inPostgres, 0))?.toString()).toBe('postgres');
    }
    await expect(readImageBytes(open(null), inS3, 0)).rejects.toThrow(/S3_BUCKET is not set/);
  });

  it('come and go while the clock is set forward and back', async () => {
    // The run's server: its process keeps the right time.
    const elsewhere = openTestObjectStore(inject('s3Url'));
    const clocks = { 'an hour ahead': 3_600_000, right: 0, 'an hour behind': -3_600_000 };
    try {
      for (const clock of ['right', 'an hour ahead', 'right', 'an hour behind', 'right'] as const) {
        vi.useRealTimers();
        vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + clocks[clock] });
        await elsewhere.put('clock', Buffer.from(clock));
        expect((await elsewhere.get('clock'))?.toString()).toBe(clock);
      }
      await elsewhere.remove(['clock']);
    } finally {
      vi.useRealTimers();
      elsewhere.close();
    }
  });

  it('hold up neither orders nor the sweep of a store that is away', async () => {
    const id = await create(Buffer.from('a'));
    const gone = await create(Buffer.from('b'));
    await deleteAnalysis(db, 'default', gone);
    await s3.stop();
    await expect(store.ping()).rejects.toThrow(ObjectStoreError);
    await expect(create(Buffer.from('c'))).rejects.toThrow(ObjectStoreError);
    expect(await db.prisma.analysis.count()).toBe(1);
    await expect(readImageBytes(db, id, 0)).rejects.toThrow(ObjectStoreError);
    const log = pino({ level: 'silent' });
    const queues = await openTestQueues(db);
    const deps = { db, queues, log, metrics: createMetrics({ version: 'test' }), publicUrl: undefined };
    const config = { ...KEEP_ALL, maxAnalysisAgeMinutes: 60 };
    expect(await sweep({ ...deps, config }, { graceMs: 0 })).toMatchObject({ reenqueued: 1 });
    expect(await unreferenced()).toContain(`${gone}/0`);
    await s3.start();
    await letAnHourPass();
    await sweep({ ...deps, config });
    await queues.close();
    expect(await unreferenced()).toEqual([]);
    expect(await store.get(`${gone}/0`)).toBeNull();
    expect((await readImageBytes(db, id, 0))?.toString()).toBe('a');
  });

  it('answer 503 over HTTP while the store is away', async () => {
    const harness = await startHarness({}, { ...test, close: async () => undefined });
    const order = await analyzeRequest([['images', new Blob([PNG]), 'a.png']]);
    const { id } = (await harness.app.inject(order)).json<{ id: string }>();
    const original = { method: 'GET', url: `/analyses/${id}/images/0/original` } as const;
    expect((await harness.app.inject(original)).rawPayload.equals(PNG)).toBe(true);
    await s3.stop();
    for (const request of [order, original]) {
      const response = await harness.app.inject(request);
      expect([response.statusCode, response.headers['retry-after']]).toEqual([503, '5']);
      expect(response.json()).toMatchObject({ type: 'https://leukodiff.dev/problems/image-storage-unavailable' });
    }
    expect(await harness.analysesStored()).toBe(1);
    expect(harness.log()).not.toContain('127.0.0.1:');
    await harness.close();
  });

  it('need a bucket that exists', async () => {
    const elsewhere = openS3({
      bucket: 'no-such-bucket',
      endpoint: s3.url,
      region: 'us-east-1',
      credentials: { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' },
    });
    await expect(elsewhere.ping()).rejects.toThrow(/HeadBucket/);
    elsewhere.close();
  });
});

/** One white pixel. */
const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==',
  'base64',
);
