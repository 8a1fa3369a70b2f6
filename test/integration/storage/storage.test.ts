import { createHash, randomBytes } from 'node:crypto';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { toImageResult } from '../../../src/jobs/analyze-image.js';
import { conclude } from '../../../src/jobs/finish-analysis.js';
import { IMAGE_INTERRUPTED } from '../../../src/jobs/problems.js';
import {
  createAnalysis,
  deleteAnalysis,
  getAnalysisDocument,
  listAnalyses,
  type NewAnalysis,
  queueLoad,
  waitForCompletion,
} from '../../../src/storage/analyses.js';
import { readBacklog } from '../../../src/storage/backlog.js';
import { getCellArtefact, getCells } from '../../../src/storage/cells.js';
import { readClockOffset } from '../../../src/storage/clock.js';
import { type Database, openDatabase } from '../../../src/storage/database.js';
import {
  ATTEMPTS_PER_DESTINATION,
  claimDelivery,
  type Delivery,
  endAttempt,
  overdueDeliveries,
} from '../../../src/storage/deliveries.js';
import type { AnalysisDocument, Priority } from '../../../src/storage/documents.js';
import {
  releaseImage,
  saveImageFailure,
  saveImageResult,
  startImage,
  startImageUnlessUrgent,
  URGENT_FIRST,
} from '../../../src/storage/image-results.js';
import { getImageCells, getImageFile, getImageSaliency, readImageBytes } from '../../../src/storage/images.js';
import { InvalidCursorError } from '../../../src/storage/paging.js';
import { type FinishOptions, failAnalysis, finishAnalysis } from '../../../src/storage/results.js';
import { openAnalyses, removeOlderThan, withSweepLock } from '../../../src/storage/upkeep.js';
import { decodeGreyPng } from '../../../src/vision/index.js';
import type { CellFinding } from '../../../src/vision/types.js';
import { openTestDatabase, type TestDatabase, testObjects } from '../../support/database.js';
import { cellFinding, imageAnalysis, TEST_MODEL } from '../../support/findings.js';

let test: TestDatabase;
let db: Database;

beforeAll(async () => {
  test = await openTestDatabase();
  db = test.database;
});
afterAll(() => test.close());

const FINISH: FinishOptions = {
  conclude,
  interrupted: IMAGE_INTERRUPTED,
  eventsOf: (document) => [
    {
      type: `analysis.${document.status}`,
      body: JSON.stringify({ id: document.id }),
      occurrence: '',
      toCallback: true,
    },
  ],
};
const ABSENT = '01890000-0000-7000-8000-000000000000';

const file = (bytes = randomBytes(64)) => ({
  filename: 'smear.png',
  contentType: 'image/png',
  bytes,
  width: 320,
  height: 240,
});
const create = async (order: NewAnalysis = {}, images = [file()]) =>
  (await createAnalysis(db, 'default', { ...order, images })).id;
const analysed = async (id: string, index: number, cells: readonly CellFinding[]) => {
  await startImage(db, id, index);
  return saveImageResult(db, id, index, await toImageResult(imageAnalysis(cells), TEST_MODEL));
};
const rows = async (table: string, id: string) =>
  Number(
    (await db.pool.query<{ n: string }>(`SELECT count(*) AS n FROM ${table} WHERE analysis_id = $1`, [id])).rows[0]?.n,
  );

