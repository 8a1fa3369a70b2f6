import { expect, it } from 'vitest';
import { imageConsistency } from '../../../src/vision/consistency.js';

it('is the mean over white cells, declined ones included, others left out', () => {
  expect(
    imageConsistency([
      { class: 'neutrophil', saliencyConsistency: 0.8 },
      { class: 'unidentified', saliencyConsistency: 0.2 },
      { class: 'erythroblast', saliencyConsistency: 0.5 },
      { class: 'platelet', saliencyConsistency: 0 },
      { class: 'artefact', saliencyConsistency: 0 },
    ]),
  ).toBeCloseTo(0.5);
});

it('is null without white cells', () => {
  expect(imageConsistency([])).toBeNull();
  expect(imageConsistency([{ class: 'artefact', saliencyConsistency: 0.9 }])).toBeNull();
});
