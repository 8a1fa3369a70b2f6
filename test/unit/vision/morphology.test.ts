import { describe, expect, it } from 'vitest';
import { parseManifest } from '../../../src/vision/manifest.js';
import { describeMorphology } from '../../../src/vision/morphology.js';
import { manifestJson } from '../../support/model-manifest.js';

const { cells: manifest } = parseManifest(JSON.stringify(manifestJson()));
// nucleusShape: segmented, band, round; granularity: no, yes; subtype: band, segmented, myelocyte.
const values = Float32Array.of(0.25, 0.5, 0.25, 0.125, 0.875, 0.25, 0.125, 0.625);
const mask = { width: 4, height: 2, data: Uint8Array.of(0, 128, 128, 255, 0, 0, 128, 255) };

describe('describeMorphology', () => {
  it('names the most probable value of each attribute, and measures the nucleus', () => {
    const { morphology } = describeMorphology(values, 'monocyte', mask, manifest);
    expect(morphology).toEqual({
      attributes: {
        nucleusShape: { value: 'band', probability: 0.5 },
        granularity: { value: 'yes', probability: 0.875 },
      },
      nuclearAreaRatio: 0.4,
    });
  });

  it('gives a finer class only where the class has one, and only of its own', () => {
    expect(describeMorphology(values, 'monocyte', mask, manifest).subtype).toBeNull();
    const band = describeMorphology(values, 'neutrophil', mask, manifest).subtype;
    expect(band?.value).toBe('band');
    expect(band?.probability).toBeCloseTo(2 / 3, 6);
    expect(describeMorphology(values, 'immature_granulocyte', mask, manifest).subtype).toEqual({
      value: 'myelocyte',
      probability: 1,
    });
  });

  it.each(['platelet', 'smudge', 'artefact', 'unidentified'] as const)('does not describe %s', (type) => {
    expect(describeMorphology(values, type, mask, manifest)).toEqual({ subtype: null, morphology: null });
  });

  it('survives an empty mask', () => {
    const empty = { width: 1, height: 1, data: Uint8Array.of(0) };
    expect(describeMorphology(values, 'blast', empty, manifest).morphology?.nuclearAreaRatio).toBe(0);
  });
});
