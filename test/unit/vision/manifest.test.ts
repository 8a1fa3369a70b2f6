import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ModelError } from '../../../src/vision/errors.js';
import { checkSignatures, loadModel, parseManifest, type SessionSignature } from '../../../src/vision/manifest.js';
import { manifestJson } from '../../support/model-manifest.js';

type Json = Record<string, unknown>;

/** The manifest with one field changed; `undefined` removes it. */
function withField(path: string, value: unknown): string {
  const json = manifestJson();
  const keys = path.split('.');
  let place: Json = json;
  for (const key of keys.slice(0, -1)) place = place[key] as Json;
  place[keys.at(-1) ?? ''] = value;
  return JSON.stringify(json);
}

describe('parseManifest', () => {
  it('reads what the program needs', () => {
    const manifest = parseManifest(JSON.stringify(manifestJson()));
    expect(manifest.saliency.scaleBins).toEqual({ firstOctave: -2, octavesPerBin: 0.25, count: 17 });
    expect(manifest.cells.classes).toHaveLength(10);
    expect(manifest.cells.attributes[1]).toEqual({ name: 'granularity', values: ['no', 'yes'] });
    expect(manifest.cells.subtypes).toEqual({ neutrophil: ['band', 'segmented'], immature_granulocyte: ['myelocyte'] });
    expect(manifest.files.cells.path).toBe('sg-cldff.onnx');
  });

  it.each([
    ['name', undefined],
    ['version', 'newest'],
    ['files.saliency.path', '../../etc/passwd'],
    ['files.saliency.path', '/abs.onnx'],
    ['files.cells.sha256', 'abc'],
    ['files.cells.bytes', '12'],
    ['saliency', null],
    ['saliency.micronsPerPixel', 0],
    ['saliency.stride', 2.5],
    ['saliency.outputs.centres', 7],
    ['saliency.centreThreshold', 1.5],
    ['saliency.scaleBins.count', Number.NaN],
    ['cells.classes', ['neutrophil']],
    ['cells.classes', ['neutrophil', 'neutrophil']],
    ['cells.classes', ['neutrophil', 'unicorn']],
    ['cells.classes', ['neutrophil', 'unidentified']],
    ['cells.unidentifiedBelow', -1],
    ['cells.rejectAbove', 2],
    ['cells.attributes', {}],
    ['cells.attributes', [{ name: 'nucleusShape', values: [] }]],
    ['cells.attributes', [{ name: 'Nucleus shape', values: ['round'] }]],
    ['cells.subtypes', null],
    ['cells.subtypes', { neutrophil: 'band' }],
  ])('refuses %s = %j and names it', (path, value) => {
    let message = '';
    try {
      parseManifest(withField(path, value));
    } catch (error) {
      expect(error).toBeInstanceOf(ModelError);
      message = (error as Error).message;
    }
    expect(message).toContain(path.split('.').slice(0, 3).join('.'));
  });

  it('refuses what is not JSON or not an object', () => {
    expect(() => parseManifest('{')).toThrow(ModelError);
    expect(() => parseManifest('[]')).toThrow(ModelError);
    expect(() => parseManifest('null')).toThrow(ModelError);
  });
});

describe('loadModel', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'model-'));
  });
  afterEach(async () => {
    await rm(folder, { recursive: true });
  });

  async function writeModel(): Promise<void> {
    const json = manifestJson();
    for (const [name, content] of [
      ['saliency', 'one'],
      ['cells', 'two'],
    ] as const) {
      const file = (json['files'] as Record<string, Json>)[name] as Json;
      await writeFile(join(folder, String(file['path'])), content);
      file['sha256'] = createHash('sha256').update(content).digest('hex');
      file['bytes'] = content.length;
    }
    await writeFile(join(folder, 'manifest.json'), JSON.stringify(json));
  }

  it('verifies the files and names the weights by one checksum', async () => {
    await writeModel();
    const { sha256, cellsPath } = await loadModel(folder);
    const hex = (text: string): string => createHash('sha256').update(text).digest('hex');
    expect(sha256).toBe(hex(hex('one') + hex('two')));
    expect(cellsPath).toBe(join(folder, 'sg-cldff.onnx'));
  });

  it('refuses changed and missing files, and says which', async () => {
    await writeModel();
    await writeFile(join(folder, 'sg-cldff.onnx'), 'twO');
    await expect(loadModel(folder)).rejects.toThrow(/sg-cldff\.onnx.*checksum/);
    await rm(join(folder, 'saliency.onnx'));
    await expect(loadModel(folder)).rejects.toThrow(/saliency\.onnx cannot be read/);
    await rm(join(folder, 'manifest.json'));
    await expect(loadModel(folder)).rejects.toThrow(/MODEL_DIR/);
  });
});

describe('checkSignatures', () => {
  const manifest = parseManifest(JSON.stringify(manifestJson()));
  const tensor = (name: string, type: string, ...shape: (string | number)[]) => ({ name, type, shape });
  const saliency: SessionSignature = {
    inputs: [tensor('field', 'uint8', 'n', 'h', 'w', 3)],
    outputs: [
      tensor('saliency', 'float32', 'n', 'h2', 'w2'),
      tensor('centres', 'float32', 'n', 'h2', 'w2'),
      tensor('scale', 'float32', 'n', 17),
    ],
  };
  const cells: SessionSignature = {
    inputs: [tensor('crops', 'uint8', 'n', 160, 160, 3), tensor('prior', 'float32', 'n', 160, 160)],
    outputs: [
      tensor('probabilities', 'float32', 'n', 10),
      tensor('segmentation', 'float32', 'n', 3, 80, 80),
      tensor('cam', 'float32', 'n', 20, 20),
      tensor('consistency', 'float32', 'n'),
      tensor('attributes', 'float32', 'n', 8),
      tensor('reject', 'float32', 'n'),
    ],
  };

  it('accepts what the manifest says', () => {
    expect(() => checkSignatures(manifest, saliency, cells)).not.toThrow();
  });

  it('refuses each tensor that is missing or of another type or size', () => {
    for (const [network, side, index] of [
      ['saliency', 'inputs', 0],
      ['saliency', 'outputs', 2],
      ['cells', 'inputs', 1],
      ['cells', 'outputs', 0],
      ['cells', 'outputs', 3],
      ['cells', 'outputs', 4],
    ] as const) {
      const given = { saliency, cells }[network];
      const original = given[side][index];
      if (original === undefined) throw new Error('no such tensor');
      for (const changed of [
        { ...original, name: 'other' },
        { ...original, type: 'int64' },
        { ...original, shape: original.shape.map(() => 999) },
        { ...original, shape: [...original.shape, 1] },
      ]) {
        const list = given[side].map((t, i) => (i === index ? changed : t));
        const altered = { saliency, cells, [network]: { ...given, [side]: list } };
        // A free dimension accepts any size: only a tensor with fixed ones can have wrong sizes.
        if (changed.shape.every((s) => s === 999) && original.shape.length === 1) continue;
        expect(() => checkSignatures(manifest, altered.saliency, altered.cells)).toThrow(original.name);
      }
    }
  });
});
