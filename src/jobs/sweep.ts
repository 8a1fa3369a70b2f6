/**
 * The sweep: makes the committed rows come true whatever the queue has lost. Every worker runs it from time to time;
 * a lock in the database lets one at a time.
 */
import type { Logger } from 'pino';
import type { Config } from '../config.js';
import type { Metrics } from '../observability/metrics.js';
import { removeAuditOlderThan } from '../storage/audit.js';
import { overdueDeliveries } from '../storage/deliveries.js';
import { removeOldTraces } from '../storage/events.js';
import { removeKeysOlderThan } from '../storage/idempotency.js';
import { removeUnreferencedObjects } from '../storage/image-objects.js';
import { ObjectStoreError } from '../storage/object-store.js';
import { removePartOlderThan } from '../storage/removal.js';
import { overdueReports, type ReportChannel } from '../storage/reports.js';
import { openAnalyses, removeOlderThan, withSweepLock } from '../storage/upkeep.js';
import { type FinishDeps, giveUpAnalysis } from './finish-analysis.js';
import { tooOld } from './problems.js';
import type { Queues } from './queues.js';

/** Younger analyses may be between their commit and their job. */
export const GRACE_MS = 10_000;
const OVERDUE_MS = 60_000;
const PAGE = 200;
/** How long test pings, and destinations that are no longer called, are remembered. */
const TRACE_DAYS = 30;

export interface SweepDeps extends FinishDeps {
  readonly queues: Queues;
  readonly config: Pick<
    Config,
    | 'idempotencyHours'
    | 'maxAnalysisAgeMinutes'
    | 'retentionAuditDays'
    | 'retentionDays'
    | 'retentionImagesDays'
    | 'retentionMasksDays'
  >;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Channels that this site sends reports to. */
  readonly channels?: readonly ReportChannel[];
}

export interface SweepOptions {
  readonly graceMs?: number;
  readonly overdueMs?: number;
}

export interface SweepReport {
  readonly expired: number;
  readonly reenqueued: number;
  readonly deliveries: number;
  readonly reports: number;
  readonly removed: number;
  /** Analyses that lost their images or their masks, and stay. */
  readonly thinned: number;
}

/** Null: another process is sweeping. */
export async function sweep(deps: SweepDeps, options: SweepOptions = {}): Promise<SweepReport | null> {
  return withSweepLock(deps.db, async () => {
    await correctClock(deps);
    const report = {
      expired: await expire(deps),
      reenqueued: await reenqueue(deps, options.graceMs ?? GRACE_MS),
      deliveries: await reenqueueDeliveries(deps, options.overdueMs ?? OVERDUE_MS),
      reports: await reenqueueReports(deps, options.overdueMs ?? OVERDUE_MS),
      ...(await purge(deps)),
    };
    await removeObjects(deps);
    await removeOldTraces(deps.db, TRACE_DAYS);
    if (report.removed > 0) deps.metrics.removed.inc(report.removed);
    if (Object.values(report).some((count) => count > 0)) deps.log.info(report, 'sweep');
    return report;
  });
}

/** Before all else: what a clock that was ahead put off looks as if it were on its way. */
async function correctClock({ queues, log }: SweepDeps): Promise<void> {
  const corrected = await queues.correctClock();
  if (corrected === 0) return;
  log.warn(
    { corrected },
    'the clock of a process is, or was, ahead of the database; what it wrote into the queue is set right',
  );
}

/** What has been kept for long enough. Every analysis that loses something has an entry in the audit trail. */
async function purge({ db, queues, config }: SweepDeps): Promise<Pick<SweepReport, 'removed' | 'thinned'>> {
  const { retentionDays, retentionImagesDays, retentionMasksDays, retentionAuditDays } = config;
  const removed = retentionDays === 0 ? [] : await removeOlderThan(db, retentionDays);
  for (const { id } of removed) await queues.removeAnalysis(id);
  const withoutImages = retentionImagesDays === 0 ? [] : await removePartOlderThan(db, 'images', retentionImagesDays);
  const withoutMasks = retentionMasksDays === 0 ? [] : await removePartOlderThan(db, 'masks', retentionMasksDays);
  await removeKeysOlderThan(db, config.idempotencyHours);
  if (retentionAuditDays !== 0) await removeAuditOlderThan(db, retentionAuditDays);
  return { removed: removed.length, thinned: withoutImages.length + withoutMasks.length };
}

/** After all else: a store that is away holds nothing up, and what is due stays due. */
async function removeObjects({ db, log }: SweepDeps): Promise<void> {
  try {
    await removeUnreferencedObjects(db);
  } catch (error) {
    if (!(error instanceof ObjectStoreError)) throw error;
    log.warn({ reason: error.message }, 'objects that are due could not be removed; the next sweep tries again');
  }
}

async function expire(deps: SweepDeps): Promise<number> {
  const minutes = deps.config.maxAnalysisAgeMinutes;
  const old = await openAnalyses(deps.db, minutes * 60_000, PAGE);
  for (const { id } of old) {
    await giveUpAnalysis(deps, id, tooOld(minutes));
    await deps.queues.removeAnalysis(id);
  }
  return old.length;
}

async function reenqueue({ db, queues, metrics }: SweepDeps, graceMs: number): Promise<number> {
  let count = 0;
  let last: string | undefined;
  for (;;) {
    const page = await openAnalyses(db, graceMs, PAGE, last);
    for (const { id, openImages, priority, turn } of page) {
      if (await queues.hasAnalysis(id)) continue;
      // What is left of it (a failed parent, children without one) would stand in the way of the new jobs.
      await queues.removeAnalysis(id);
      await queues.addAnalysis(id, openImages, { priority, turn: turn ?? 0 });
      metrics.reenqueued.inc({ kind: 'analysis' });
      count += 1;
    }
    last = page.at(-1)?.id;
    if (page.length < PAGE) return count;
  }
}

async function reenqueueDeliveries({ db, queues, metrics }: SweepDeps, overdueMs: number): Promise<number> {
  const overdue = await overdueDeliveries(db, overdueMs, PAGE);
  for (const id of overdue) {
    // Where its job is still there and may run, adding it again does nothing.
    await queues.addDelivery(id, { overdue: true });
    metrics.reenqueued.inc({ kind: 'delivery' });
  }
  return overdue.length;
}

async function reenqueueReports({ db, queues, metrics, channels = [] }: SweepDeps, overdueMs: number): Promise<number> {
  const overdue = await overdueReports(db, channels, overdueMs, PAGE);
  for (const report of overdue) {
    await queues.addReport(report, { overdue: true });
    metrics.reenqueued.inc({ kind: 'report' });
  }
  return overdue.length;
}
