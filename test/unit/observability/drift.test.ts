import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Registry } from 'prom-client';
import { afterAll, describe, expect, it } from 'vitest';
import { ownReference, table } from '../../../src/commands/drift.js';
import { measureDrift } from '../../../src/commands/drift-measurement.js';
import { loadConfig } from '../../../src/config.js';
import {
  binOf,
  DRIFT_MEASURES,
  drifts,
  emptyTally,
  stabilityIndex,
  type Tally,
  tally,
} from '../../../src/observability/drift.js';
import { registerDriftMetrics } from '../../../src/observability/drift-metrics.js';
import { REFERENCE_FILE, readDriftReference } from '../../../src/observability/drift-reference.js';
import { loadModel } from '../../../src/vision/manifest.js';
import { createRandom } from '../../support/random.js';

const MODEL = { name: 'm', version: '1', sha256: 'ab' };
const folder = mkdtempSync(join(tmpdir(), 'leukodiff-drift-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** `n` cells and images whose values lie around `centre`. */
function drawn(n: number, centre: number, seed: number): Tally {
  const random = createRandom(seed);
  const histograms = emptyTally();
  for (let i = 0; i < n; i++) {
    for (const measure of ['confidence', 'consistency', 'brightness', 'background'] as const) {
      const value = Math.min(1, Math.max(0, centre + random.normal() * 0.05));
      tally(histograms, measure, String(binOf(value, DRIFT_MEASURES[measure].edges)));
    }
    tally(histograms, 'class', i % 3 === 0 ? 'lymphocyte' : 'neutrophil');
  }
  return histograms;
}

const indexOf = (reference: Tally, observed: Tally, measure: string): number =>
  drifts(reference, observed).find((one) => one.measure === measure)?.psi ?? Number.NaN;

describe('the stability index', () => {
  it('is the sum that the literature gives, with half an observation added to each bin', () => {
    // (0.5 − 0.9) · ln(0.5/0.9) + (0.5 − 0.1) · ln(0.5/0.1), when the halves no longer count.
    expect(stabilityIndex([9e6, 1e6], [5e6, 5e6])).toBeCloseTo(0.8789, 3);
    expect(stabilityIndex([30, 70], [300, 700])).toBeLessThan(1e-3);
    expect(Number.isFinite(stabilityIndex([10, 0], [0, 10]))).toBe(true);
    expect(Number.isFinite(stabilityIndex([0, 0], [0, 0]))).toBe(true);
  });

  it('stays low for more of the same, and passes the threshold for a shift of one standard deviation', () => {
    const reference = drawn(5_000, 0.7, 1);
    expect(indexOf(reference, drawn(1_000, 0.7, 2), 'confidence')).toBeLessThan(0.1);
    expect(indexOf(reference, drawn(1_000, 0.75, 3), 'confidence')).toBeGreaterThan(0.25);
    expect(indexOf(reference, drawn(1_000, 0.65, 4), 'brightness')).toBeGreaterThan(0.25);
  });

  it('sees a class that the reference has not', () => {
    const observed = drawn(300, 0.7, 5);
    tally(observed, 'class', 'blast', 150);
    expect(indexOf(drawn(300, 0.7, 6), observed, 'class')).toBeGreaterThan(0.25);
  });

  it('says where there are too few', () => {
    const enough = (n: number) =>
      Object.fromEntries(drifts(drawn(500, 0.7, 1), drawn(n, 0.7, 2)).map((one) => [one.measure, one.enough]));
    expect(enough(199)).toMatchObject({ confidence: false, class: false, brightness: true });
    expect(enough(200)).toMatchObject({ confidence: true, class: true });
    expect(enough(49)).toMatchObject({ brightness: false });
    expect(enough(50)).toMatchObject({ brightness: true, stain_density: false });
  });
});

describe('bins', () => {
  it('begin at their edge and rise', () => {
    expect([0, 0.0999, 0.1, 0.5, 1].map((value) => binOf(value, [0.1, 0.5]))).toEqual([0, 0, 1, 2, 2]);
    for (const { edges } of Object.values(DRIFT_MEASURES)) {
      if (edges !== null) expect([...edges].sort((a, b) => a - b)).toEqual([...new Set(edges)]);
    }
  });
});

describe('a reference', () => {
  const own = ownReference(
    new Map([
      ['north', drawn(300, 0.7, 1)],
      ['other', drawn(100, 0.6, 2)],
    ]),
    MODEL,
    30,
  );

  it('of the laboratory holds every site, and all of them for those that come later', () => {
    expect(own).toMatchObject({ schema: 1, kind: 'own', model: MODEL });
    expect(Object.values(own.all.confidence).reduce((a, b) => a + b, 0)).toBe(400);
    const sites = new Map([
      ['north', drawn(300, 0.7, 3)],
      ['new', drawn(300, 0.7, 3)],
    ]);
    const [fresh, known] = ['new', 'north'].map((site) =>
      measureDrift(own, sites).find((one) => one.site === site && one.measure === 'confidence'),
    );
    expect(known?.psi).toBeLessThan(fresh?.psi ?? 0);
    expect(() => ownReference(new Map(), MODEL, 30)).toThrow(/No result in the last 30 days/);
  });

  it('comes back from its file, and no other file is taken for one', async () => {
    const file = join(folder, 'reference.json');
    writeFileSync(file, JSON.stringify(own));
    expect(await readDriftReference(file)).toEqual(own);
    expect(await readDriftReference(join(folder, 'none.json'))).toBeNull();
    for (const text of [
      '',
      '[]',
      '{"schema":2}',
      JSON.stringify({ ...own, all: {} }),
      JSON.stringify({ ...own, sites: { a: 1 } }),
    ]) {
      writeFileSync(file, text);
      await expect(readDriftReference(file)).rejects.toThrow(/is no drift reference/);
    }
  });

  it('lies beside the shipped model, and was made with it', async () => {
    const { modelDir } = loadConfig({});
    const [reference, model] = [await readDriftReference(join(modelDir, REFERENCE_FILE)), await loadModel(modelDir)];
    expect(reference?.model.sha256, 'run `npm run drift-reference`').toBe(model.sha256);
    const cells = Object.values(reference?.all.confidence ?? {}).reduce((a, b) => a + b, 0);
    expect(cells).toBeGreaterThan(200);
  });

  it('is printed with a verdict on each measure', () => {
    const sites = new Map([['north', drawn(300, 0.9, 3)]]);
    const text = table(measureDrift(own, sites), own, { days: 7, threshold: 0.25, json: false, save: undefined });
    expect(text).toMatch(/^north +confidence +\d\.\d{3} +300 cells {2}DRIFTED$/m);
    expect(text).toMatch(/^north +sharpness .*too few to tell$/m);
    expect(text).toMatch(/^north +class .*as before$/m);
  });
});

describe('the drift metrics', () => {
  it('are measured now and then, and a scrape tells what was found last', async () => {
    const registry = new Registry();
    let measured = 0;
    const faults: unknown[] = [];
    registerDriftMetrics(registry, {
      kind: 'own',
      measure: async () => {
        measured += 1;
        if (measured > 1) throw new Error('down');
        return [{ site: 'north', measure: 'confidence', psi: 0.31, observations: 250, enough: true }];
      },
      refreshMs: 0,
      onError: (error) => faults.push(error),
    });
    await registry.metrics();
    for (let scrape = 0; scrape < 2; scrape++) {
      const text = await registry.metrics();
      expect(text).toContain('leukodiff_drift_psi{measure="confidence",site="north",reference="own"} 0.31\n');
      expect(text).toContain('leukodiff_drift_observations{measure="confidence",site="north"} 250\n');
      expect(text).toContain('leukodiff_drift_enough{measure="confidence",site="north"} 1\n');
    }
    expect(faults.length).toBeGreaterThan(0);
  });
});