describe('an order', () => {
  it('is answered as it came while nothing has happened to it', async () => {
    const bytes = randomBytes(100);
    const collectedAt = '2026-11-20T08:30:00.000Z';
    const id = await create(
      {
        accessionNumber: 'A-1',
        specimenId: 'S-1',
        orderId: 'O-1',
        subjectId: 'P-1',
        site: 'north',
        collectedAt,
        callbackUrl: 'http://lis.test/hook',
        priority: 'stat',
        targetCells: 200,
        wbcCount: 7.2,
        metadata: { ward: ['3b', null], urgent: false },
      },
      [file(bytes)],
    );
    const document = await getAnalysisDocument(db, 'default', id);
    expect(document).toMatchObject({
      id,
      status: 'queued',
      accessionNumber: 'A-1',
      specimenId: 'S-1',
      orderId: 'O-1',
      subjectId: 'P-1',
      site: 'north',
      collectedAt,
      callbackUrl: 'http://lis.test/hook',
      priority: 'stat',
      targetCells: 200,
      wbcCount: 7.2,
      metadata: { ward: ['3b', null], urgent: false },
      model: null,
      differential: null,
      review: null,
      problem: null,
    });
    expect(document?.images).toEqual([
      {
        index: 0,
        filename: 'smear.png',
        contentType: 'image/png',
        byteLength: 100,
        sha256: createHash('sha256').update(bytes).digest('hex'),
        duplicateOf: null,
        repeatOf: null,
        width: 320,
        height: 240,
        status: 'queued',
        micronsPerPixel: null,
        scaleSource: null,
        scaleConfidence: null,
        quality: null,
        saliencyConsistency: null,
        cellCount: null,
        model: null,
        timingsMs: null,
        problem: null,
      },
    ]);
  });

  it('keeps the posted bytes exactly, also beyond one piece of reading', async () => {
    for (const size of [1, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1, 20_000_000]) {
      const bytes = randomBytes(size);
      const id = await create({}, [file(bytes)]);
      const stored = await getImageFile(db, 'default', id, 0);
      expect(stored?.bytes.equals(bytes), `${size} bytes`).toBe(true);
      expect(stored?.sha256).toBe(createHash('sha256').update(bytes).digest('hex'));
      await deleteAnalysis(db, 'default', id);
    }
  });

  it('keeps a name in any script', async () => {
    const id = await create({ accessionNumber: 'Größe-血-🩸' }, [{ ...file(), filename: 'препарат №1.tif' }]);
    const document = await getAnalysisDocument(db, 'default', id);
    expect(document?.accessionNumber).toBe('Größe-血-🩸');
    expect(document?.images[0]?.filename).toBe('препарат №1.tif');
  });

  it('is stored whole or not at all', async () => {
    const before = await db.prisma.analysis.count();
    const broken = { ...file(), filename: 'nul\u0000byte.png' };
    await expect(createAnalysis(db, 'default', { images: [file(), broken] })).rejects.toThrow(/invalid byte sequence/);
    expect(await db.prisma.analysis.count()).toBe(before);
  });

  it('keeps every image as it came, however they are put together, and knows those that came before', async () => {
    const [first, frame, tile] = [randomBytes(100), randomBytes(400_000), randomBytes(3_000_000)];
    const posted = [first, frame, first, randomBytes(800_000), tile, randomBytes(100), frame, first, tile];
    const id = await create(
      {},
      posted.map((bytes, n) => ({ ...file(bytes), filename: `${n}.png`, width: n })),
    );
    const { images = [] } = (await getAnalysisDocument(db, 'default', id)) ?? {};
    expect(images.map(({ filename, width }) => [filename, width])).toEqual(posted.map((_, n) => [`${n}.png`, n]));
    expect(images.map(({ duplicateOf }) => duplicateOf?.index ?? null)).toEqual([
      null,
      null,
      0,
      null,
      null,
      null,
      1,
      0,
      4,
    ]);
    for (const [n, bytes] of posted.entries()) expect((await readImageBytes(db, id, n))?.equals(bytes)).toBe(true);
    const again = await create({}, [file(tile), file(first)]);
    expect((await getAnalysisDocument(db, 'default', again))?.images.map(({ duplicateOf }) => duplicateOf)).toEqual([
      { analysisId: id, index: 4 },
      { analysisId: id, index: 0 },
    ]);
  });

  it('has ids that sort by arrival', async () => {
    const first = await create();
    await new Promise((settle) => setTimeout(settle, 3));
    const second = await create();
    expect(second > first).toBe(true);
  });
});

describe('ids that name nothing', () => {
  it.each(['', 'x', '../etc', ABSENT, `${ABSENT}0`, "'; DROP TABLE analyses; --"])('%j', async (id) => {
    expect(await getAnalysisDocument(db, 'default', id)).toBeNull();
    expect(await deleteAnalysis(db, 'default', id)).toBe(false);
    expect(await getCells(db, 'default', id, { limit: 10 })).toBeNull();
    expect(await getImageFile(db, 'default', id, 0)).toBeNull();
    expect(await getImageCells(db, 'default', id, 0)).toBeNull();
    expect(await getImageSaliency(db, 'default', id, 0)).toBeNull();
    expect(await getCellArtefact(db, 'default', id, '0-0', 'crop')).toBeNull();
    expect(await waitForCompletion(db, 'default', id, 0)).toBeNull();
    expect(await startImage(db, id, 0)).toBeNull();
    expect(await finishAnalysis(db, id, FINISH)).toBeNull();
    expect(await failAnalysis(db, id, IMAGE_INTERRUPTED, FINISH.eventsOf)).toBeNull();
  });

  it('image indexes and cell ids that no image or cell can have', async () => {
    const id = await create();
    await analysed(id, 0, [cellFinding('neutrophil')]);
    for (const index of [-1, 1, 0.5, 2 ** 40, Number.NaN]) {
      expect(await getImageFile(db, 'default', id, index)).toBeNull();
      expect(await getImageCells(db, 'default', id, index)).toBeNull();
    }
    for (const cell of ['', '0', '0-', '0-1', '0-99999999999', '1-0', 'a-b', '0-0-0']) {
      expect(await getCellArtefact(db, 'default', id, cell, 'mask'), cell).toBeNull();
    }
  });
});

