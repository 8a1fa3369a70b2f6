/** `leukodiff drift`: what has come lately, against what the model was validated on or what the laboratory had before. */
import { writeFile } from 'node:fs/promises';
import type { Config } from '../config.js';
import { ExpectedError } from '../errors.js';
import { DRIFT_MEASURES, emptyTally, type Histograms, type Tally, tally } from '../observability/drift.js';
import type { SiteDrift } from '../observability/drift-metrics.js';
import type { DriftReference } from '../observability/drift-reference.js';
import { createLogger } from '../observability/logger.js';
import { type Database, openDatabase } from '../storage/database.js';
import { loadModel } from '../vision/manifest.js';
import { histogramsBySite, lastDays, measureDrift, usableReference } from './drift-measurement.js';

export interface DriftOptions {
  /** How far to look back. */
  readonly days: number;
  readonly threshold: number;
  readonly json: boolean;
  /** Writes what was found as a reference to this file, instead of comparing it. */
  readonly save: string | undefined;
}

/** Returns whether nothing has drifted. */
export async function drift(config: Config, options: DriftOptions): Promise<boolean> {
  const model = await loadModel(config.modelDir);
  const named = { name: model.manifest.name, version: model.manifest.version, sha256: model.sha256 };
  const sites = await withDatabase(config, (db) =>
    histogramsBySite(db, lastDays(options.days), model.sha256, config.metricsSites),
  );
  if (options.save !== undefined) {
    const saved = ownReference(sites, named, options.days);
    await writeFile(options.save, `${JSON.stringify(saved, null, 2)}\n`);
    process.stdout.write(`Set DRIFT_REFERENCE=${options.save} to hold later results against these.\n`);
    return true;
  }
  const found = await usableReference(config, model.sha256);
  if ('reason' in found) throw new ExpectedError(`Drift cannot be measured: ${found.reason}.`);
  const result = measureDrift(found.reference, sites);
  process.stdout.write(
    options.json
      ? `${JSON.stringify({ reference: found.reference.kind, model: named, days: options.days, drifts: result }, null, 2)}\n`
      : table(result, found.reference, options),
  );
  return !result.some(({ psi, enough }) => enough && psi >= options.threshold);
}

export function ownReference(
  sites: ReadonlyMap<string, Histograms>,
  model: DriftReference['model'],
  days: number,
): DriftReference {
  const all: Tally = emptyTally();
  for (const histograms of sites.values()) {
    for (const measure of Object.keys(all) as (keyof Tally)[]) {
      for (const [bin, count] of Object.entries(histograms[measure])) tally(all, measure, bin, count);
    }
  }
  if (Object.keys(all.brightness).length === 0) throw new ExpectedError(`No result in the last ${days} days.`);
  return {
    schema: 1,
    kind: 'own',
    model,
    source: `results of the ${days} days before ${new Date().toISOString().slice(0, 10)}`,
    all,
    sites: Object.fromEntries(sites),
  };
}

/** One line for each site and measure; the worst first within a site. */
export function table(
  rows: readonly SiteDrift[],
  { source }: DriftReference,
  { days, threshold }: DriftOptions,
): string {
  if (rows.length === 0) return `No result in the last ${days} days.\n`;
  const width = Math.max(4, ...rows.map(({ site }) => site.length));
  const lines = rows.map(({ site, measure, psi, observations, enough }) => {
    const verdict = !enough ? 'too few to tell' : psi >= threshold ? 'DRIFTED' : psi >= 0.1 ? 'moved' : 'as before';
    const counted = `${observations} ${DRIFT_MEASURES[measure].of}s`;
    return `${site.padEnd(width)}  ${measure.padEnd(14)}${psi.toFixed(3).padStart(8)}  ${counted.padStart(14)}  ${verdict}`;
  });
  const head = `${'site'.padEnd(width)}  ${'measure'.padEnd(14)}${'index'.padStart(8)}  ${'from'.padStart(14)}`;
  return [`Against: ${source}`, '', head, ...lines, ''].join('\n');
}

async function withDatabase<T>(config: Config, work: (db: Database) => Promise<T>): Promise<T> {
  const log = createLogger({ level: 'error', format: config.logFormat, stream: 'stderr' });
  const db = await openDatabase({ databaseUrl: config.databaseUrl, dataDir: config.dataDir, log });
  try {
    return await work(db);
  } finally {
    await db.close();
  }
}
