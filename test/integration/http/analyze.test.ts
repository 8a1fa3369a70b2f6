import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { analysisLinks } from '../../../src/http/links.js';
import { expectContract } from './contract.js';
import { analyzeRequest, blob, finish, type Harness, picture, post, rawForm, startHarness } from './harness.js';

let harness: Harness;
let jpeg: Buffer;
let png: Buffer;

beforeAll(async () => {
  harness = await startHarness({ maxQueueDepth: 10_000, maxWaitSeconds: 20 });
  [jpeg, png] = await Promise.all([picture('jpeg'), picture('png')]);
});
afterAll(() => harness.close());

describe('POST /analyze', () => {
  it('answers 202 for an image, with the analysis committed and queued', async () => {
    const { app, database } = harness;
    const response = await post(app, [['images', blob(jpeg, 'image/jpeg'), 'smear.jpg']]);
    expect(response.statusCode).toBe(202);
    expectContract(app, response, 'post', '/analyze');
    const { id } = response.json();
    expect(response.json()).toEqual({
      id,
      status: 'queued',
      links: analysisLinks(id),
    });
    expect(response.headers.location).toBe(`/analyses/${id}`);
    expect(Number(response.headers['retry-after'])).toBeGreaterThanOrEqual(1);
    const image = await database.prisma.image.findUniqueOrThrow({
      where: { analysisId_index: { analysisId: id, index: 0 } },
      include: { file: true },
    });
    expect(image).toMatchObject({
      filename: 'smear.jpg',
      contentType: 'image/jpeg',
      width: 64,
      height: 48,
      sha256: createHash('sha256').update(jpeg).digest('hex'),
    });
    expect(Buffer.from(image.file?.bytes ?? []).equals(jpeg)).toBe(true);
    expect(await harness.queues.hasAnalysis(id)).toBe(true);
    expect(await harness.spooled()).toEqual([]);
  });

  it('takes fields before, between and after the files', async () => {
    const { app } = harness;
    const response = await post(app, [
      ['accessionNumber', 'H-26-001'],
      ['images', blob(jpeg), 'a.jpg'],
      ['wbcCount', '7.2'],
      ['images', blob(png), 'b.png'],
      ['micronsPerPixel', '0.25'],
      ['targetCells', '200'],
      ['priority', 'stat'],
      ['collectedAt', '2026-11-20T08:15:00+01:00'],
      ['callbackUrl', 'https://lis.example/hook'],
      ['specimenId', 'S1'],
      ['orderId', 'O1'],
      ['subjectId', 'P1'],
      ['site', 'Basel'],
      ['metadata', '{"bench":3}'],
    ]);
    expect(response.statusCode).toBe(202);
    const analysis = await app.inject(response.json().links.self);
    expectContract(app, analysis, 'get', '/analyses/{id}');
    expect(analysis.json()).toMatchObject({
      status: 'queued',
      accessionNumber: 'H-26-001',
      specimenId: 'S1',
      orderId: 'O1',
      subjectId: 'P1',
      site: 'Basel',
      wbcCount: 7.2,
      targetCells: 200,
      priority: 'stat',
      collectedAt: '2026-11-20T07:15:00.000Z',
      callbackUrl: 'https://lis.example/hook',
      metadata: { bench: 3 },
      images: [
        { index: 0, filename: 'a.jpg', contentType: 'image/jpeg' },
        { index: 1, filename: 'b.png', contentType: 'image/png' },
      ],
    });
  });

  it('takes metadata in every way in which HTTP libraries send JSON', async () => {
    const { app } = harness;
    const asFile = await post(app, [
      ['images', blob(png), 'a.png'],
      ['metadata', blob('{"as":"file"}', 'application/json'), 'blob'],
    ]);
    const form = rawForm([
      {
        headers: 'Content-Disposition: form-data; name="metadata"\r\nContent-Type: application/json',
        body: '{"as":"json"}',
      },
      { headers: 'Content-Disposition: form-data; name="images"; filename="a.png"', body: png },
    ]);
    const asJson = await app.inject({
      method: 'POST',
      url: '/analyze',
      headers: { 'content-type': 'multipart/form-data; boundary=b0undary' },
      payload: form,
    });
    expect((await app.inject(asFile.json().links.self)).json().metadata).toEqual({ as: 'file' });
    expect((await app.inject(asJson.json().links.self)).json().metadata).toEqual({ as: 'json' });
  });

  it.each(['jpeg', 'png', 'webp', 'tiff'] as const)('takes %s, whatever it is called', async (format) => {
    const response = await post(harness.app, [['images', blob(await picture(format), 'text/plain'), 'file.xyz']]);
    expect(response.statusCode).toBe(202);
    const { images } = (await harness.app.inject(response.json().links.self)).json();
    expect(images[0]).toMatchObject({ contentType: `image/${format}`, filename: 'file.xyz' });
  });

  it('keeps only the name of a path, without control characters', async () => {
    const form = rawForm([
      { headers: 'Content-Disposition: form-data; name="images"; filename="C:\\\\data\\\\../x\u0001y.png"', body: png },
      { headers: 'Content-Disposition: form-data; name="images"\r\nContent-Type: application/octet-stream', body: png },
    ]);
    const response = await harness.app.inject({
      method: 'POST',
      url: '/analyze',
      headers: { 'content-type': 'multipart/form-data; boundary="b0undary"' },
      payload: form,
    });
    const { images } = (await harness.app.inject(response.json().links.self)).json();
    expect(images.map((image: { filename: string }) => image.filename)).toEqual(['x\uFFFDy.png', 'image-2']);
  });

  it('accepts exactly as many images as allowed', async () => {
    const entries = Array.from({ length: 200 }, (_, i) => ['images', blob(png), `${i}.png`] as const);
    const response = await post(harness.app, entries);
    expect(response.statusCode).toBe(202);
    expect(await harness.database.prisma.image.count({ where: { analysisId: response.json().id } })).toBe(200);
  });

  it('lets the images of a routine order share a job while others wait, and those of an urgent one not', async () => {
    const { app, queues } = harness;
    const order = (count: number, priority: string) =>
      post(app, [
        ['priority', priority],
        ...Array.from({ length: count }, (_, i) => ['images', blob(png), `${i}.png`] as const),
      ]);
    const jobs = async (): Promise<number[]> => {
      const counts = await queues.counts();
      return (['leukodiff-images', 'leukodiff-analyses'] as const).map((name) =>
        Object.values(counts[name]).reduce((sum, count) => sum + count, 0),
      );
    };
    // Nobody works here: what is posted waits.
    await order(12, 'routine');
    const [images = 0, analyses = 0] = await jobs();
    await order(3, 'routine');
    expect(await jobs()).toEqual([images + 1, analyses]);
    await order(3, 'stat');
    expect(await jobs()).toEqual([images + 4, analyses + 1]);
  });

  it('still answers 202 when the queue is away: the row is committed and the sweep enqueues it', async () => {
    const { app, queues } = harness;
    const original = queues.addAnalysis;
    // The only way to take the queue away without its database, which holds the rows too.
    Object.assign(queues, { addAnalysis: () => Promise.reject(new Error('queue is away')) });
    try {
      const response = await post(app, [['images', blob(png), 'a.png']]);
      expect(response.statusCode).toBe(202);
      expect((await app.inject(response.json().links.self)).json().status).toBe('queued');
      expect(harness.log()).toContain('not enqueued');
    } finally {
      Object.assign(queues, { addAnalysis: original });
    }
  });
});