describe('the result of an image', () => {
  it('is read back as it was found', async () => {
    const id = await create();
    const cells = [
      cellFinding('neutrophil', {
        flags: ['low_confidence', 'touching'],
        areaUm2: null,
        box: { x: 1, y: 2, width: 3, height: 4 },
        subtype: { value: 'band', probability: 0.8 },
        morphology: { attributes: { granularity: { value: 'yes', probability: 0.9 } }, nuclearAreaRatio: 0.4 },
      }),
      cellFinding('blast', { box: { x: 300, y: 10, width: 20, height: 9 }, flags: ['border'] }),
    ];
    expect(await analysed(id, 0, cells)).toBe(true);
    const page = await getCells(db, 'default', id, { limit: 10 });
    expect(page?.total).toBe(2);
    expect(page?.items).toEqual([
      {
        id: '0-0',
        image: 0,
        box: { x: 1, y: 2, width: 3, height: 4 },
        areaUm2: null,
        class: 'neutrophil',
        reviewedClass: null,
        reviewedBy: null,
        reviewedAt: null,
        confidence: 0.97,
        probabilities: { neutrophil: 0.97, artefact: 0.03 },
        subtype: { value: 'band', probability: 0.8 },
        morphology: { attributes: { granularity: { value: 'yes', probability: 0.9 } }, nuclearAreaRatio: 0.4 },
        saliencyConsistency: 0.75,
        rejectScore: 0.02,
        flags: ['low_confidence', 'touching'],
        counted: true,
      },
      {
        id: '0-1',
        image: 0,
        box: { x: 300, y: 10, width: 20, height: 9 },
        areaUm2: 10,
        class: 'blast',
        reviewedClass: null,
        reviewedBy: null,
        reviewedAt: null,
        confidence: 0.97,
        probabilities: { blast: 0.97, artefact: 0.03 },
        subtype: null,
        morphology: null,
        saliencyConsistency: 0.75,
        rejectScore: 0.02,
        flags: ['border'],
        // The right border cuts it.
        counted: false,
      },
    ]);
    const drawn = await getImageCells(db, 'default', id, 0);
    expect(drawn).toMatchObject({ width: 320, height: 240, cells: [{ id: '0-0' }, { id: '0-1', class: 'blast' }] });
    const mask = await decodeGreyPng(drawn?.cells[1]?.mask ?? Buffer.alloc(0));
    expect([mask.width, mask.height, mask.data[0]]).toEqual([20, 9, 255]);
    const cam = await decodeGreyPng((await getCellArtefact(db, 'default', id, '0-1', 'cam')) ?? Buffer.alloc(0));
    expect([...cam.data]).toEqual([0, 85, 170, 255]);
    const saliency = await decodeGreyPng((await getImageSaliency(db, 'default', id, 0)) ?? Buffer.alloc(0));
    expect([...saliency.data]).toEqual([0, 1, 2, 3]);
    const document = await getAnalysisDocument(db, 'default', id);
    expect(document).toMatchObject({ status: 'processing', model: TEST_MODEL });
    expect(document?.images[0]).toMatchObject({
      status: 'completed',
      micronsPerPixel: 0.25,
      scaleSource: 'estimated',
      cellCount: 2,
      saliencyConsistency: 0.75,
    });
  });

  it('replaces what an earlier run wrote', async () => {
    const id = await create();
    await analysed(id, 0, [cellFinding('neutrophil'), cellFinding('monocyte'), cellFinding('basophil')]);
    await saveImageResult(db, id, 0, await toImageResult(imageAnalysis([cellFinding('eosinophil')]), TEST_MODEL));
    const page = await getCells(db, 'default', id, { limit: 10 });
    expect(page?.items.map((cell) => cell.class)).toEqual(['eosinophil']);
    expect(await rows('cell_rasters', id)).toBe(1);
    expect(await rows('consistency_scores', id)).toBe(1);
    expect((await getAnalysisDocument(db, 'default', id))?.images[0]?.cellCount).toBe(1);
  });

  it('is written once, however many runs write it at the same time', async () => {
    const id = await create();
    await startImage(db, id, 0);
    const result = await toImageResult(imageAnalysis([cellFinding('neutrophil'), cellFinding('monocyte')]), TEST_MODEL);
    const saved = await Promise.all(Array.from({ length: 8 }, () => saveImageResult(db, id, 0, result)));
    expect(saved).toEqual(saved.map(() => true));
    for (const table of ['cells', 'cell_rasters', 'consistency_scores']) expect(await rows(table, id)).toBe(2);
    expect(await rows('image_saliency', id)).toBe(1);
  });

  it('keeps each picture with its cell', async () => {
    const id = await create();
    const found = await toImageResult(imageAnalysis(Array.from({ length: 5 }, () => cellFinding('blast'))), TEST_MODEL);
    const cells = found.cells.map((cell, i) => ({
      ...cell,
      mask: Buffer.from(`mask ${i}`),
      crop: Buffer.from(`crop of ${i}`),
      cam: Buffer.alloc(i, i),
    }));
    await startImage(db, id, 0);
    await saveImageResult(db, id, 0, { ...found, cells });
    for (const [i, { mask, crop, cam }] of cells.entries()) {
      const stored = (kind: 'mask' | 'crop' | 'cam') => getCellArtefact(db, 'default', id, `0-${i}`, kind);
      expect([await stored('mask'), await stored('crop'), await stored('cam')]).toEqual([mask, crop, cam]);
    }
  });

  it('holds more cells than one statement takes', async () => {
    const id = await create();
    await analysed(
      id,
      0,
      Array.from({ length: 450 }, () => cellFinding('lymphocyte')),
    );
    const numbers: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await getCells(db, 'default', id, { limit: 128, ...(cursor === undefined ? {} : { cursor }) });
      expect(page?.total).toBe(450);
      numbers.push(...(page?.items.map((cell) => cell.id) ?? []));
      cursor = page?.nextCursor ?? undefined;
    } while (cursor !== undefined);
    expect(numbers).toEqual(Array.from({ length: 450 }, (_, n) => `0-${n}`));
  });

  it('is filtered by image and class, and its cursors go on where the page ended', async () => {
    const id = await create({}, [file(), file(), file()]);
    await analysed(id, 0, [cellFinding('neutrophil'), cellFinding('monocyte')]);
    await analysed(id, 2, [cellFinding('monocyte'), cellFinding('monocyte')]);
    const monocytes = await getCells(db, 'default', id, { limit: 2, class: 'monocyte' });
    expect(monocytes).toMatchObject({ total: 3, nextCursor: '2-0', items: [{ id: '0-1' }, { id: '2-0' }] });
    const rest = await getCells(db, 'default', id, { limit: 2, class: 'monocyte', cursor: '2-0' });
    expect(rest).toMatchObject({ total: 3, nextCursor: null, items: [{ id: '2-1' }] });
    expect(await getCells(db, 'default', id, { limit: 5, image: 1 })).toEqual({
      items: [],
      nextCursor: null,
      total: 0,
    });
    await expect(getCells(db, 'default', id, { limit: 5, cursor: 'nonsense' })).rejects.toThrow(InvalidCursorError);
  });

  it('does not change an analysis that has ended, nor bring back one that was deleted', async () => {
    const id = await create();
    await analysed(id, 0, [cellFinding('neutrophil')]);
    await finishAnalysis(db, id, FINISH);
    expect(await analysed(id, 0, [])).toBe(false);
    expect(await saveImageFailure(db, id, 0, IMAGE_INTERRUPTED)).toBe(false);
    expect(await startImage(db, id, 0)).toBeNull();
    expect((await getCells(db, 'default', id, { limit: 5 }))?.total).toBe(1);
    await deleteAnalysis(db, 'default', id);
    expect(await analysed(id, 0, [cellFinding('neutrophil')])).toBe(false);
    expect(await getAnalysisDocument(db, 'default', id)).toBeNull();
  });

  it('counts the runs that were cut off, not those that were given back', async () => {
    const id = await create();
    expect((await startImage(db, id, 0))?.attempts).toBe(1);
    expect((await startImage(db, id, 0))?.attempts).toBe(2);
    await releaseImage(db, id, 0);
    expect((await startImage(db, id, 0))?.attempts).toBe(2);
  });

  it('begins no image while an urgent one waits, where that is asked for', async () => {
    // No urgent order of another test.
    const alone = await openTestDatabase();
    const { database } = alone;
    const order = async (priority: Priority, images: number): Promise<string> =>
      (await createAnalysis(database, 'default', { priority, images: Array.from({ length: images }, () => file()) }))
        .id;
    const routine = await order('routine', 1);
    const stat = await order('stat', 2);
    expect(await startImageUnlessUrgent(database, routine, 0)).toBe(URGENT_FIRST);
    await startImage(database, stat, 0);
    expect(await startImageUnlessUrgent(database, routine, 0)).toBe(URGENT_FIRST);
    await startImage(database, stat, 1);
    expect(await startImageUnlessUrgent(database, routine, 0)).toMatchObject({ attempts: 1, laboratory: 'default' });
    await deleteAnalysis(database, 'default', routine);
    expect(await startImageUnlessUrgent(database, routine, 0)).toBeNull();
    await alone.close();
  });

  it('is begun with the bytes that were posted, which a process that stored them need not read again', async () => {
    const here = await openDatabase({
      databaseUrl: test.url,
      dataDir: '/nonexistent',
      log: pino({ level: 'silent' }),
      objects: testObjects(),
      worker: true,
    });
    const bytes = randomBytes(1000);
    const large = randomBytes(300 * 1024);
    const { id } = await createAnalysis(here, 'default', { images: [file(bytes), file(large)] });
    expect((await startImage(here, id, 0))?.bytes).toBe(bytes);
    // Another run.
    const again = (await startImage(here, id, 0))?.bytes;
    expect(again).toEqual(bytes);
    expect(again).not.toBe(bytes);
    expect((await startImage(here, id, 1))?.bytes).toEqual(large);
    expect((await startImage(db, id, 0))?.bytes).toEqual(bytes);
    await here.close();
    await deleteAnalysis(db, 'default', id);
  });

  it('of all images of an analysis at once does not deadlock with its end', async () => {
    const id = await create(
      {},
      Array.from({ length: 6 }, () => file()),
    );
    // An end that finds an image which nobody has begun leaves the analysis open.
    for (let index = 0; index < 6; index++) await startImage(db, id, index);
    const saves = Array.from({ length: 6 }, (_, index) => analysed(id, index, [cellFinding('neutrophil')]));
    const end = new Promise((settle) => setTimeout(settle, 5)).then(() => finishAnalysis(db, id, FINISH));
    const saved = (await Promise.all(saves)).filter(Boolean).length;
    const finished = await end;
    // Whatever the end saw is what its document says; nothing is written behind it.
    const completed = finished?.document.images.filter((image) => image.status === 'completed').length;
    expect(completed).toBe(saved);
  });
});

