/** The job `finish-analysis`: the findings of all images become the result. Runs when every image's job has ended. */
import type { Logger } from 'pino';
import { differential } from '../hematology/differential.js';
import { cellsOnce } from '../hematology/repeated-images.js';
import { reviewRules } from '../hematology/review-rules.js';
import { unverified } from '../hematology/verification.js';
import type { Metrics } from '../observability/metrics.js';
import { type OutgoingOptions, outgoingReports } from '../reporting/outgoing.js';
import { endingEvents } from '../reporting/webhook-event.js';
import type { Database } from '../storage/database.js';
import type { AnalysisDocument, StoredProblem } from '../storage/documents.js';
import type { StoredEvent } from '../storage/events.js';
import {
  type Findings,
  type Finished,
  failAnalysis,
  finishAnalysis as finishInStorage,
  type LastImage,
  type Outcome,
} from '../storage/results.js';
import { patiently } from './patience.js';
import { allImagesFailed, IMAGE_INTERRUPTED } from './problems.js';
import type { Queues } from './queues.js';
import { toStored } from './stored-events.js';

export interface FinishDeps {
  readonly db: Database;
  readonly queues: Pick<Queues, 'addDelivery' | 'addReport'>;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly publicUrl: string | undefined;
  /** Absent: no reports are sent. */
  readonly outgoing?: OutgoingOptions | undefined;
}

export interface FinishJobDeps extends FinishDeps {
  readonly shutdown: AbortSignal;
}

/** May run twice: the first run's result stands, and its deliveries are enqueued again if they are still to be made. */
export async function finishAnalysis(deps: FinishJobDeps, analysisId: string): Promise<void> {
  const finished = await endAnalysis(deps, analysisId);
  if (finished !== null) await announce(deps, finished);
}

/** What is stored of it; `last`: with what was found in its last image. Null: it was deleted, or goes on. */
export function endAnalysis(deps: FinishJobDeps, analysisId: string, last?: LastImage): Promise<Finished | null> {
  return patiently(deps.shutdown, () =>
    finishInStorage(deps.db, analysisId, {
      conclude,
      interrupted: IMAGE_INTERRUPTED,
      eventsOf: (document) => eventsOf(document, deps.publicUrl),
      reportsOf: (document) => (deps.outgoing === undefined ? [] : outgoingReports(document, deps.outgoing)),
      last,
    }),
  );
}

/** Ends an analysis that cannot be brought to a result. */
export async function giveUpAnalysis(deps: FinishDeps, analysisId: string, problem: StoredProblem): Promise<void> {
  const finished = await failAnalysis(deps.db, analysisId, problem, (document) => eventsOf(document, deps.publicUrl));
  if (finished !== null) await announce(deps, finished);
}

/** Says that it ended, and has its deliveries made. */
export async function announce(
  { queues, metrics, log }: FinishDeps,
  { document, laboratory, deliveryIds, reports, changed }: Finished,
): Promise<void> {
  if (changed) {
    const durationMs = Date.parse(document.completedAt ?? document.createdAt) - Date.parse(document.createdAt);
    metrics.analyses.inc({ outcome: document.status });
    if (document.review !== null) {
      const reviewReasons = document.review.required ? document.review.reasons.map((reason) => reason.code) : [];
      metrics.laboratory.result({ laboratory, site: document.site }, { reviewReasons });
    }
    metrics.analysisSeconds.observe({ outcome: document.status }, durationMs / 1000);
    log.info(
      { analysisId: document.id, status: document.status, images: document.images.length, durationMs },
      'analysis ended',
    );
  }
  for (const id of deliveryIds) await queues.addDelivery(id);
  for (const report of reports) await queues.addReport(report);
}

/** Pure: what was found in, differential and review out. Completes as long as one image could be analysed. */
export function conclude(findings: Findings): Outcome {
  const { targetCells, wbcCount, images, endedAt } = findings;
  if (images.every((image) => image.failed)) return { status: 'failed', problem: allImagesFailed(images) };
  const cells = cellsOnce(findings.cells, images);
  const counted = differential(cells, { targetCells, wbcCount });
  const review = reviewRules({ differential: counted, cells, images });
  return { status: 'completed', differential: counted, review, verification: unverified(cells, endedAt) };
}

function eventsOf(document: AnalysisDocument, publicUrl: string | undefined): readonly StoredEvent[] {
  return endingEvents(document, publicUrl).map(toStored);
}
