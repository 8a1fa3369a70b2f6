/**
 * The job `send-report`: one HL7 message or FHIR bundle to the site's system. The row says what is to be done; reports of
 * one accession go out one after the other. A receiver that is away costs one attempt a minute, not one for each report.
 */
import { DelayedError } from 'bullmq';
import type { Logger } from 'pino';
import type { Metrics } from '../observability/metrics.js';
import type { Database } from '../storage/database.js';
import {
  type ClaimedReport,
  claimReport,
  markReportDelivered,
  markReportFailed,
  nextReport,
  type ReportChannel,
  reportDueInMs,
} from '../storage/reports.js';
import type { QueueJob } from './queues.js';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const DAY = 24 * 60 * MINUTE;

/** Waits after an attempt that reached nobody; the last one is repeated until the report is `GIVE_UP_MS` old. */
const RETRY_STEPS_MS = [5 * SECOND, 30 * SECOND, MINUTE, 5 * MINUTE, 15 * MINUTE] as const;
const GIVE_UP_MS = 3 * DAY;
/** A receiver that read the report and refused it will hardly think better of it. */
const REFUSALS_BEFORE_GIVING_UP = 3;
const JITTER = 0.2;
/** How long a receiver that could not be reached is left alone, by failures in a row. */
const PAUSE_MS = [SECOND, 5 * SECOND, 15 * SECOND, 60 * SECOND] as const;
/** A claim outlives its attempt by this. */
const LEASE_SLACK_MS = 20 * SECOND;

export type SendResult =
  | { readonly outcome: 'accepted'; readonly answer: string }
  /** The receiver read it and does not want it. */
  | { readonly outcome: 'refused'; readonly answer: string }
  /** The receiver asks for it again later. */
  | { readonly outcome: 'later'; readonly answer: string; readonly retryAfterMs?: number | null }
  | { readonly outcome: 'unreachable'; readonly error: string };

/** How reports of one channel leave. */
export interface ReportSender {
  readonly channel: ReportChannel;
  /** An attempt takes at most this long. */
  readonly timeoutMs: number;
  /** Never throws for what a network or a receiver does. */
  send(report: ClaimedReport): Promise<SendResult>;
  close(): void;
}

export interface SendReportDeps {
  readonly db: Database;
  readonly metrics: Pick<Metrics, 'reports'>;
  readonly log: Logger;
  /** For tests: shorter waits. */
  readonly stepsMs?: readonly number[];
  readonly pauseMs?: readonly number[];
}

type SendReportJob = QueueJob<'leukodiff-hl7' | 'leukodiff-fhir'>;

/** The job's function for one sender: it remembers when the receiver was last away, by a clock that nobody sets. */
export function reportJob(deps: SendReportDeps, sender: ReportSender) {
  const { db } = deps;
  let failures = 0;
  let pausedUntilMs = 0;

  return async function sendReport(job: SendReportJob, token: string): Promise<void> {
    let reportId: string | null = job.data.reportId;
    // Those that waited for this one follow at once; their own jobs will find them done.
    while (reportId !== null) {
      const isOwn: boolean = reportId === job.data.reportId;
      const pauseLeftMs = pausedUntilMs - performance.now();
      if (pauseLeftMs > 0) {
        if (isOwn) await postpone(job, pauseLeftMs, token);
        return;
      }
      const report: ClaimedReport | null = await claimReport(db, reportId, sender.timeoutMs + LEASE_SLACK_MS);
      if (report === null) {
        const dueInMs = isOwn ? await reportDueInMs(db, reportId) : null;
        if (dueInMs !== null) await postpone(job, dueInMs, token);
        return;
      }
      const result = await sender.send(report);
      if (result.outcome === 'unreachable') {
        const pauses = deps.pauseMs ?? PAUSE_MS;
        pausedUntilMs = performance.now() + (pauses[Math.min(failures, pauses.length - 1)] ?? 0);
        failures += 1;
      } else {
        failures = 0;
      }
      const retryInMs = await record(deps, sender.channel, report, result);
      if (retryInMs !== null) {
        if (isOwn) await postpone(job, retryInMs, token);
        return;
      }
      reportId = await nextReport(db, sender.channel, report.orderKey);
    }
  };
}

/** Notes what became of an attempt; returns the milliseconds until the next, null when there is none. */
async function record(
  { db, metrics, log, stepsMs }: SendReportDeps,
  channel: ReportChannel,
  report: ClaimedReport,
  result: SendResult,
): Promise<number | null> {
  const seen = { reportId: report.id, channel, attempt: report.attempts };
  if (result.outcome === 'accepted') {
    await markReportDelivered(db, report.id, result.answer);
    metrics.reports.inc({ channel, outcome: 'delivered' });
    log.info({ ...seen, answer: result.answer }, 'report delivered');
    return null;
  }
  const refused = result.outcome === 'refused';
  const retryInMs = waitAfter(report, result, stepsMs ?? RETRY_STEPS_MS);
  const answer = result.outcome === 'unreachable' ? null : result.answer;
  const error = result.outcome === 'unreachable' ? result.error : `the receiver answered ${result.answer}`;
  await markReportFailed(db, report.id, { answer, error, refused }, retryInMs);
  metrics.reports.inc({ channel, outcome: retryInMs === null ? 'failed' : 'retry' });
  log.warn({ ...seen, reason: error, retryInMs }, retryInMs === null ? 'report given up' : 'report not delivered');
  return retryInMs;
}

function waitAfter(report: ClaimedReport, result: SendResult, steps: readonly number[]): number | null {
  if (result.outcome === 'refused' && report.refusals + 1 >= REFUSALS_BEFORE_GIVING_UP) return null;
  const step = steps[Math.min(report.attempts, steps.length) - 1] ?? 0;
  const asked = result.outcome === 'later' ? (result.retryAfterMs ?? 0) : 0;
  const wait = Math.max(step * (1 + JITTER * (2 * Math.random() - 1)), Math.min(asked, DAY));
  return report.ageMs + wait > GIVE_UP_MS ? null : wait;
}

async function postpone(job: SendReportJob, waitMs: number, token: string): Promise<never> {
  await job.moveToDelayed(Date.now() + Math.ceil(Math.max(0, waitMs)) + 100, token);
  throw new DelayedError();
}
