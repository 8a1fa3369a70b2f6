import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { drift } from '../../../src/commands/drift.js';
import { histogramsBySite, lastDays } from '../../../src/commands/drift-measurement.js';
import { loadConfig } from '../../../src/config.js';
import { toImageResult } from '../../../src/jobs/analyze-image.js';
import { conclude } from '../../../src/jobs/finish-analysis.js';
import { IMAGE_INTERRUPTED } from '../../../src/jobs/problems.js';
import { binOf, DRIFT_MEASURES } from '../../../src/observability/drift.js';
import { createAnalysis } from '../../../src/storage/analyses.js';
import { saveImageResult, startImage } from '../../../src/storage/image-results.js';
import { finishAnalysis } from '../../../src/storage/results.js';
import { loadModel } from '../../../src/vision/manifest.js';
import { openTestDatabase, type TestDatabase } from '../../support/database.js';
import { cellFinding, imageAnalysis, TEST_MODEL } from '../../support/findings.js';

let test: TestDatabase;
beforeAll(async () => {
  test = await openTestDatabase();
});
afterAll(() => test.close());

const QUALITY = { sharpness: 3.2, brightness: 0.8, clipped: 0, background: 0.5, flags: [] };

/** A finished analysis with one image, posted `daysAgo`. */
async function analysed(
  laboratory: string,
  site: string | null,
  daysAgo: number,
  sha256 = TEST_MODEL.sha256,
): Promise<void> {
  const db = test.database;
  const images = [{ filename: 'a.png', contentType: 'image/png', bytes: new Uint8Array([1]) }];
  const { id } = await createAnalysis(db, laboratory, { site, images });
  await startImage(db, id, 0);
  const cells = [cellFinding('neutrophil'), cellFinding('blast', { confidence: 0.5 })];
  // An older version did not measure the stain.
  const quality = site === null ? QUALITY : { ...QUALITY, stain: { density: 0.31, balance: 0.66 } };
  const result = await toImageResult(imageAnalysis(cells, { quality }), { ...TEST_MODEL, sha256 });
  await saveImageResult(db, id, 0, result);
  await finishAnalysis(db, id, { conclude, interrupted: IMAGE_INTERRUPTED, eventsOf: () => [] });
  await db.pool.query(`UPDATE analyses SET created_at = now() - $2 * interval '1 day' WHERE id = $1`, [id, daysAgo]);
}

describe('what the drift report counts', () => {
  it('is every measure by listed site, of the period and of the model in use', async () => {
    await analysed('north', 'ward', 1);
    await analysed('north', null, 2);
    await analysed('south', 'x', 3);
    await analysed('south', 'x', 9);
    await analysed('south', 'x', 1, 'cd'.repeat(32));
    const sites = await histogramsBySite(test.database, lastDays(7), TEST_MODEL.sha256, ['north']);
    expect([...sites.keys()].sort()).toEqual(['north', 'other']);
    const bin = (measure: 'confidence' | 'consistency' | 'sharpness' | 'stain_density', value: number): string =>
      String(binOf(value, DRIFT_MEASURES[measure].edges));
    expect(sites.get('north')).toMatchObject({
      confidence: { [bin('confidence', 0.97)]: 2, [bin('confidence', 0.5)]: 2 },
      consistency: { [bin('consistency', 0.75)]: 4 },
      class: { neutrophil: 2, blast: 2 },
      sharpness: { [bin('sharpness', 3.2)]: 2 },
      stain_density: { [bin('stain_density', 0.31)]: 1 },
    });
    expect(sites.get('other')?.class).toEqual({ neutrophil: 1, blast: 1 });
  });
});

describe('the command', () => {
  const folder = mkdtempSync(join(tmpdir(), 'leukodiff-drift-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  it('keeps the laboratory’s own results as a reference, and holds later ones against it', async () => {
    const env = { DATABASE_URL: test.url, METRICS_SITES: 'east' };
    const { sha256 } = await loadModel(loadConfig(env).modelDir);
    for (let n = 0; n < 3; n++) await analysed('east', 'x', 1, sha256);
    const printed: string[] = [];
    const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => printed.push(String(text)) > 0);
    try {
      const options = { days: 7, threshold: 0.25, json: false, save: undefined };
      const file = join(folder, 'own.json');
      expect(await drift(loadConfig(env), { ...options, save: file })).toBe(true);
      expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({
        kind: 'own',
        model: { sha256 },
        sites: { east: { class: { neutrophil: 3, blast: 3 } } },
      });
      // The same once more: nothing has drifted. Six cells are too few for a verdict in any case.
      expect(await drift(loadConfig({ ...env, DRIFT_REFERENCE: file }), options)).toBe(true);
      expect(printed.join('')).toMatch(/^east +confidence +0\.000 +6 cells {2}too few to tell$/m);
      // Against the validation of the shipped model, as JSON.
      printed.length = 0;
      await drift(loadConfig(env), { ...options, json: true });
      expect(JSON.parse(printed.join(''))).toMatchObject({ reference: 'model', drifts: expect.any(Array) });
      await expect(drift(loadConfig({ ...env, DRIFT_REFERENCE: join(folder, 'none') }), options)).rejects.toThrow(
        /there is no/,
      );
    } finally {
      write.mockRestore();
    }
  });
});
