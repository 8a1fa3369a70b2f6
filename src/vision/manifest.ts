/** The model's manifest: what the folder holds, how the networks are fed, and the thresholds that belong to the weights. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join, normalize } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { CELL_TYPES, type CellType } from '../hematology/cell-types.js';
import { ModelError } from './errors.js';

export interface ModelFile {
  /** Relative to the manifest's folder. */
  readonly path: string;
  readonly sha256: string;
  readonly bytes: number;
}

export interface SaliencyManifest {
  readonly input: string;
  readonly outputs: { readonly saliency: string; readonly centres: string; readonly scale: string };
  readonly micronsPerPixel: number;
  /** Input pixels per output pixel. */
  readonly stride: number;
  /** Height and width of the input are multiples of this. */
  readonly multipleOf: number;
  readonly centreThreshold: number;
  readonly minDistanceUm: number;
  readonly scaleBins: { readonly firstOctave: number; readonly octavesPerBin: number; readonly count: number };
  /** Below this confidence the estimated scale counts as unknown. */
  readonly scaleConfidence: number;
}

export interface CellsManifest {
  readonly inputs: { readonly crops: string; readonly prior: string };
  readonly outputs: {
    readonly probabilities: string;
    readonly segmentation: string;
    readonly cam: string;
    readonly consistency: string;
    readonly attributes: string;
    readonly reject: string;
  };
  /** Side of a crop in pixels. */
  readonly size: number;
  readonly micronsPerPixel: number;
  /** Crop pixels per segmentation pixel. */
  readonly maskStride: number;
  readonly camSize: number;
  readonly classes: readonly CellType[];
  readonly unidentifiedBelow: number;
  readonly lowConfidenceBelow: number;
  readonly lowConsistencyBelow: number;
  /** Above this reject score a cell is declined. */
  readonly rejectAbove: number;
  /** The parts of the attribute output, in its order. */
  readonly attributes: readonly AttributeSpec[];
  /** Values of the attribute `subtype` that a class may have; classes that are not named have none. */
  readonly subtypes: Readonly<Partial<Record<CellType, readonly string[]>>>;
}

export interface AttributeSpec {
  readonly name: string;
  readonly values: readonly string[];
}

export interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly files: { readonly saliency: ModelFile; readonly cells: ModelFile };
  readonly saliency: SaliencyManifest;
  readonly cells: CellsManifest;
}

/** A view of parsed JSON that names the place of what is wrong. */
class Reader {
  constructor(
    private readonly value: unknown,
    private readonly place: string,
  ) {}

  at(key: string): Reader {
    if (typeof this.value !== 'object' || this.value === null || Array.isArray(this.value)) {
      this.fail('is not an object');
    }
    return new Reader((this.value as Record<string, unknown>)[key], this.place === '' ? key : `${this.place}.${key}`);
  }

  text(pattern = /./): string {
    if (typeof this.value !== 'string' || !pattern.test(this.value)) this.fail('is missing or not a text as expected');
    return this.value;
  }

  number(min: number, max: number): number {
    if (typeof this.value !== 'number' || !(this.value >= min && this.value <= max)) {
      this.fail(`is not a number from ${min} to ${max}`);
    }
    return this.value;
  }

  integer(min: number, max: number): number {
    const value = this.number(min, max);
    if (!Number.isInteger(value)) this.fail('is not a whole number');
    return value;
  }

  cellTypes(): CellType[] {
    if (!Array.isArray(this.value) || this.value.length < 2) this.fail('is not a list of cell classes');
    const classes: CellType[] = [];
    for (const item of this.value as unknown[]) {
      const known = CELL_TYPES.find((type) => type === item);
      if (known === undefined || known === 'unidentified' || classes.includes(known)) {
        this.fail(`holds "${String(item)}", which is repeated or not a class that this program can report`);
      }
      classes.push(known);
    }
    return classes;
  }

  attributes(): AttributeSpec[] {
    if (!Array.isArray(this.value)) this.fail('is not a list of attributes');
    return (this.value as unknown[]).map((item, i) => {
      const reader = new Reader(item, `${this.place}[${i}]`);
      return { name: reader.at('name').text(/^[a-z][A-Za-z]*$/), values: reader.at('values').texts() };
    });
  }