describe('the end of an analysis', () => {
  it('stores the differential as document and as rows', async () => {
    const id = await create({ wbcCount: 8 });
    await analysed(id, 0, [
      cellFinding('neutrophil'),
      cellFinding('neutrophil'),
      cellFinding('lymphocyte'),
      cellFinding('erythroblast'),
    ]);
    const finished = await finishAnalysis(db, id, FINISH);
    expect(finished).toMatchObject({ changed: true, deliveryIds: [] });
    const document = await getAnalysisDocument(db, 'default', id);
    expect(document).toEqual(finished?.document);
    expect(document).toMatchObject({ status: 'completed', differential: { totalWbc: 3 }, review: { required: true } });
    expect(document?.completedAt).toMatch(/^\d{4}-.*Z$/);
    const stored = await db.prisma.differentialRow.findMany({
      where: { analysisId: id, count: { gt: 0 } },
      orderBy: { class: 'asc' },
    });
    expect(stored.map(({ class: type, count }) => [type, count])).toEqual([
      ['erythroblast', 1],
      ['lymphocyte', 1],
      ['neutrophil', 2],
    ]);
    expect(stored[2]).toMatchObject({ percent: 66.67, ciLow: 9.43, ciHigh: 99.16 });
    const [summary] = (await listAnalyses(db, 'default', { limit: 1 })).items;
    expect(summary).toMatchObject({ id, status: 'completed', totalWbc: 3, reviewRequired: true, imageCount: 1 });
  });

  it('happens once, whoever comes second', async () => {
    const id = await create({ callbackUrl: 'http://lis.test/' });
    await analysed(id, 0, [cellFinding('neutrophil')]);
    const both = await Promise.all([finishAnalysis(db, id, FINISH), finishAnalysis(db, id, FINISH)]);
    expect(both.map((finished) => finished?.changed).sort()).toEqual([false, true]);
    expect(both[0]?.document).toEqual(both[1]?.document);
    expect(both[0]?.deliveryIds).toHaveLength(1);
    expect(both[0]?.deliveryIds).toEqual(both[1]?.deliveryIds);
    expect(await rows('deliveries', id)).toBe(1);
  });

  it('stores what was found in the last image with it, all or nothing', async () => {
    const id = await create({}, [file(), file()]);
    await analysed(id, 0, [cellFinding('neutrophil')]);
    await startImage(db, id, 1);
    const result = await toImageResult(imageAnalysis([cellFinding('lymphocyte')]), TEST_MODEL);
    const last = { index: 1, result };
    const eventsOf = () => {
      throw new Error('the process has lost its mind');
    };
    await expect(finishAnalysis(db, id, { ...FINISH, last, eventsOf })).rejects.toThrow('lost its mind');
    expect(await rows('cells', id)).toBe(1);
    expect(await getAnalysisDocument(db, 'default', id)).toMatchObject({
      status: 'processing',
      images: [{ status: 'completed' }, { status: 'processing' }],
    });
    const finished = await finishAnalysis(db, id, { ...FINISH, last });
    expect(finished).toMatchObject({ changed: true, document: { differential: { totalWbc: 2 } } });
    expect(await rows('cells', id)).toBe(2);
    // A second run of the same job finds the end.
    expect(await finishAnalysis(db, id, { ...FINISH, last })).toMatchObject({ changed: false });
    expect(await rows('cells', id)).toBe(2);
  });

  it('ends an order of one image alike, whether its result is stored before or with the end', async () => {
    // Found twice: putting a result together frees its rasters, where Node.js can.
    const cells = () => [cellFinding('neutrophil'), { ...cellFinding('blast'), counted: false }];
    const result = await toImageResult(imageAnalysis(cells()), TEST_MODEL);
    const image = file();
    const [before, together] = [await create({}, [image]), await create({}, [image])];
    await analysed(before, 0, cells());
    await startImage(db, together, 0);
    const read = (await finishAnalysis(db, before, FINISH))?.document;
    const written = (await finishAnalysis(db, together, { ...FINISH, last: { index: 0, result } }))?.document;
    const timeless = (document: AnalysisDocument | undefined) =>
      JSON.parse(JSON.stringify(document), (key, value) =>
        /^(id|analysisId)$|At$|duplicateOf/.test(key) ? undefined : value,
      );
    expect(timeless(written)).toEqual(timeless(read));
    expect(written?.images[0]).toMatchObject({
      status: 'completed',
      cellCount: 2,
      filename: read?.images[0]?.filename,
    });
    expect(await getAnalysisDocument(db, 'default', together)).toEqual(JSON.parse(JSON.stringify(written)));
  });

  it('stores what was found in the last image in place of what an earlier run found', async () => {
    const id = await create();
    await analysed(id, 0, [cellFinding('neutrophil'), cellFinding('neutrophil')]);
    const result = await toImageResult(
      imageAnalysis(Array.from({ length: 250 }, () => cellFinding('monocyte'))),
      TEST_MODEL,
    );
    const finished = await finishAnalysis(db, id, { ...FINISH, last: { index: 0, result } });
    expect(finished?.document.differential?.totalWbc).toBe(250);
    expect(await rows('cells', id)).toBe(250);
    expect(await rows('cell_rasters', id)).toBe(250);
  });

  it('completes when some images failed, and names them', async () => {
    const id = await create({}, [file(), file(), file()]);
    await analysed(id, 0, [cellFinding('neutrophil')]);
    await startImage(db, id, 1);
    await saveImageFailure(db, id, 1, {
      code: 'image-truncated',
      title: 'The image cannot be read',
      detail: 'Export it again.',
    });
    // The third was begun and never finished: its worker was killed again and again.
    await startImage(db, id, 2);
    const document = (await finishAnalysis(db, id, FINISH))?.document;
    expect(document?.status).toBe('completed');
    expect(document?.images.map((image) => image.problem?.code ?? null)).toEqual([
      null,
      'image-truncated',
      'image-interrupted',
    ]);
    expect(document?.review?.reasons.find((reason) => reason.code === 'image_failed')?.images).toEqual([1, 2]);
  });

  it('waits for an image that no run has begun', async () => {
    const id = await create({ callbackUrl: 'http://lis.test/' }, [file(), file()]);
    await analysed(id, 0, [cellFinding('neutrophil')]);
    expect(await finishAnalysis(db, id, FINISH)).toBeNull();
    expect(await getAnalysisDocument(db, 'default', id)).toMatchObject({ status: 'processing' });
    await analysed(id, 1, [cellFinding('lymphocyte')]);
    expect((await finishAnalysis(db, id, FINISH))?.document.differential?.totalWbc).toBe(2);
  });

  it('fails when every image failed', async () => {
    const id = await create({ callbackUrl: 'http://lis.test/' }, [file(), file()]);
    await saveImageFailure(db, id, 0, { code: 'image-truncated', title: 't', detail: 'd' });
    await saveImageFailure(db, id, 1, { code: 'image-corrupt', title: 't', detail: 'd' });
    const finished = await finishAnalysis(db, id, FINISH);
    expect(finished?.document).toMatchObject({
      status: 'failed',
      differential: null,
      review: null,
      problem: { code: 'all-images-failed' },
    });
    expect(finished?.deliveryIds).toHaveLength(1);
    expect((await getAnalysisDocument(db, 'default', id))?.status).toBe('failed');
  });

  it('with images without a cell is a clean result', async () => {
    const id = await create();
    await analysed(id, 0, []);
    const document = (await finishAnalysis(db, id, FINISH))?.document;
    expect(document).toMatchObject({ status: 'completed', differential: { totalWbc: 0 }, review: { required: true } });
    expect(document?.review?.reasons.map((reason) => reason.code)).toContain('no_wbc_found');
  });

  it('wakes whoever waits for it', async () => {
    const id = await create();
    await analysed(id, 0, []);
    const begun = performance.now();
    const waiting = waitForCompletion(db, 'default', id, 20_000);
    setTimeout(() => void finishAnalysis(db, id, FINISH), 100);
    expect(await waiting).toEqual(await getAnalysisDocument(db, 'default', id));
    expect((await waiting)?.status).toBe('completed');
    // The notice came, not the look at the row that a waiter takes every second.
    expect(performance.now() - begun).toBeLessThan(900);
  });

  it('wakes whoever waits for it in another process', async () => {
    const id = await create();
    await analysed(id, 0, []);
    const other = await openDatabase({
      databaseUrl: db.url,
      dataDir: '',
      log: pino({ level: 'silent' }),
      migrate: false,
    });
    try {
      const begun = performance.now();
      const waiting = waitForCompletion(db, 'default', id, 20_000);
      setTimeout(() => void finishAnalysis(other, id, FINISH), 100);
      expect(await waiting).toEqual(await getAnalysisDocument(db, 'default', id));
      expect(performance.now() - begun).toBeLessThan(900);
    } finally {
      await other.close();
    }
  });

  it('is not awaited longer than asked, or than the waiter stays', async () => {
    const id = await create();
    expect(await waitForCompletion(db, 'default', id, 50)).toBeNull();
    const leaving = new AbortController();
    setTimeout(() => leaving.abort(), 50);
    const begun = performance.now();
    expect(await waitForCompletion(db, 'default', id, 20_000, leaving.signal)).toBeNull();
    expect(performance.now() - begun).toBeLessThan(900);
  });

  it('answers a waiter whose analysis is deleted', async () => {
    const id = await create();
    const begun = performance.now();
    const waiting = waitForCompletion(db, 'default', id, 20_000);
    await deleteAnalysis(db, 'default', id);
    expect(await waiting).toBeNull();
    expect(performance.now() - begun).toBeLessThan(5_000);
  });
});