describe('Prefer: wait', () => {
  it('answers 200 with the finished analysis', async () => {
    const { app, database } = harness;
    const accession = 'WAIT-1';
    const pending = post(
      app,
      [
        ['images', blob(png), 'a.png'],
        ['accessionNumber', accession],
      ],
      { prefer: 'wait=15' },
    );
    let id: string | undefined;
    while (id === undefined) {
      await sleep(20);
      id = (await database.prisma.analysis.findFirst({ where: { accessionNumber: accession } }))?.id;
    }
    await finish(harness, id, { images: 1 });
    const response = await pending;
    expect(response.statusCode).toBe(200);
    expectContract(app, response, 'post', '/analyze');
    expect(response.headers['preference-applied']).toBe('wait=15');
    expect(response.headers.location).toBe(`/analyses/${id}`);
    expect(response.json()).toMatchObject({ id, status: 'completed', differential: { totalWbc: 1 } });
    expect(response.json()).toEqual((await app.inject(`/analyses/${id}`)).json());
  });

  it('answers 202 when the time passes', async () => {
    const started = Date.now();
    const response = await post(harness.app, [['images', blob(png), 'a.png']], { prefer: 'wait=1' });
    expect(response.statusCode).toBe(202);
    expect(response.headers['preference-applied']).toBe('wait=1');
    expect(Date.now() - started).toBeGreaterThanOrEqual(1000);
  });

  it('caps the wait', async () => {
    const capped = await startHarness({ maxWaitSeconds: 1 });
    try {
      const response = await post(capped.app, [['images', blob(png), 'a.png']], { prefer: 'wait=600' });
      expect(response.statusCode).toBe(202);
      expect(response.headers['preference-applied']).toBe('wait=1');
    } finally {
      await capped.close();
    }
  });

  it('answers at once where the preference cannot be read', async () => {
    const response = await post(harness.app, [['images', blob(png), 'a.png']], { prefer: 'wait=soon' });
    expect(response.statusCode).toBe(202);
    expect(response.headers['preference-applied']).toBeUndefined();
  });
});

