/** Looking at cells, signing, and what two people do to one result at the same time. */
import type { InjectOptions, LightMyRequestResponse } from 'fastify';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CellType } from '../../../src/hematology/cell-types.js';
import { expectContract } from './contract.js';
import { blob, finish, type Harness, picture, post, startHarness } from './harness.js';

const UNKNOWN = '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e';
let harness: Harness;
let png: Buffer;

beforeAll(async () => {
  harness = await startHarness();
  png = await picture('png');
});
afterAll(() => harness.close());

async function analysis(classes: readonly CellType[], fields: Record<string, string> = {}): Promise<string> {
  const { id } = (
    await post(harness.app, [
      ['images', blob(png, 'image/png'), 'a.png'],
      ['targetCells', '2'],
      ['wbcCount', '8'],
      ...Object.entries(fields),
    ])
  ).json();
  await finish(harness, id, { images: 1, classes });
  return id;
}

const get = (url: string) => harness.app.inject({ method: 'GET', url });
const etagOf = async (id: string): Promise<string> => String((await get(`/analyses/${id}`)).headers.etag);

async function send(
  method: 'PATCH' | 'POST',
  url: string,
  body: object | string,
  headers: Record<string, string> = {},
): Promise<LightMyRequestResponse> {
  const options: InjectOptions = { method, url, payload: body, headers };
  if (typeof body === 'string') options.headers = { 'content-type': 'application/json', ...headers };
  const response = await harness.app.inject(options);
  const path = method === 'PATCH' ? '/analyses/{id}/cells/{cellId}' : '/analyses/{id}/sign';
  expectContract(harness.app, response, method === 'PATCH' ? 'patch' : 'post', path);
  return response;
}
const name = async (id: string, cell: string, type: CellType, more: object = {}): Promise<LightMyRequestResponse> =>
  send(
    'PATCH',
    `/analyses/${id}/cells/${cell}`,
    { class: type, reviewer: 'mlopez', ...more },
    { 'if-match': await etagOf(id) },
  );
const sign = async (id: string, reviewer = 'mlopez'): Promise<LightMyRequestResponse> =>
  send('POST', `/analyses/${id}/sign`, { reviewer }, { 'if-match': await etagOf(id) });
const slugOf = (response: LightMyRequestResponse): string => response.json().type.split('/').at(-1);