  subtypes(): Partial<Record<CellType, readonly string[]>> {
    const found: Partial<Record<CellType, readonly string[]>> = {};
    for (const type of CELL_TYPES) {
      const values = this.at(type);
      if (values.value !== undefined) found[type] = values.texts();
    }
    return found;
  }

  texts(): string[] {
    if (!Array.isArray(this.value) || this.value.length < 1) this.fail('is not a list of texts');
    return (this.value as unknown[]).map((item, i) => new Reader(item, `${this.place}[${i}]`).text());
  }

  private fail(why: string): never {
    throw new ModelError(`The model manifest does not fit this program: "${this.place}" ${why}.`);
  }
}

/** Parses the text of a manifest.json. Throws ModelError naming the first field that does not fit. */
export function parseManifest(text: string): Manifest {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new ModelError('The model manifest is not valid JSON.', { cause });
  }
  const root = new Reader(json, '');
  const file = (reader: Reader): ModelFile => ({
    path: reader.at('path').text(/^[\w.-]+\.onnx$/),
    sha256: reader.at('sha256').text(/^[0-9a-f]{64}$/),
    bytes: reader.at('bytes').integer(1, 2 ** 40),
  });
  const saliency = root.at('saliency');
  const bins = saliency.at('scaleBins');
  const cells = root.at('cells');
  return {
    name: root.at('name').text(),
    version: root.at('version').text(/^\d+\.\d+\.\d+/),
    files: { saliency: file(root.at('files').at('saliency')), cells: file(root.at('files').at('cells')) },
    saliency: {
      input: saliency.at('input').text(),
      outputs: {
        saliency: saliency.at('outputs').at('saliency').text(),
        centres: saliency.at('outputs').at('centres').text(),
        scale: saliency.at('outputs').at('scale').text(),
      },
      micronsPerPixel: saliency.at('micronsPerPixel').number(0.05, 5),
      stride: saliency.at('stride').integer(1, 32),
      multipleOf: saliency.at('multipleOf').integer(1, 256),
      centreThreshold: saliency.at('centreThreshold').number(0, 1),
      minDistanceUm: saliency.at('minDistanceUm').number(0, 50),
      scaleBins: {
        firstOctave: bins.at('firstOctave').number(-8, 0),
        octavesPerBin: bins.at('octavesPerBin').number(0.01, 2),
        count: bins.at('count').integer(3, 512),
      },
      scaleConfidence: saliency.at('scaleConfidence').number(0, 1),
    },
    cells: {
      inputs: { crops: cells.at('inputs').at('crops').text(), prior: cells.at('inputs').at('prior').text() },
      outputs: {
        probabilities: cells.at('outputs').at('probabilities').text(),
        segmentation: cells.at('outputs').at('segmentation').text(),
        cam: cells.at('outputs').at('cam').text(),
        consistency: cells.at('outputs').at('consistency').text(),
        attributes: cells.at('outputs').at('attributes').text(),
        reject: cells.at('outputs').at('reject').text(),
      },
      size: cells.at('size').integer(16, 1024),
      micronsPerPixel: cells.at('micronsPerPixel').number(0.02, 2),
      maskStride: cells.at('maskStride').integer(1, 16),
      camSize: cells.at('camSize').integer(1, 512),
      classes: cells.at('classes').cellTypes(),
      unidentifiedBelow: cells.at('unidentifiedBelow').number(0, 1),
      lowConfidenceBelow: cells.at('lowConfidenceBelow').number(0, 1),
      lowConsistencyBelow: cells.at('lowConsistencyBelow').number(0, 1),
      rejectAbove: cells.at('rejectAbove').number(0, 1),
      attributes: cells.at('attributes').attributes(),
      subtypes: cells.at('subtypes').subtypes(),
    },
  };
}

export interface Model {
  readonly manifest: Manifest;
  readonly saliencyPath: string;
  readonly cellsPath: string;
  /** SHA-256 over the files' checksums (hexadecimal) in manifest order: one name for these weights. */
  readonly sha256: string;
}