describe('the list', () => {
  it('is newest first, by page, by accession number and by status', async () => {
    const accessionNumber = `L-${randomBytes(4).toString('hex')}`;
    const ids: string[] = [];
    for (let n = 0; n < 5; n++) {
      ids.push(await create({ accessionNumber }));
      await new Promise((settle) => setTimeout(settle, 2));
    }
    const newest = ids.toReversed();
    const first = await listAnalyses(db, 'default', { accessionNumber, limit: 2 });
    expect(first.items.map((item) => item.id)).toEqual(newest.slice(0, 2));
    const second = await listAnalyses(db, 'default', { accessionNumber, limit: 2, cursor: first.nextCursor ?? '' });
    expect(second.items.map((item) => item.id)).toEqual(newest.slice(2, 4));
    const last = await listAnalyses(db, 'default', { accessionNumber, limit: 2, cursor: second.nextCursor ?? '' });
    expect(last).toMatchObject({ items: [{ id: newest[4] }], nextCursor: null });
    expect((await listAnalyses(db, 'default', { accessionNumber, status: 'completed', limit: 9 })).items).toEqual([]);
    expect((await listAnalyses(db, 'default', { accessionNumber: `${accessionNumber}%`, limit: 9 })).items).toEqual([]);
    await expect(listAnalyses(db, 'default', { limit: 2, cursor: 'nonsense' })).rejects.toThrow(InvalidCursorError);
  });
});

