/** Drift as gauges. Measuring reads the database, so it is done now and then and not at every scrape. */
import { Gauge, type Registry } from 'prom-client';
import type { Drift } from './drift.js';

export interface SiteDrift extends Drift {
  readonly site: string;
}

export interface DriftMetricsOptions {
  readonly kind: 'model' | 'own';
  readonly measure: () => Promise<readonly SiteDrift[]>;
  readonly refreshMs: number;
  readonly onError: (error: unknown) => void;
}

/** A scrape tells what the last measurement found, and begins another when that is old. */
export function registerDriftMetrics(
  registry: Registry,
  { kind, measure, refreshMs, onError }: DriftMetricsOptions,
): void {
  let latest: readonly SiteDrift[] = [];
  let begunMs = Number.NEGATIVE_INFINITY;
  const refresh = (): void => {
    if (performance.now() - begunMs < refreshMs) return;
    begunMs = performance.now();
    measure().then((found) => {
      latest = found;
    }, onError);
  };
  new Gauge({
    name: 'leukodiff_drift_psi',
    help: 'Population stability index of a measure against its reference (model: validation images, own: this laboratory before).',
    labelNames: ['measure', 'site', 'reference'],
    registers: [registry],
    collect() {
      refresh();
      this.reset();
      for (const { measure: name, site, psi } of latest) this.set({ measure: name, site, reference: kind }, psi);
    },
  });
  new Gauge({
    name: 'leukodiff_drift_observations',
    help: 'Cells or images that the index of a measure comes from; below 200 cells or 50 images it says little.',
    labelNames: ['measure', 'site'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { measure: name, site, observations } of latest) this.set({ measure: name, site }, observations);
    },
  });
  new Gauge({
    name: 'leukodiff_drift_enough',
    help: '1 where the index comes from enough cells or images, else 0.',
    labelNames: ['measure', 'site'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { measure: name, site, enough } of latest) this.set({ measure: name, site }, enough ? 1 : 0);
    },
  });
}
