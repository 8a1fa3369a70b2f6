/** Findings as vision would hand them over, for tests of what happens to them afterwards. */
import type { CellType } from '../../src/hematology/cell-types.js';
import type { CellFinding, ImageAnalysis, ModelInfo } from '../../src/vision/types.js';

export const TEST_MODEL: ModelInfo = {
  name: 'test',
  version: '0.0.0',
  sha256: 'ab'.repeat(32),
  executionProvider: 'cpu',
};

export function cellFinding(type: CellType, overrides: Partial<CellFinding> = {}): CellFinding {
  const box = overrides.box ?? { x: 40, y: 40, width: 8, height: 6 };
  return {
    box,
    areaPx: 40,
    areaUm2: 10,
    class: type,
    confidence: 0.97,
    probabilities: { [type]: 0.97, artefact: 0.03 },
    subtype: null,
    morphology: null,
    saliencyConsistency: 0.75,
    rejectScore: 0.02,
    flags: [],
    mask: { width: box.width, height: box.height, data: new Uint8Array(box.width * box.height).fill(255) },
    window: box,
    crop: { width: 4, height: 4, data: new Uint8Array(4 * 4 * 3).fill(120) },
    cam: { width: 2, height: 2, data: new Uint8Array([0, 85, 170, 255]) },
    ...overrides,
  };
}

export function imageAnalysis(cells: readonly CellFinding[], overrides: Partial<ImageAnalysis> = {}): ImageAnalysis {
  return {
    width: 320,
    height: 240,
    scale: { micronsPerPixel: 0.25, source: 'estimated', workingMicronsPerPixel: 0.25, confidence: 0.9 },
    quality: { sharpness: 120, brightness: 0.8, clipped: 0, background: 0.5, flags: [] },
    saliencyConsistency: cells.length === 0 ? null : 0.75,
    cells,
    saliency: { width: 2, height: 2, data: new Uint8Array([0, 1, 2, 3]) },
    timingsMs: { decode: 1, scale: 1, locate: 1, infer: 1, postprocess: 1 },
    ...overrides,
  };
}