describe('removal', () => {
  const TABLES = [
    'images',
    'image_files',
    'image_saliency',
    'cells',
    'cell_rasters',
    'consistency_scores',
    'differential_rows',
    'deliveries',
  ];

  it('takes images and results together', async () => {
    const id = await create({ callbackUrl: 'http://lis.test/' });
    const other = await create();
    await analysed(id, 0, [cellFinding('neutrophil')]);
    await finishAnalysis(db, id, FINISH);
    for (const table of TABLES) expect(await rows(table, id), table).toBeGreaterThan(0);
    expect(await deleteAnalysis(db, 'default', id)).toBe(true);
    for (const table of TABLES) expect(await rows(table, id), table).toBe(0);
    expect(await deleteAnalysis(db, 'default', id)).toBe(false);
    expect(await getAnalysisDocument(db, 'default', other)).not.toBeNull();
  });

  it('by age takes what is older and nothing else', async () => {
    const old = await create();
    const young = await create();
    await db.pool.query(`UPDATE analyses SET created_at = now() - interval '31 days' WHERE id = $1`, [old]);
    await db.pool.query(`UPDATE analyses SET created_at = now() - interval '29 days' WHERE id = $1`, [young]);
    expect(await removeOlderThan(db, 30)).toHaveLength(1);
    expect(await getAnalysisDocument(db, 'default', old)).toBeNull();
    expect(await getAnalysisDocument(db, 'default', young)).not.toBeNull();
  });
});