describe('from preliminary to corrected', () => {
  it('names what the model declined, counts anew, signs, corrects, and keeps every step', async () => {
    const id = await analysis(['neutrophil', 'neutrophil', 'neutrophil', 'unidentified'], { accessionNumber: 'R-1' });
    const before = (await get(`/analyses/${id}`)).json();
    expect(before).toMatchObject({
      verification: { status: 'preliminary', revision: 1, cellsToReview: 1, cellsLeft: 1, before: null },
      differential: { totalWbc: 3 },
      review: { required: true },
    });
    const refused = await sign(id);
    expect(refused.statusCode).toBe(409);
    expect(refused.json()).toMatchObject({
      type: 'https://leukodiff.dev/problems/review-incomplete',
      errors: [{ field: 'cells[0-3]', code: 'unidentified_left' }],
    });

    const named = await name(id, '0-3', 'monocyte', { comment: 'Kernform typisch' });
    expect(named.statusCode).toBe(200);
    expect(named.json()).toMatchObject({
      id: '0-3',
      class: 'unidentified',
      reviewedClass: 'monocyte',
      reviewedBy: 'mlopez',
      confidence: 0.97,
    });
    expect(named.headers.etag).toBe(await etagOf(id));
    const after = (await get(`/analyses/${id}`)).json();
    expect(after.verification.before).toEqual({ differential: before.differential, review: before.review });
    expect(after.differential).toMatchObject({ totalWbc: 4, wbcCount: 8 });
    expect(after.differential.classes.find((one: { class: string }) => one.class === 'monocyte')).toMatchObject({
      count: 1,
      percent: 25,
      absoluteCount: 2,
    });
    expect(after.review).toEqual({ required: false, reasons: [] });
    // Everything that reads cells goes by the name that counts now.
    expect((await get(`/analyses/${id}/cells?class=monocyte`)).json().total).toBe(1);
    expect((await get(`/analyses/${id}/cells?class=unidentified`)).json().total).toBe(0);
    const rows = await harness.database.prisma.differentialRow.findMany({
      where: { analysisId: id, count: { gt: 0 } },
    });
    expect(rows.map((row) => [row.class, row.count]).sort()).toEqual([
      ['monocyte', 1],
      ['neutrophil', 3],
    ]);
    expect((await get('/analyses?accessionNumber=R-1')).json().items).toMatchObject([
      { totalWbc: 4, reviewRequired: false },
    ]);

    const signed = await sign(id);
    expect(signed.json().verification).toMatchObject({ status: 'final', revision: 3, signedBy: 'mlopez' });
    expect(signed.headers.etag).toBe(await etagOf(id));
    const twice = await sign(id);
    expect([twice.statusCode, slugOf(twice)]).toEqual([409, 'already-signed']);

    await name(id, '0-0', 'eosinophil');
    expect((await get(`/analyses/${id}`)).json().verification).toMatchObject({ status: 'amended', revision: 4 });
    expect((await sign(id, 'chief')).json().verification).toMatchObject({ status: 'corrected', signedBy: 'chief' });

    const changes = await get(`/analyses/${id}/changes`);
    expectContract(harness.app, changes, 'get', '/analyses/{id}/changes');
    expect(
      changes
        .json()
        .items.map((one: Record<string, unknown>) => [
          one['revision'],
          one['kind'],
          one['reviewer'],
          one['cell'],
          one['classBefore'],
          one['classAfter'],
          one['statusAfter'],
          one['comment'],
        ]),
    ).toEqual([
      [2, 'cell', 'mlopez', '0-3', 'unidentified', 'monocyte', 'preliminary', 'Kernform typisch'],
      [3, 'signature', 'mlopez', null, null, null, 'final', null],
      [4, 'cell', 'mlopez', '0-0', 'neutrophil', 'eosinophil', 'amended', null],
      [5, 'signature', 'chief', null, null, null, 'corrected', null],
    ]);
    expect(changes.json().items[1].differential).toEqual(after.differential);
    expect(harness.log()).not.toMatch(/R-1|Kernform/);
  });

  it('confirms a blast before it can be signed', async () => {
    const id = await analysis(['neutrophil', 'neutrophil', 'blast']);
    const refused = await sign(id);
    expect(refused.json().errors).toEqual([
      { field: 'cells[0-2]', detail: 'Nobody has looked at it.', code: 'cells_not_reviewed' },
    ]);
    await name(id, '0-2', 'blast');
    expect((await sign(id)).json().verification.status).toBe('final');
  });

  it('does nothing twice: the same name again is the same revision', async () => {
    const id = await analysis(['neutrophil', 'neutrophil']);
    await name(id, '0-0', 'basophil');
    const tag = await etagOf(id);
    expect((await name(id, '0-0', 'basophil')).headers.etag).toBe(tag);
    expect((await get(`/analyses/${id}/changes`)).json().items).toHaveLength(1);
  });

  it('signs results that a version without signatures stored', async () => {
    const id = await analysis(['neutrophil', 'blast']);
    await harness.database.pool.query(
      "UPDATE analyses SET result = (result::jsonb - 'verification')::json WHERE id = $1",
      [id],
    );
    const read = await get(`/analyses/${id}`);
    expect(read.json().verification).toBeNull();
    expectContract(harness.app, read, 'get', '/analyses/{id}');
    expect((await sign(id)).json().errors).toHaveLength(1);
    await name(id, '0-1', 'lymphocyte');
    expect((await sign(id)).json().verification).toMatchObject({ status: 'final', revision: 3 });
  });
});

describe('four eyes', () => {
  let own: Harness;
  beforeAll(async () => {
    own = await startHarness({ signatures: 'four-eyes' });
  });
  afterAll(() => own.close());

  it('nobody signs alone what they looked at; after a signature the count begins anew', async () => {
    const { id } = (await post(own.app, [['images', blob(png, 'image/png'), 'a.png']])).json();
    await finish(own, id, { images: 1, classes: ['neutrophil', 'blast'] });
    const act = async (method: 'PATCH' | 'POST', path: string, payload: object) => {
      const response = await own.app.inject({
        method,
        url: `/analyses/${id}/${path}`,
        payload,
        headers: { 'if-match': '*' },
      });
      const operation = method === 'PATCH' ? '/analyses/{id}/cells/{cellId}' : '/analyses/{id}/sign';
      expectContract(own.app, response, method === 'PATCH' ? 'patch' : 'post', operation);
      return response;
    };
    const signBy = (reviewer: string) => act('POST', 'sign', { reviewer });
    const lookBy = (reviewer: string, type: CellType) => act('PATCH', 'cells/0-1', { class: type, reviewer });
    await lookBy('mlopez', 'blast');
    // What is incomplete is said first: it would stop everybody.
    const refused = await signBy('MLopez');
    expect(refused.statusCode).toBe(409);
    expect(slugOf(refused)).toBe('own-work');
    expect(refused.json().errors).toEqual([{ field: 'cells[0-1]', detail: expect.any(String), code: 'own_work' }]);
    expect(refused.body).not.toContain('opez');
    expect((await signBy('akim')).json().verification).toMatchObject({ status: 'final', signedBy: 'akim' });
    // Who signed may correct; then it is not theirs to sign, but that of the first again.
    await lookBy('akim', 'lymphocyte');
    expect(slugOf(await signBy('akim'))).toBe('own-work');
    expect((await signBy('mlopez')).json().verification).toMatchObject({ status: 'corrected', signedBy: 'mlopez' });
  });

  it('is not asked for unless the site says so', async () => {
    const id = await analysis(['neutrophil', 'blast']);
    await name(id, '0-1', 'blast');
    expect((await sign(id)).statusCode).toBe(200);
  });
});

