/** An image in a process of its own, which can crash for real. */
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApartVision, withApart } from '../../src/vision/apart.js';
import { AnalysisCrashedError, createVision } from '../../src/vision/index.js';
import { MODEL_DIR } from '../support/model-dir.js';
import { POISON_HOOK, poisoned } from '../support/poison.js';

let vision: ApartVision;
let smear: Buffer;
beforeAll(async () => {
  const options = { modelDir: MODEL_DIR, executionProvider: 'cpu', threads: 1 } as const;
  vision = withApart(await createVision(options), options);
  smear = await readFile(new URL('../../samples/smear.png', import.meta.url));
});
afterAll(() => vision.close());

describe('an analysis apart', () => {
  it('finds the same', async () => {
    const [here, apart] = [await vision.analyze(smear), await vision.analyze(smear, { apart: true })];
    expect(here.cells.length).toBeGreaterThan(5);
    expect({ ...apart, timingsMs: null }).toEqual({ ...here, timingsMs: null });
  });

  it('refuses what cannot be decoded with the same reason', async () => {
    const bytes = smear.subarray(0, smear.length / 2);
    const here = await vision.analyze(bytes).catch((error: unknown) => error);
    const apart = await vision.analyze(bytes, { apart: true }).catch((error: unknown) => error);
    expect(here).toMatchObject({ name: 'UndecodableImageError', code: 'image-truncated' });
    expect(apart).toMatchObject({ name: 'UndecodableImageError', code: 'image-truncated' });
  });

  it('survives an image that kills its process, and goes on with the next', async () => {
    process.env['NODE_OPTIONS'] = POISON_HOOK;
    try {
      const [crash, next] = await Promise.allSettled([
        vision.analyze(poisoned(smear), { apart: true }),
        vision.analyze(smear, { apart: true }),
      ]);
      expect(crash.status === 'rejected' && crash.reason).toBeInstanceOf(AnalysisCrashedError);
      expect(crash.status === 'rejected' && String(crash.reason)).toMatch(/SIGSEGV/);
      expect(next.status).toBe('fulfilled');
    } finally {
      delete process.env['NODE_OPTIONS'];
    }
  });

  it('ends its process when the caller gives up', async () => {
    const controller = new AbortController();
    const work = vision.analyze(smear, { apart: true, signal: controller.signal });
    setImmediate(() => controller.abort(new Error('client left')));
    await expect(work).rejects.toThrow('client left');
    await expect(vision.analyze(smear, { apart: true })).resolves.toMatchObject({ width: expect.any(Number) });
  });
});