describe('the load of the queue', () => {
  it('is the images that wait for their first run, and those that have begun and not ended', async () => {
    const before = await queueLoad(db);
    const id = await create({}, [file(), file(), file()]);
    expect(await queueLoad(db)).toEqual({ ...before, waiting: before.waiting + 3 });
    await analysed(id, 0, []);
    await startImage(db, id, 1);
    expect(await queueLoad(db)).toEqual({ waiting: before.waiting + 1, running: before.running + 1 });
    await failAnalysis(db, id, IMAGE_INTERRUPTED, () => []);
    expect(await queueLoad(db)).toEqual(before);
  });
});

describe('the clock', () => {
  afterEach(() => void vi.useRealTimers());

  it.each([0, 3_600, -90])('is told to be %i s ahead of that of the database', async (seconds) => {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + seconds * 1000 });
    const offset = await readClockOffset(db);
    expect(Math.abs(offset - seconds)).toBeLessThan(2);
  });
});

describe('what waits', () => {
  it('is counted, with the age of the oldest order', async () => {
    const before = await readBacklog(db);
    const id = await create({ callbackUrl: 'https://lis.example/hook' }, [file(), file()]);
    // Older than what other tests of this file leave open.
    await db.pool.query(`UPDATE analyses SET created_at = now() - interval '400 days' WHERE id = $1`, [id]);
    const waiting = await readBacklog(db);
    expect(waiting.images).toBe(before.images + 2);
    expect(waiting.oldestSeconds).toBeGreaterThanOrEqual(399 * 24 * 3600);
    await analysed(id, 0, []);
    await analysed(id, 1, []);
    await finishAnalysis(db, id, FINISH);
    const after = await readBacklog(db);
    expect(after.images).toBe(before.images);
    expect(after.oldestSeconds).toBeLessThan(399 * 24 * 3600);
    expect(after.deliveries).toBe(before.deliveries + 1);
  });
});

describe('what the sweep asks for', () => {
  it('is every analysis that has not ended, with the images still to do', async () => {
    const id = await create({ priority: 'stat' }, [file(), file(), file()]);
    await analysed(id, 1, []);
    const done = await create();
    await failAnalysis(db, done, IMAGE_INTERRUPTED, FINISH.eventsOf);
    const open = await openAnalyses(db, 0, 1000);
    expect(open.find((one) => one.id === id)).toEqual({
      id,
      priority: 'stat',
      turn: expect.any(Number),
      openImages: [0, 2],
    });
    expect(open.some((one) => one.id === done)).toBe(false);
    expect((await openAnalyses(db, 60_000, 1000)).some((one) => one.id === id)).toBe(false);
    expect((await openAnalyses(db, 0, 1000, id)).some((one) => one.id === id)).toBe(false);
  });

  it('does not depend on the clocks of those who store and ask', async () => {
    const hour = 3_600_000;
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + hour });
    try {
      const id = await create();
      const listed = async (olderThanMs: number) =>
        (await openAnalyses(db, olderThanMs, 1000)).some((one) => one.id === id);
      expect(await listed(hour / 2)).toBe(false);
      vi.useRealTimers();
      expect(await listed(0)).toBe(true);
    } finally {
      vi.useRealTimers();
    }
  });

  it('is asked by one process at a time', async () => {
    const inner = await withSweepLock(db, () => withSweepLock(db, async () => 'second'));
    expect(inner).toBeNull();
    expect(await withSweepLock(db, async () => 'later')).toBe('later');
  });
});

