import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectContract } from './contract.js';
import { blob, finish, type Harness, picture, post, startHarness } from './harness.js';

const UNKNOWN = '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e';

let harness: Harness;
let png: Buffer;
/** Two images: one analysed, one failed. */
let done: string;
/** One image that nobody works on. */
let open: string;

async function submit(images: number, fields: readonly [string, string][] = []): Promise<string> {
  const files = Array.from({ length: images }, (_, i) => ['images', blob(png), `${i}.png`] as const);
  return (await post(harness.app, [...fields, ...files])).json().id;
}

const get = (url: string, headers: Record<string, string> = {}) => harness.app.inject({ url, headers });

beforeAll(async () => {
  harness = await startHarness();
  png = await picture('png');
  done = await submit(2, [['accessionNumber', 'DONE 1/ä']]);
  await finish(harness, done, { images: 2, failed: [1] });
  open = await submit(1);
});
afterAll(() => harness.close());

describe('GET /analyses/{id}', () => {
  it('answers the finished analysis with the documented fields and links', async () => {
    const response = await get(`/analyses/${done}`);
    expect(response.statusCode).toBe(200);
    expectContract(harness.app, response, 'get', '/analyses/{id}');
    const analysis = response.json();
    expect(analysis).toMatchObject({
      id: done,
      status: 'completed',
      model: { name: 'sg-cldff', executionProvider: 'cpu' },
      differential: { totalWbc: 1, targetCells: 100, denominator: 'totalWbc', notCounted: 1 },
      review: { required: true },
      links: { self: `/analyses/${done}`, cells: `/analyses/${done}/cells` },
    });
    expect(analysis.differential.classes[0]).toMatchObject({ class: 'neutrophil', count: 1, percent: 100 });
    expect(analysis.images).toHaveLength(2);
    expect(analysis.images[0]).toMatchObject({ status: 'completed', cellCount: 2, scaleSource: 'estimated' });
    expect(analysis.images[0].links.mask).toBe(`/analyses/${done}/images/0/mask.png`);
    expect(analysis.images[1]).toMatchObject({ status: 'failed', problem: { code: 'image-truncated' } });
    expect(analysis.review.reasons.map((reason: { code: string }) => reason.code)).toContain('image_failed');
    expect(response.headers['retry-after']).toBeUndefined();
  });

  it('says when to ask again while it is under way', async () => {
    const response = await get(`/analyses/${open}`);
    expectContract(harness.app, response, 'get', '/analyses/{id}');
    expect(response.json()).toMatchObject({ status: 'queued', differential: null, review: null, model: null });
    expect(Number(response.headers['retry-after'])).toBeGreaterThan(0);
  });

  it('waits if asked', async () => {
    const id = await submit(1);
    const pending = get(`/analyses/${id}`, { prefer: 'wait=10' });
    await finish(harness, id, { images: 1 });
    const response = await pending;
    expect(response.json().status).toBe('completed');
    expect(response.headers['preference-applied']).toBe('wait=10');
  });

  it('answers 304 to a client that has it', async () => {
    const first = await get(`/analyses/${done}`);
    const tag = String(first.headers.etag);
    const second = await get(`/analyses/${done}`, { 'if-none-match': tag });
    expect(second.statusCode).toBe(304);
    expect(second.body).toBe('');
    expect(second.headers.etag).toBe(tag);
    expectContract(harness.app, second, 'get', '/analyses/{id}');
    expect((await get(`/analyses/${done}`, { 'if-none-match': '"other"' })).statusCode).toBe(200);
  });

  it('tells a failed analysis why', async () => {
    const id = await submit(1);
    await finish(harness, id, { images: 1, failed: [0] });
    const response = await get(`/analyses/${id}`);
    expectContract(harness.app, response, 'get', '/analyses/{id}');
    expect(response.json()).toMatchObject({ status: 'failed', differential: null });
    expect(response.json().problem.detail).toMatch(/\w/);
  });

  it('accepts the id in upper case', async () => {
    expect((await get(`/analyses/${done.toUpperCase()}`)).json().id).toBe(done);
  });
});

