/**
 * What a wrong clock left in the queue's tables. BullMQ takes the time from the process that calls it: on Redis locks lapse by the server's
 * clock all the same, but in PostgreSQL what a process with a clock an hour ahead wrote holds for an hour after its clock was set right. Until
 * then nobody looks for jobs whose worker has died, and those that it had locked or put off wait.
 */
import type pg from 'pg';

export interface QueueTimes {
  /** A lock is never given for longer. */
  readonly lockMs: number;
  /** Jobs that lost their worker are looked for this often. */
  readonly checkMs: number;
  /** Queues whose jobs wait between two tries for no longer than `longestWaitMs`. */
  readonly prompt: readonly string[];
  readonly longestWaitMs: number;
}

/** Sets right, by the database's clock, what lies further ahead than it can. Returns in how many places. */
export async function correctQueueClock(pool: pg.Pool, times: QueueTimes): Promise<number> {
  const { rows } = await pool.query<{ corrected: number }>(CORRECT, [
    times.checkMs,
    times.lockMs,
    times.prompt,
    times.longestWaitMs,
  ]);
  return rows[0]?.corrected ?? 0;
}

/** Twice as far ahead as can be: clocks are never quite the same. */
const CORRECT = `
  WITH clock AS (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now),
  checks AS (
    UPDATE bullmq.meta SET value = clock.now::text FROM clock
     WHERE CASE WHEN field = 'stalled-check' THEN value::bigint > clock.now + 2 * $1::bigint ELSE false END RETURNING 1),
  locks AS (
    UPDATE bullmq.job SET locked_until_ms = clock.now + $2::bigint FROM clock
     WHERE state = 'active' AND locked_until_ms > clock.now + 2 * $2::bigint RETURNING 1),
  waits AS (
    UPDATE bullmq.job SET process_at_ms = clock.now FROM clock
     WHERE state = 'delayed' AND queue = ANY ($3::text[]) AND process_at_ms > clock.now + 2 * $4::bigint RETURNING 1)
  SELECT ((SELECT count(*) FROM checks) + (SELECT count(*) FROM locks) + (SELECT count(*) FROM waits))::int AS corrected`;