describe('the worklist', () => {
  const listed = async (query: string): Promise<[string, string | null][]> => {
    const response = await get(`/analyses?accessionNumber=W-1&${query}`);
    expectContract(harness.app, response, 'get', '/analyses');
    return response
      .json()
      .items.map((one: { id: string; verificationStatus: string | null }) => [one.id, one.verificationStatus]);
  };

  it('holds what waits for a signature: new, changed after one, or of a version without; nothing unfinished or failed', async () => {
    const order = { accessionNumber: 'W-1' };
    const [untouched, signed, changed] = [
      await analysis(['neutrophil', 'lymphocyte'], order),
      await analysis(['neutrophil', 'lymphocyte'], order),
      await analysis(['neutrophil', 'blast'], order),
    ];
    expect((await sign(signed)).statusCode).toBe(200);
    await name(changed, '0-1', 'blast');
    await sign(changed);
    await name(changed, '0-0', 'monocyte');
    const old = await analysis(['neutrophil', 'lymphocyte'], order);
    await harness.database.pool.query(
      `UPDATE analyses SET result = (result::jsonb - 'verification')::json WHERE id = $1`,
      [old],
    );
    const form = [['images', blob(png, 'image/png'), 'a.png'] as const, ['accessionNumber', 'W-1'] as const];
    const running: string = (await post(harness.app, form)).json().id;
    const failed: string = (await post(harness.app, form)).json().id;
    await finish(harness, failed, { images: 1, failed: [0] });
    expect(await listed('signed=false')).toEqual([
      [old, 'preliminary'],
      [changed, 'amended'],
      [untouched, 'preliminary'],
    ]);
    expect(await listed('signed=true')).toEqual([[signed, 'final']]);
    expect(await listed('signed=false&reviewRequired=true')).toEqual([[changed, 'amended']]);
    expect((await listed('reviewRequired=false')).map(([id]) => id)).toEqual([old, signed, untouched]);
    expect(await listed('signed=false&status=failed')).toEqual([]);
    const all = await listed('limit=100');
    expect(all.slice(0, 2)).toEqual([
      [failed, null],
      [running, null],
    ]);
    expect(all).toHaveLength(6);
    const first = (await get('/analyses?accessionNumber=W-1&signed=false&limit=1')).json();
    expect(first.links.next).toContain('signed=false');
    expect((await get(first.links.next)).json().items[0].id).toBe(changed);
    expect((await sign(changed)).json().verification.status).toBe('corrected');
    expect((await listed('signed=true'))[0]).toEqual([changed, 'corrected']);
  });

  it('is found by its index, however many are signed', async () => {
    const client = await harness.database.pool.connect();
    try {
      await client.query('BEGIN');
      await client.query('SET LOCAL enable_seqscan = off');
      const { rows } = await client.query<{ 'QUERY PLAN': string }>(
        `EXPLAIN SELECT id FROM analyses WHERE laboratory = 'default' AND status = 'completed'
            AND coalesce(result->'verification'->>'status', 'preliminary') IN ('preliminary', 'amended')
          ORDER BY id DESC LIMIT 21`,
      );
      expect(rows.map((row) => row['QUERY PLAN']).join('\n')).toContain('analyses_unsigned_idx');
      await client.query('ROLLBACK');
    } finally {
      client.release();
    }
  });
});

