/** Results of a period, counted for each site and held against the reference. */
import { join } from 'node:path';
import type { Config } from '../config.js';
import {
  DRIFT_MEASURE_NAMES,
  DRIFT_MEASURES,
  drifts,
  emptyTally,
  type Histograms,
  type Tally,
  tally,
} from '../observability/drift.js';
import type { SiteDrift } from '../observability/drift-metrics.js';
import { type DriftReference, REFERENCE_FILE, readDriftReference } from '../observability/drift-reference.js';
import { siteNames } from '../observability/sites.js';
import type { Database } from '../storage/database.js';
import { countBins, type Period } from '../storage/measures.js';

const DAY_MS = 24 * 60 * 60 * 1000;

export function lastDays(days: number): Period {
  const to = new Date();
  return { from: new Date(to.getTime() - days * DAY_MS), to };
}

/** Where the reference lies: the laboratory's own, where it is configured, else the model's. */
export function referenceFile({ driftReference, modelDir }: Pick<Config, 'driftReference' | 'modelDir'>): string {
  return driftReference ?? join(modelDir, REFERENCE_FILE);
}

/** Null where there is none, or where another model made it: its certainties are not this one's. */
export async function usableReference(
  config: Pick<Config, 'driftReference' | 'modelDir'>,
  modelSha256: string,
): Promise<{ readonly reference: DriftReference } | { readonly reason: string }> {
  const file = referenceFile(config);
  const reference = await readDriftReference(file);
  if (reference === null) return { reason: `there is no ${file}` };
  if (reference.model.sha256 === modelSha256) return { reference };
  return { reason: `${file} was made with another model (${reference.model.name} ${reference.model.version})` };
}

/** By the names in METRICS_SITES. */
export async function histogramsBySite(
  db: Database,
  period: Period,
  modelSha256: string,
  metricsSites: readonly string[],
): Promise<ReadonlyMap<string, Histograms>> {
  const siteOf = siteNames(metricsSites);
  const sites = new Map<string, Tally>();
  for (const measure of DRIFT_MEASURE_NAMES) {
    for (const row of await countBins(db, measure, DRIFT_MEASURES[measure].edges, period, modelSha256)) {
      const site = siteOf(row);
      const into = sites.get(site) ?? emptyTally();
      sites.set(site, into);
      tally(into, measure, row.bin, row.count);
    }
  }
  return sites;
}

export function measureDrift(reference: DriftReference, sites: ReadonlyMap<string, Histograms>): SiteDrift[] {
  return [...sites]
    .sort(([a], [b]) => a.localeCompare(b))
    .flatMap(([site, observed]) =>
      drifts(reference.sites[site] ?? reference.all, observed).map((drift) => ({ site, ...drift })),
    );
}
