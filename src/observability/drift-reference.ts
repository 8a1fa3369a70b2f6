/** The file that drift is measured against: beside the model, or the laboratory's own (`leukodiff drift --save`). */
import { readFile } from 'node:fs/promises';
import { ExpectedError } from '../errors.js';
import { DRIFT_MEASURE_NAMES, type Histograms } from './drift.js';

export interface DriftReference {
  readonly schema: 1;
  /** `model`: its validation images; `own`: what this laboratory had. */
  readonly kind: 'model' | 'own';
  /** That measured it: another model has other certainties. */
  readonly model: { readonly name: string; readonly version: string; readonly sha256: string };
  /** What was measured, for people. */
  readonly source: string;
  readonly all: Histograms;
  /** By the names in METRICS_SITES; a site without its own is held against `all`. */
  readonly sites: Readonly<Record<string, Histograms>>;
}

export const REFERENCE_FILE = 'drift-reference.json';

/** Null where there is no such file. Throws `ExpectedError` for one that cannot be used. */
export async function readDriftReference(file: string): Promise<DriftReference | null> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw new ExpectedError(`The drift reference ${file} cannot be read: ${String(error)}`);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = null;
  }
  if (!isReference(parsed)) throw new ExpectedError(`${file} is no drift reference: make it again with --save.`);
  return parsed;
}

function isReference(value: unknown): value is DriftReference {
  if (!isRecord(value)) return false;
  const { schema, kind, model, all, sites } = value;
  const known = schema === 1 && (kind === 'model' || kind === 'own');
  return (
    known &&
    isRecord(model) &&
    typeof model['sha256'] === 'string' &&
    isHistograms(all) &&
    isRecord(sites) &&
    Object.values(sites).every(isHistograms)
  );
}

function isHistograms(value: unknown): boolean {
  return (
    isRecord(value) &&
    DRIFT_MEASURE_NAMES.every((measure) => {
      const histogram = value[measure];
      return (
        isRecord(histogram) && Object.values(histogram).every((count) => Number.isInteger(count) && Number(count) >= 0)
      );
    })
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