describe('GET /analyses', () => {
  it('finds by accession number', async () => {
    const response = await get(`/analyses?accessionNumber=${encodeURIComponent('DONE 1/ä')}`);
    expectContract(harness.app, response, 'get', '/analyses');
    expect(response.json().items).toEqual([
      expect.objectContaining({ id: done, status: 'completed', imageCount: 2, totalWbc: 1, reviewRequired: true }),
    ]);
    expect(response.json()).toMatchObject({ nextCursor: null, links: { next: null } });
    expect((await get('/analyses?accessionNumber=none')).json().items).toEqual([]);
  });

  it('filters by status', async () => {
    const { items } = (await get('/analyses?status=completed&limit=100')).json();
    expect(items.length).toBeGreaterThan(0);
    expect(items.every((item: { status: string }) => item.status === 'completed')).toBe(true);
  });

  it('pages through everything once, newest first', async () => {
    const all: string[] = [];
    let next: string | null = '/analyses?limit=2';
    while (next !== null) {
      const page: { items: { id: string }[]; links: { next: string | null } } = (await get(next)).json();
      expect(page.items.length).toBeLessThanOrEqual(2);
      all.push(...page.items.map((item) => item.id));
      next = page.links.next;
    }
    expect(all.length).toBe(await harness.analysesStored());
    expect(all).toEqual([...new Set(all)].sort().reverse());
  });

  it.each([
    ['limit=0', 'limit'],
    ['limit=101', 'limit'],
    ['limit=ten', 'limit'],
    ['limit=1.5', 'limit'],
    ['status=done', 'status'],
    ['signed=maybe', 'signed'],
    ['signed=', 'signed'],
    ['reviewRequired=1', 'reviewRequired'],
    ['cursor=abc', 'cursor'],
    ["cursor=';--", 'cursor'],
    ['accession=1', 'accession'],
    ['accessionNumber=', 'accessionNumber'],
    ['accessionNumber=a%00b', 'accessionNumber'],
    [`accessionNumber=${'x'.repeat(200)}`, 'accessionNumber'],
    ['accessionNumber=a&accessionNumber=b', 'accessionNumber'],
  ])('refuses ?%s', async (query, field) => {
    const response = await get(`/analyses?${query}`);
    expect(response.statusCode).toBe(400);
    expectContract(harness.app, response, 'get', '/analyses');
    expect(response.json().type).toBe('https://leukodiff.dev/problems/invalid-parameters');
    expect(response.json().errors[0].field).toBe(field);
    expect(response.json().instance).toBe('/analyses');
  });
});

describe('GET /analyses/{id}/cells', () => {
  it('lists the cells with their links', async () => {
    const response = await get(`/analyses/${done}/cells`);
    expectContract(harness.app, response, 'get', '/analyses/{id}/cells');
    const { items, total } = response.json();
    expect(total).toBe(2);
    expect(items[0]).toMatchObject({
      image: 0,
      box: { x: 5, y: 10, width: 20, height: 16 },
      class: 'neutrophil',
      areaUm2: 81.9,
      counted: true,
      links: { crop: `/analyses/${done}/cells/${items[0].id}/crop.png` },
    });
  });

  it('filters by image and class, and pages', async () => {
    expect((await get(`/analyses/${done}/cells?image=1`)).json()).toMatchObject({ items: [], total: 0 });
    expect((await get(`/analyses/${done}/cells?class=lymphocyte`)).json().items).toHaveLength(1);
    const first = (await get(`/analyses/${done}/cells?image=0&limit=1`)).json();
    expect(first).toMatchObject({ total: 2 });
    const second = (await get(first.links.next)).json();
    expect(second.items).toHaveLength(1);
    expect(second.items[0].id).not.toBe(first.items[0].id);
    expect(second.nextCursor).toBeNull();
  });

  it.each(['limit=1001', 'image=-1', 'image=x', 'class=wbc', 'cursor=0193', 'cursor=a-b', 'page=2'])(
    'refuses ?%s',
    async (query) => {
      const response = await get(`/analyses/${done}/cells?${query}`);
      expect(response.statusCode).toBe(400);
      expectContract(harness.app, response, 'get', '/analyses/{id}/cells');
    },
  );
});