describe('two people at once', () => {
  it('asks which state is meant', async () => {
    const id = await analysis(['neutrophil', 'neutrophil']);
    for (const response of [
      await send('POST', `/analyses/${id}/sign`, { reviewer: 'a' }),
      await send('PATCH', `/analyses/${id}/cells/0-0`, { reviewer: 'a', class: 'blast' }),
    ]) {
      expect([response.statusCode, slugOf(response)]).toEqual([428, 'precondition-required']);
    }
  });

  it.each(['"something-else"', 'W/"x"', 'x', ''])('refuses an old or a strange tag: %j', async (tag) => {
    const id = await analysis(['neutrophil', 'neutrophil']);
    const response = await send('POST', `/analyses/${id}/sign`, { reviewer: 'a' }, { 'if-match': tag });
    expect([response.statusCode, slugOf(response)]).toEqual([412, 'precondition-failed']);
    expect((await get(`/analyses/${id}/changes`)).json().items).toEqual([]);
  });

  it('lets one of many through', async () => {
    const id = await analysis(['neutrophil', 'neutrophil']);
    const tag = await etagOf(id);
    const types: CellType[] = ['lymphocyte', 'monocyte', 'eosinophil', 'basophil', 'blast', 'smudge'];
    const responses = await Promise.all(
      types.map((type) =>
        send('PATCH', `/analyses/${id}/cells/0-0`, { reviewer: 'a', class: type }, { 'if-match': tag }),
      ),
    );
    expect(responses.map((one) => one.statusCode).sort()).toEqual([200, 412, 412, 412, 412, 412]);
    expect((await get(`/analyses/${id}/changes`)).json().items).toHaveLength(1);
  });

  it('takes a list of tags, and any', async () => {
    const id = await analysis(['neutrophil', 'neutrophil']);
    const headers = { 'if-match': `"old", ${await etagOf(id)}` };
    expect(
      (await send('PATCH', `/analyses/${id}/cells/0-0`, { reviewer: 'a', class: 'blast' }, headers)).statusCode,
    ).toBe(200);
    expect((await send('POST', `/analyses/${id}/sign`, { reviewer: 'a' }, { 'if-match': '*' })).statusCode).toBe(200);
  });
});

describe('what is not possible', () => {
  it.each([
    ['{', 400, 'malformed-json'],
    ['', 400, 'malformed-json'],
    ['[]', 422, 'invalid-fields'],
    ['{}', 422, 'invalid-fields'],
    ['{"reviewer":""}', 422, 'invalid-fields'],
    ['{"reviewer":"a\\u0000b"}', 422, 'invalid-fields'],
    ['{"reviewer":"a","force":true}', 422, 'invalid-fields'],
    [`{"reviewer":"${'a'.repeat(200)}"}`, 422, 'invalid-fields'],
    ['{"reviewer":"a","__proto__":{"x":1}}', 400, 'malformed-json'],
  ])('signing with %s: %i %s', async (body, status, slug) => {
    const response = await send('POST', `/analyses/${UNKNOWN}/sign`, body, { 'if-match': '*' });
    expect([response.statusCode, slugOf(response)]).toEqual([status, slug]);
  });

  it('reads JSON only', async () => {
    const response = await send('POST', `/analyses/${UNKNOWN}/sign`, 'reviewer=a', {
      'content-type': 'application/x-www-form-urlencoded',
    });
    expect([response.statusCode, slugOf(response)]).toEqual([415, 'unsupported-media-type']);
  });

  it('names the analysis or the cell that is not there', async () => {
    const body = { reviewer: 'a', class: 'blast' };
    const any = { 'if-match': '*' };
    const unknown = await send('PATCH', `/analyses/${UNKNOWN}/cells/0-0`, body, any);
    expect([unknown.statusCode, slugOf(unknown)]).toEqual([404, 'analysis-not-found']);
    const id = await analysis(['neutrophil', 'neutrophil']);
    const cell = await send('PATCH', `/analyses/${id}/cells/0-2`, body, any);
    expect([cell.statusCode, slugOf(cell)]).toEqual([404, 'cell-not-found']);
    const type = await send('PATCH', `/analyses/${id}/cells/0-0`, { ...body, class: 'wbc' }, any);
    expect([type.statusCode, slugOf(type)]).toEqual([422, 'invalid-fields']);
    expect((await get(`/analyses/${UNKNOWN}/changes`)).statusCode).toBe(404);
  });

  it('waits for the end, and for a result', async () => {
    const form = [['images', blob(png, 'image/png'), 'a.png']] as const;
    const open = (await post(harness.app, form)).json().id;
    const early = await send('POST', `/analyses/${open}/sign`, { reviewer: 'a' }, { 'if-match': '*' });
    expect([early.statusCode, slugOf(early)]).toEqual([409, 'analysis-not-finished']);
    await finish(harness, open, { images: 1, failed: [0] });
    const failed = await send('POST', `/analyses/${open}/sign`, { reviewer: 'a' }, { 'if-match': '*' });
    expect([failed.statusCode, slugOf(failed)]).toEqual([409, 'analysis-failed']);
  });
});