describe('a delivery', () => {
  const CLAIM = { leaseMs: 60_000, lane: 'prompt' } as const;
  const END = { disableAfterMs: 86_400_000 };
  const result = (httpStatus: number) => ({
    ok: httpStatus < 300,
    httpStatus,
    error: httpStatus < 300 ? null : `the receiver answered ${httpStatus}`,
    durationMs: 12.3,
    gone: false,
  });
  let receivers = 0;
  /** Each has a receiver of its own unless told otherwise. */
  async function pending(given?: string): Promise<string> {
    receivers += 1;
    const callbackUrl = given ?? `http://lis-${receivers}.test/hook`;
    const id = await create({ callbackUrl });
    await analysed(id, 0, []);
    const finished = await finishAnalysis(db, id, FINISH);
    return finished?.deliveryIds[0] ?? '';
  }
  async function claimed(id: string, options: Parameters<typeof claimDelivery>[2] = CLAIM): Promise<Delivery> {
    const claim = await claimDelivery(db, id, options);
    if (claim.kind !== 'claimed') throw new Error(claim.kind);
    return claim.delivery;
  }
  const row = (id: string) => db.prisma.delivery.findUnique({ where: { id } });

  it('is claimed by one of many', async () => {
    const id = await pending('http://one.test/hook');
    const claims = await Promise.all(Array.from({ length: 5 }, () => claimDelivery(db, id, CLAIM)));
    expect(claims.filter(({ kind }) => kind === 'claimed')).toMatchObject([
      { delivery: { id, url: 'http://one.test/hook', attempts: 1, destination: 'http://one.test', endpoint: null } },
    ]);
    expect(claims.filter(({ kind }) => kind === 'later')).toHaveLength(4);
  });

  it('comes back when its claim has lapsed', async () => {
    const id = await pending();
    await claimed(id, { leaseMs: -5_000, lane: 'prompt' });
    expect(await overdueDeliveries(db, 1_000, 100)).toContain(id);
    expect((await claimed(id)).attempts).toBe(2);
    expect(await overdueDeliveries(db, 1_000, 100)).not.toContain(id);
  });

  it('waits for its next attempt, and ends delivered or given up', async () => {
    const id = await pending();
    const ended = await endAttempt(db, await claimed(id), result(503), { ...END, retryInMs: 60_000 });
    expect(ended).toEqual({ waiting: [], failing: true, disabled: null });
    const early = await claimDelivery(db, id, CLAIM);
    if (early.kind !== 'later') throw new Error(`claimed before its time: ${early.kind}`);
    expect(early.waitMs).toBeGreaterThan(50_000);
    expect(early.waitMs).toBeLessThanOrEqual(60_000);
    await db.pool.query('UPDATE deliveries SET next_attempt_at = now() WHERE id = $1', [id]);
    expect(await claimDelivery(db, id, CLAIM)).toEqual({ kind: 'failing' });
    const again = await claimed(id, { ...CLAIM, lane: 'failing' });
    await endAttempt(db, again, result(200), { ...END, retryInMs: null });
    expect(await row(id)).toMatchObject({ status: 'delivered', attempts: 2, lastStatus: 200, lastError: null });
    expect(await claimDelivery(db, id, CLAIM)).toEqual({ kind: 'none' });
    const log = await db.prisma.deliveryAttempt.findMany({ where: { deliveryId: id }, orderBy: { id: 'asc' } });
    expect(log).toMatchObject([
      { httpStatus: 503, error: 'the receiver answered 503', durationMs: 12 },
      { httpStatus: 200, error: null },
    ]);

    const hopeless = await pending();
    await endAttempt(db, await claimed(hopeless), result(410), { ...END, retryInMs: null });
    expect(await row(hopeless)).toMatchObject({ status: 'failed', attempts: 1, lastStatus: 410, nextAttemptAt: null });
  });

  it('waits while its receiver has enough to do, and is named when a place is free', async () => {
    const ids: string[] = [];
    for (let n = 0; n < ATTEMPTS_PER_DESTINATION + 2; n++) ids.push(await pending('http://busy.test/hook'));
    const claims = await Promise.all(ids.map((id) => claimDelivery(db, id, CLAIM)));
    expect(claims.map(({ kind }) => kind).sort()).toEqual([
      'busy',
      'busy',
      ...Array.from({ length: ATTEMPTS_PER_DESTINATION }, () => 'claimed'),
    ]);
    const [first] = claims.flatMap((claim) => (claim.kind === 'claimed' ? [claim.delivery] : []));
    if (first === undefined) throw new Error('nothing was claimed');
    const { waiting } = await endAttempt(db, first, result(204), { ...END, retryInMs: null });
    expect(waiting).toHaveLength(1);
    expect(claims[ids.indexOf(waiting[0] ?? '')]).toEqual({ kind: 'busy' });
  });

  it('of a dead receiver does not hide those of others from the sweep', async () => {
    for (let n = 0; n < 12; n++) await pending('http://dead.test/hook');
    await db.pool.query(
      `UPDATE deliveries SET next_attempt_at = now() - interval '1 day' WHERE url LIKE '%dead.test%'`,
    );
    const other = await pending();
    await db.pool.query(`UPDATE deliveries SET next_attempt_at = now() - interval '1 hour' WHERE id = $1`, [other]);
    expect(await overdueDeliveries(db, 60_000, ATTEMPTS_PER_DESTINATION + 1)).toContain(other);
  });

  it('goes with its analysis, also while an attempt is made', async () => {
    const id = await pending();
    const delivery = await claimed(id);
    await db.pool.query('DELETE FROM analyses WHERE id = (SELECT analysis_id FROM deliveries WHERE id = $1)', [id]);
    await endAttempt(db, delivery, result(200), { ...END, retryInMs: null });
    expect(await row(id)).toBeNull();
  });
});