describe('the queue depth', () => {
  it('is limited: 429 with Retry-After, nothing stored', async () => {
    const small = await startHarness({ maxQueueDepth: 2 });
    try {
      const request = await analyzeRequest([
        ['images', blob(png), 'a.png'],
        ['images', blob(png), 'b.png'],
      ]);
      const first = await small.app.inject(request);
      expect(first.statusCode).toBe(202);
      const second = await small.app.inject(request);
      expect(second.statusCode).toBe(429);
      expectContract(small.app, second, 'post', '/analyze');
      expect(Number(second.headers['retry-after'])).toBeGreaterThan(0);
      expect(second.json().type).toBe('https://leukodiff.dev/problems/queue-full');
      expect(await small.analysesStored()).toBe(1);
      await finish(small, first.json().id, { images: 2 });
      expect((await small.app.inject(request)).statusCode).toBe(202);
    } finally {
      await small.close();
    }
  });

  it('still takes urgent orders that say so before their images, until a tenth more waits', async () => {
    const small = await startHarness({ maxQueueDepth: 10 });
    const image = (name: string): [string, Blob, string] => ['images', blob(png), name];
    try {
      const full = Array.from({ length: 10 }, (_, i) => image(`${i}.png`));
      expect((await post(small.app, full)).statusCode).toBe(202);
      expect((await post(small.app, [['priority', 'routine'], image('a.png')])).statusCode).toBe(429);
      const late = await post(small.app, [image('a.png'), ['priority', 'stat']]);
      expect(late.statusCode).toBe(429);
      expect(late.json().detail).toContain('before their first image');
      expect((await post(small.app, [['priority', 'at once'], image('a.png')])).statusCode).toBe(429);
      expect(await small.analysesStored()).toBe(1);
      const urgent = () => post(small.app, [['priority', 'stat'], image('a.png')]);
      expect((await urgent()).statusCode).toBe(202);
      // Eleven wait.
      const beyond = await urgent();
      expect(beyond.statusCode).toBe(429);
      expectContract(small.app, beyond, 'post', '/analyze');
      expect(await small.analysesStored()).toBe(2);
    } finally {
      await small.close();
    }
  });
});