/** Reads manifest.json of the folder and checks the size and SHA-256 of the files it names. Throws ModelError. */
export async function loadModel(modelDir: string): Promise<Model> {
  let text: string;
  try {
    text = await readFile(join(modelDir, 'manifest.json'), 'utf8');
  } catch (cause) {
    throw new ModelError(
      `No model in ${modelDir}: manifest.json cannot be read. Set MODEL_DIR to the model's folder.`,
      {
        cause,
      },
    );
  }
  const manifest = parseManifest(text);
  const { saliency, cells } = manifest.files;
  for (const file of [saliency, cells]) await verify(modelDir, file);
  return {
    manifest,
    saliencyPath: normalize(join(modelDir, saliency.path)),
    cellsPath: normalize(join(modelDir, cells.path)),
    sha256: createHash('sha256').update(saliency.sha256).update(cells.sha256).digest('hex'),
  };
}

async function verify(modelDir: string, file: ModelFile): Promise<void> {
  const hash = createHash('sha256');
  try {
    await pipeline(createReadStream(join(modelDir, file.path)), hash);
  } catch (cause) {
    throw new ModelError(`The model file ${file.path} cannot be read. Fetch the model folder again.`, { cause });
  }
  if (hash.digest('hex') !== file.sha256) {
    throw new ModelError(
      `The model file ${file.path} is not the one that its manifest names: the checksum differs. Fetch the model folder again.`,
    );
  }
}

export interface TensorSignature {
  readonly name: string;
  readonly type: string;
  /** A number where the dimension is fixed, its symbolic name where it is free. */
  readonly shape: readonly (number | string)[];
}

export interface SessionSignature {
  readonly inputs: readonly TensorSignature[];
  readonly outputs: readonly TensorSignature[];
}

/** Checks that the sessions have the inputs and outputs of the manifest, with fitting types and sizes. Throws ModelError. */
export function checkSignatures(manifest: Manifest, saliency: SessionSignature, cells: SessionSignature): void {
  const s = manifest.saliency;
  const c = manifest.cells;
  const mask = c.size / c.maskStride;
  expectTensor('saliency', saliency.inputs, s.input, 'uint8', [null, null, null, 3]);
  expectTensor('saliency', saliency.outputs, s.outputs.saliency, 'float32', [null, null, null]);
  expectTensor('saliency', saliency.outputs, s.outputs.centres, 'float32', [null, null, null]);
  expectTensor('saliency', saliency.outputs, s.outputs.scale, 'float32', [null, s.scaleBins.count]);
  expectTensor('cells', cells.inputs, c.inputs.crops, 'uint8', [null, c.size, c.size, 3]);
  expectTensor('cells', cells.inputs, c.inputs.prior, 'float32', [null, c.size, c.size]);
  expectTensor('cells', cells.outputs, c.outputs.probabilities, 'float32', [null, c.classes.length]);
  expectTensor('cells', cells.outputs, c.outputs.segmentation, 'float32', [null, 3, mask, mask]);
  expectTensor('cells', cells.outputs, c.outputs.cam, 'float32', [null, c.camSize, c.camSize]);
  expectTensor('cells', cells.outputs, c.outputs.consistency, 'float32', [null]);
  expectTensor('cells', cells.outputs, c.outputs.attributes, 'float32', [null, attributeWidth(c)]);
  expectTensor('cells', cells.outputs, c.outputs.reject, 'float32', [null]);
}

/** Numbers that the attribute output holds for a cell. */
export const attributeWidth = ({ attributes }: Pick<CellsManifest, 'attributes'>): number =>
  attributes.reduce((sum, { values }) => sum + values.length, 0);

/** `sizes` holds null where any size fits; a dimension that the model leaves free always fits. */
function expectTensor(
  network: string,
  tensors: readonly TensorSignature[],
  name: string,
  type: string,
  sizes: readonly (number | null)[],
): void {
  const found = tensors.find((tensor) => tensor.name === name);
  if (found === undefined) throw new ModelError(`The ${network} network has no tensor "${name}" as its manifest says.`);
  const fits =
    found.type === type &&
    found.shape.length === sizes.length &&
    sizes.every((size, i) => size === null || typeof found.shape[i] !== 'number' || found.shape[i] === size);
  if (!fits) {
    throw new ModelError(
      `The ${network} network's tensor "${name}" is ${found.type}[${found.shape.join(',')}], not ${type}[${sizes
        .map((size) => size ?? 'any')
        .join(',')}] as its manifest says.`,
    );
  }
}