describe('pictures', () => {
  it('gives the posted bytes back', async () => {
    const response = await get(`/analyses/${done}/images/0/original`);
    expect(response.rawPayload.equals(png)).toBe(true);
    expect(response.headers).toMatchObject({
      'content-type': 'image/png',
      'content-disposition': "inline; filename*=UTF-8''0.png",
      'x-content-type-options': 'nosniff',
      'content-security-policy': "default-src 'none'; sandbox",
    });
    expectContract(harness.app, response, 'get', '/analyses/{id}/images/{index}/original');
    const cached = await get(`/analyses/${done}/images/0/original`, { 'if-none-match': String(response.headers.etag) });
    expect(cached.statusCode).toBe(304);
    // Also of an image that could not be analysed, and before it was.
    expect((await get(`/analyses/${done}/images/1/original`)).statusCode).toBe(200);
    expect((await get(`/analyses/${open}/images/0/original`)).statusCode).toBe(200);
  });

  it.each(['mask.png', 'overlay.png', 'saliency.png', 'saliency.png?style=heat'])(
    'draws %s at the posted size',
    async (name) => {
      const response = await get(`/analyses/${done}/images/0/${name}`);
      expect(response.statusCode).toBe(200);
      expect(response.headers['content-type']).toBe('image/png');
      const { width, height } = await sharp(response.rawPayload).metadata();
      expect({ width, height }).toEqual({ width: 64, height: 48 });
      const tag = String(response.headers.etag);
      const cached = await get(`/analyses/${done}/images/0/${name}`, { 'if-none-match': tag });
      expect(cached.statusCode).toBe(304);
      expect(cached.rawPayload).toHaveLength(0);
    },
  );

  it('draws the labels of the cells into the mask', async () => {
    const response = await get(`/analyses/${done}/images/0/mask.png`);
    const { data, info } = await sharp(response.rawPayload)
      .extractChannel(0)
      .raw()
      .toBuffer({ resolveWithObject: true });
    const at = (x: number, y: number) => data[y * info.width + x];
    expect([at(0, 0), at(5, 10), at(24, 25), at(25, 25), at(40, 10)]).toEqual([0, 128, 128, 0, 128]);
  });

  it('has different tags for different pictures', async () => {
    const tags = await Promise.all(
      ['mask.png', 'overlay.png', 'saliency.png', 'saliency.png?style=heat'].map(
        async (name) => (await get(`/analyses/${done}/images/0/${name}`)).headers.etag,
      ),
    );
    expect(new Set(tags).size).toBe(4);
  });

  it.each([
    ['crop.png', 160, 160],
    ['mask.png', 20, 16],
    ['cam.png', 160, 160],
  ])('answers the %s of a cell', async (name, width, height) => {
    const [cell] = (await get(`/analyses/${done}/cells`)).json().items;
    const url = `/analyses/${done}/cells/${cell.id}/${name}`;
    const response = await get(url);
    expect(response.statusCode).toBe(200);
    expectContract(harness.app, response, 'get', `/analyses/{id}/cells/{cellId}/${name}`);
    expect(await sharp(response.rawPayload).metadata()).toMatchObject({ format: 'png', width, height });
    expect((await get(url, { 'if-none-match': String(response.headers.etag) })).statusCode).toBe(304);
  });

  it.each(['mask.png', 'overlay.png', 'saliency.png'])(
    'answers 409 for the %s of an image that is not done',
    async (name) => {
      const response = await get(`/analyses/${open}/images/0/${name}`);
      expect(response.statusCode).toBe(409);
      expect(response.json().type).toBe('https://leukodiff.dev/problems/analysis-not-finished');
      expect(Number(response.headers['retry-after'])).toBeGreaterThan(0);
      expectContract(harness.app, response, 'get', `/analyses/{id}/images/{index}/${name}`);
    },
  );

  it('says why a failed image has no picture', async () => {
    const response = await get(`/analyses/${done}/images/1/mask.png`);
    expect(response.statusCode).toBe(409);
    expect(response.json()).toMatchObject({
      type: 'https://leukodiff.dev/problems/image-failed',
      detail: expect.stringContaining('The JPEG ends before its picture does'),
    });
    expect(response.headers['retry-after']).toBeUndefined();
  });

  it('answers 409 for a cell of an image that is not done', async () => {
    expect((await get(`/analyses/${open}/cells/0-0/crop.png`)).statusCode).toBe(409);
  });
});

