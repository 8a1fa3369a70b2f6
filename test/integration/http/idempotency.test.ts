/** Never twice: `Idempotency-Key` on a real database, and images that came before. */
import type { LightMyRequestResponse } from 'fastify';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createAnalysis } from '../../../src/storage/analyses.js';
import { createApiKey } from '../../../src/storage/api-keys.js';
import type { AnalysisDocument } from '../../../src/storage/documents.js';
import { createAnalysisOnce, removeKeysOlderThan } from '../../../src/storage/idempotency.js';
import { expectContract } from './contract.js';
import { analyzeRequest, blob, type FormEntry, finish, type Harness, picture, post, startHarness } from './harness.js';

let harness: Harness;
let one: Blob;
let two: Blob;
beforeAll(async () => {
  harness = await startHarness();
  one = blob(await picture('png', 40, 40));
  two = blob(await picture('png', 41, 40));
});
afterAll(() => harness.close());

const order = (...more: FormEntry[]): FormEntry[] => [
  ['accessionNumber', 'IDEM-1'],
  ['metadata', '{"a":1,"b":[1,2]}'],
  ['images', one, 'one.png'],
  ['images', two, 'two.png'],
  ...more,
];

async function send(key: string, entries: readonly FormEntry[] = order(), headers: Record<string, string> = {}) {
  return post(harness.app, entries, { 'idempotency-key': key, ...headers });
}

const idOf = (response: LightMyRequestResponse): string => response.json<{ id: string }>().id;
const typeOf = (response: LightMyRequestResponse): unknown => response.json<{ type: unknown }>().type;
const problem = (slug: string): string => `https://leukodiff.dev/problems/${slug}`;

