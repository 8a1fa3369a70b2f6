/** A manifest as the training package writes it, for tests that need its numbers but no networks. */
export function manifestJson(): Record<string, unknown> {
  const file = (path: string) => ({ path, sha256: 'a'.repeat(64), bytes: 10 });
  return {
    name: 'sg-cldff',
    version: '1.0.0',
    created: '2026-11-23T00:00:00Z',
    files: { saliency: file('saliency.onnx'), cells: file('sg-cldff.onnx') },
    saliency: {
      input: 'field',
      outputs: { saliency: 'saliency', centres: 'centres', scale: 'scale' },
      micronsPerPixel: 0.48,
      stride: 2,
      multipleOf: 16,
      centreThreshold: 0.3,
      minDistanceUm: 4.5,
      scaleBins: { firstOctave: -2, octavesPerBin: 0.25, count: 17 },
      scaleConfidence: 0.35,
    },
    cells: {
      inputs: { crops: 'crops', prior: 'prior' },
      outputs: {
        probabilities: 'probabilities',
        segmentation: 'segmentation',
        cam: 'cam',
        consistency: 'consistency',
      },
      size: 160,
      micronsPerPixel: 0.16,
      maskStride: 2,
      camSize: 20,
      classes: [
        'neutrophil',
        'lymphocyte',
        'monocyte',
        'eosinophil',
        'basophil',
        'immature_granulocyte',
        'blast',
        'erythroblast',
        'platelet',
        'artefact',
      ],
      unidentifiedBelow: 0.5,
      lowConfidenceBelow: 0.8,
      lowConsistencyBelow: 0.4,
    },
    data: [],
    licence: 'Apache-2.0',
  };
}