describe('unknown and malformed addresses', () => {
  it.each([
    [`/analyses/${UNKNOWN}`, 404, 'analysis-not-found'],
    [`/analyses/${UNKNOWN}/cells`, 404, 'analysis-not-found'],
    [`/analyses/${UNKNOWN}/images/0/mask.png`, 404, 'analysis-not-found'],
    [`/analyses/${UNKNOWN}/images/0/original`, 404, 'analysis-not-found'],
    [`/analyses/${UNKNOWN}/cells/0-1/crop.png`, 404, 'analysis-not-found'],
    ['/analyses/DONE/images/9/mask.png', 404, 'image-not-found'],
    ['/analyses/DONE/images/9/original', 404, 'image-not-found'],
    ['/analyses/DONE/images/0/thumbnail.png', 404, 'not-found'],
    ['/analyses/DONE/cells/0-999/crop.png', 404, 'cell-not-found'],
    ['/analyses/DONE/cells/7-0/cam.png', 404, 'cell-not-found'],
    ['/analyses/not-a-uuid', 400, 'invalid-parameters'],
    ['/analyses/%00', 400, 'invalid-parameters'],
    [`/analyses/urn:uuid:${UNKNOWN}`, 400, 'invalid-parameters'],
    ['/analyses/DONE/images/x/mask.png', 400, 'invalid-parameters'],
    ['/analyses/DONE/images/-1/mask.png', 400, 'invalid-parameters'],
    ['/analyses/DONE/images/99999999999/mask.png', 400, 'invalid-parameters'],
    ['/analyses/DONE/cells/0/crop.png', 400, 'invalid-parameters'],
    ['/analyses/DONE/cells/0-1;DROP/crop.png', 400, 'invalid-parameters'],
    ['/analyses/DONE/cells/0-99999999999999999999/crop.png', 400, 'invalid-parameters'],
    ['/analyses/DONE?fields=all', 400, 'invalid-parameters'],
  ])('GET %s: %i %s', async (url, status, slug) => {
    const response = await get(url.replace('DONE', done));
    expect(response.statusCode).toBe(status);
    expect(response.headers['content-type']).toMatch(/^application\/problem\+json/);
    expect(response.json()).toMatchObject({ type: `https://leukodiff.dev/problems/${slug}`, status });
  });
});

describe('DELETE /analyses/{id}', () => {
  it('removes the analysis with everything that belongs to it', async () => {
    const { app, database } = harness;
    const id = await submit(1);
    await finish(harness, id, { images: 1 });
    const response = await app.inject({ method: 'DELETE', url: `/analyses/${id}` });
    expect(response.statusCode).toBe(204);
    expectContract(app, response, 'delete', '/analyses/{id}');
    expect((await get(`/analyses/${id}`)).statusCode).toBe(404);
    expect((await get(`/analyses/${id}/images/0/original`)).statusCode).toBe(404);
    const rows = await Promise.all([
      database.prisma.image.count({ where: { analysisId: id } }),
      database.prisma.imageFile.count({ where: { analysisId: id } }),
      database.prisma.cell.count({ where: { analysisId: id } }),
      database.prisma.cellRaster.count({ where: { analysisId: id } }),
    ]);
    expect(rows).toEqual([0, 0, 0, 0]);
    const again = await app.inject({ method: 'DELETE', url: `/analyses/${id}` });
    expect(again.statusCode).toBe(404);
    expectContract(app, again, 'delete', '/analyses/{id}');
  });
});