describe('an order with an Idempotency-Key', () => {
  it('makes one analysis, and is answered again as the first time', async () => {
    const before = await harness.analysesStored();
    const first = await send('"k-1"');
    expect(first.statusCode).toBe(202);
    expect(first.headers['idempotency-replayed']).toBeUndefined();
    const again = await send('k-1');
    expectContract(harness.app, again, 'post', '/analyze');
    expect(again.statusCode).toBe(202);
    expect(again.body).toBe(first.body);
    expect(again.headers['location']).toBe(first.headers['location']);
    expect(again.headers['idempotency-replayed']).toBe('true');
    // The order of fields, the names of files and the spelling of JSON say nothing about the order.
    const rewritten = await send('"k-1"', [
      ['images', one, 'other.png'],
      ['images', two, 'names.png'],
      ['metadata', '{ "b": [1, 2], "a": 1 }'],
      ['accessionNumber', 'IDEM-1'],
      ['targetCells', '100'],
      ['specimenId', ''],
    ]);
    expect(rewritten.body).toBe(first.body);
    expect(await harness.analysesStored()).toBe(before + 1);
  });

  it.each<[string, () => FormEntry[]]>([
    ['another field', () => order(['specimenId', 'S-1'])],
    ['another value', () => [['accessionNumber', 'IDEM-2'], ...order().slice(1)]],
    ['another image', () => [...order().slice(0, 3), ['images', one, 'two.png']]],
    ['images in another order', () => [...order().slice(0, 2), ['images', two, 'a.png'], ['images', one, 'b.png']]],
    ['an image less', () => order().slice(0, 3)],
  ])('is refused with %s', async (name, changed) => {
    expect((await send(`k-${name}`)).statusCode).toBe(202);
    const before = await harness.analysesStored();
    const refused = await send(`k-${name}`, changed());
    expect(refused.statusCode).toBe(422);
    expect(typeOf(refused)).toBe(problem('idempotency-key-reused'));
    expectContract(harness.app, refused, 'post', '/analyze');
    expect(await harness.analysesStored()).toBe(before);
  });

  it('is one analysis however many come at once', async () => {
    const before = await harness.analysesStored();
    const answers = await Promise.all(Array.from({ length: 12 }, () => send('"at-once"')));
    expect([...new Set(answers.map(({ statusCode }) => statusCode))].filter((s) => s !== 202 && s !== 409)).toEqual([]);
    const taken = answers.filter(({ statusCode }) => statusCode === 202);
    expect(new Set(taken.map(idOf)).size).toBe(1);
    expect(await harness.analysesStored()).toBe(before + 1);
  });

  it('is answered 409 while another request stores it, and is free again when that one dies', async () => {
    const { url } = harness.database;
    const dying = new pg.Client({ connectionString: url });
    dying.on('error', () => undefined);
    await dying.connect();
    const pool = { connect: async () => Object.assign(dying, { release: () => undefined }) } as unknown as pg.Pool;
    const stalled = new Promise<never>(() => undefined);
    let begun = (): void => undefined;
    const inside = new Promise<void>((settle) => {
      begun = settle;
    });
    const image = {
      filename: 'a.png',
      contentType: 'image/png',
      bytes: () => {
        begun();
        return stalled;
      },
    };
    void createAnalysisOnce(
      { ...harness.database, pool },
      'default',
      { images: [image] },
      {
        key: 'dies',
        fingerprint: Buffer.alloc(32),
        rememberedHours: 1,
      },
    ).catch(() => undefined);
    await inside;

    const meanwhile = await send('dies');
    expect(meanwhile.statusCode).toBe(409);
    expect(typeOf(meanwhile)).toBe(problem('idempotency-key-in-flight'));
    expect(meanwhile.headers['retry-after']).toBe('1');
    expectContract(harness.app, meanwhile, 'post', '/analyze');

    // What a crash of the process looks like from the database.
    const { rows } = await harness.database.pool.query<{ pid: number }>(
      `SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()`,
    );
    for (const { pid } of rows) await harness.database.pool.query('SELECT pg_terminate_backend($1)', [pid]);
    await expect.poll(async () => (await send('dies')).statusCode).toBe(202);
  });

  it('belongs to its laboratory', async () => {
    const own = await startHarness({ access: 'keys' });
    const headersOf = async (laboratory: string) => {
      const made = { laboratory, name: 'x', scopes: ['submit' as const], createdBy: null };
      return { authorization: `Bearer ${(await createApiKey(own.database, made)).token}`, 'idempotency-key': 'same' };
    };
    const north = await post(own.app, order(), await headersOf('north'));
    const south = await post(own.app, order(), await headersOf('south'));
    expect([north.statusCode, south.statusCode]).toEqual([202, 202]);
    expect(idOf(north)).not.toBe(idOf(south));
    // A second key of the same laboratory is the same client.
    expect(idOf(await post(own.app, order(), await headersOf('north')))).toBe(idOf(north));
    await own.close();
  });

  it('is not brought back by a repetition after its deletion', async () => {
    const id = idOf(await send('gone'));
    expect((await harness.app.inject({ method: 'DELETE', url: `/analyses/${id}` })).statusCode).toBe(204);
    const again = await send('gone');
    expect(again.statusCode).toBe(404);
    expect(again.json()).toMatchObject({ detail: expect.stringContaining('deleted since') });
  });

  it('is forgotten after its time', async () => {
    const first = idOf(await send('old'));
    await harness.database.pool.query(`UPDATE idempotency_keys SET created_at = now() - interval '100 hours'`);
    const later = idOf(await send('old'));
    expect(later).not.toBe(first);
    expect(idOf(await send('old'))).toBe(later);
    await removeKeysOlderThan(harness.database, 72);
    const { rows } = await harness.database.pool.query('SELECT FROM idempotency_keys');
    expect(rows).toHaveLength(1);
  });

  it('is answered from a full queue when it was taken before', async () => {
    const own = await startHarness({ maxQueueDepth: 2 });
    const request = await analyzeRequest(order(), { 'idempotency-key': 'full' });
    const first = await own.app.inject(request);
    expect(first.statusCode).toBe(202);
    expect((await own.app.inject(await analyzeRequest(order(), { 'idempotency-key': 'new' }))).statusCode).toBe(429);
    expect((await own.app.inject(request)).body).toBe(first.body);
    await own.close();
  });

  it('waits for the result again, where that is asked for', async () => {
    const id = idOf(await send('waits'));
    await finish(harness, id, { images: 2 });
    const finished = await send('waits', order(), { prefer: 'wait=5' });
    expect(finished.statusCode).toBe(200);
    expect(finished.json()).toMatchObject({ id, status: 'completed' });
  });

  it('keeps no key as it came', async () => {
    await send('order-of-accession-H-26-9');
    const { rows } = await harness.database.pool.query<{ row: string }>(
      'SELECT k::text AS row FROM idempotency_keys k',
    );
    expect(JSON.stringify(rows)).not.toContain('H-26-9');
    expect(JSON.stringify(rows)).not.toContain(Buffer.from('H-26-9').toString('hex'));
  });

  it.each(['""', '" "x', 'a'.repeat(256), 'ключ', '"a"b"', 'tab\there'])('with the key %j is refused', async (key) => {
    const response = await send(key === 'ключ' ? Buffer.from(key).toString('latin1') : key);
    expect([400, 202]).toContain(response.statusCode);
    if (key !== '" "x' && key !== '"a"b"') expect(response.statusCode).toBe(400);
  });
});

describe('an image', () => {
  it('is recognised by its bytes, within its laboratory', async () => {
    const own = await startHarness();
    const imagesOf = async (id: string) =>
      (await own.app.inject(`/analyses/${id}`)).json<AnalysisDocument>().images.map((image) => image.duplicateOf);
    const first = idOf(
      await post(own.app, [
        ['images', one, 'a.png'],
        ['images', one, 'b.png'],
        ['images', two, 'c.png'],
      ]),
    );
    expect(await imagesOf(first)).toEqual([null, { analysisId: first, index: 0 }, null]);
    const second = idOf(await post(own.app, [['images', two, 'renamed.png']]));
    expect(await imagesOf(second)).toEqual([{ analysisId: first, index: 2 }]);
    await finish(own, second, { images: 1 });
    expect(await imagesOf(second)).toEqual([{ analysisId: first, index: 2 }]);
    const bytes = Buffer.from(await two.arrayBuffer());
    const images = [{ filename: 'c.png', contentType: 'image/png', bytes }];
    const elsewhere = await createAnalysis(own.database, 'elsewhere', { images });
    const { rows } = await own.database.pool.query<{ of: string | null }>(
      'SELECT duplicate_of_analysis AS of FROM images WHERE analysis_id = $1',
      [elsewhere.id],
    );
    expect(rows).toEqual([{ of: null }]);
    await own.close();
  });
});
