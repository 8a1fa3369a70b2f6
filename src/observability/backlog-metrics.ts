/** What waits. Asked of the database at each scrape, so every process that serves metrics tells the same: take the maximum. */
import { Gauge, type Registry } from 'prom-client';

export interface Backlog {
  /** Images stored and not finished. */
  readonly images: number;
  /** Since the oldest analysis that has not ended came; 0 where there is none. */
  readonly oldestSeconds: number;
  readonly deliveries: number;
  readonly reports: number;
}

/** @param limit Images that may wait (MAX_QUEUE_DEPTH). */
export function registerBacklogMetrics(registry: Registry, read: () => Promise<Backlog>, limit: number): void {
  const registers = [registry];
  let asked: Promise<Backlog | null> | undefined;
  // One query for all gauges of a scrape. A scrape without these values is better than none while the database is down.
  const ask = (): Promise<Backlog | null> => {
    asked ??= read()
      .catch(() => null)
      .finally(() => {
        asked = undefined;
      });
    return asked;
  };
  const gauge = (name: string, help: string, key: keyof Backlog): void => {
    new Gauge({
      name: `leukodiff_${name}`,
      help,
      registers,
      async collect() {
        this.set((await ask())?.[key] ?? Number.NaN);
      },
    });
  };
  gauge('queue_images', 'Images stored and not finished.', 'images');
  gauge('queue_oldest_seconds', 'Since the oldest analysis that has not ended was posted.', 'oldestSeconds');
  gauge('deliveries_pending', 'Webhooks that are still to be delivered.', 'deliveries');
  gauge('reports_pending', 'Reports that are still to be sent.', 'reports');
  new Gauge({
    name: 'leukodiff_database_up',
    help: 'Whether the database answered this scrape: 1 or 0.',
    registers,
    async collect() {
      this.set((await ask()) === null ? 0 : 1);
    },
  });
  new Gauge({ name: 'leukodiff_queue_limit_images', help: 'Images that may wait (MAX_QUEUE_DEPTH).', registers }).set(
    limit,
  );
}
