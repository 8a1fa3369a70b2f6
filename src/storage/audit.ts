/** The audit trail: append-only rows (a trigger refuses every change but the purge by age). */
import type pg from 'pg';
import { type Database, inTransaction } from './database.js';
import { uuidv7 } from './ids.js';
import { olderThan, type Page, pageOf } from './paging.js';

export type AuditActorKind = 'key' | 'token' | 'open' | 'command' | 'system' | 'none';
export type AuditOutcome = 'success' | 'refused' | 'failed';

export interface NewAuditEntry {
  readonly at: Date;
  /** Null: nobody was recognised. */
  readonly laboratory: string | null;
  readonly actorKind: AuditActorKind;
  /** Id of the key, or issuer's subject of the token. */
  readonly actorId: string | null;
  /** Id of the operation, as the contract names it. */
  readonly operation: string;
  readonly method: string | null;
  /** Pattern of the address, never the address: a query may hold an accession number. */
  readonly route: string | null;
  /** Id of the analysis or key that it was about. */
  readonly subjectId: string | null;
  /** Of the answer. */
  readonly status: number | null;
  readonly outcome: AuditOutcome;
  /** Address of the client. */
  readonly remote: string | null;
  readonly requestId: string | null;
}

export interface AuditEntry extends Omit<NewAuditEntry, 'at'> {
  readonly id: string;
  readonly at: string;
}

/**
 * Writes entries in one statement.
 * @param on The pool, or the connection of the transaction that the entries belong to.
 */
export async function appendAudit(on: Pick<pg.ClientBase, 'query'>, entries: readonly NewAuditEntry[]): Promise<void> {
  if (entries.length === 0) return;
  await on.query(
    `INSERT INTO audit_entries (id, at, laboratory, actor_kind, actor_id, operation, method, route, subject_id, status,
                                outcome, remote, request_id)
     SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                          $8::text[], $9::text[], $10::int[], $11::text[], $12::text[], $13::text[])`,
    [
      entries.map((entry) => uuidv7(entry.at.getTime())),
      entries.map((entry) => entry.at),
      entries.map((entry) => entry.laboratory),
      entries.map((entry) => entry.actorKind),
      entries.map((entry) => entry.actorId),
      entries.map((entry) => entry.operation),
      entries.map((entry) => entry.method),
      entries.map((entry) => entry.route),
      entries.map((entry) => entry.subjectId),
      entries.map((entry) => entry.status),
      entries.map((entry) => entry.outcome),
      entries.map((entry) => entry.remote),
      entries.map((entry) => entry.requestId),
    ],
  );
}

/** The entry of what the service did to an analysis by itself. */
export function systemEntry(
  operation: string,
  { id, laboratory }: { readonly id: string; readonly laboratory: string },
): NewAuditEntry {
  return {
    at: new Date(),
    laboratory,
    actorKind: 'system',
    actorId: null,
    operation,
    method: null,
    route: null,
    subjectId: id,
    status: null,
    outcome: 'success',
    remote: null,
    requestId: null,
  };
}

export interface AuditQuery {
  /** Entries of this laboratory ... */
  readonly laboratory: string;
  /** ... and, where true, those of nobody: refused before anybody was recognised. */
  readonly withUnrecognised: boolean;
  readonly subjectId?: string | undefined;
  readonly actorId?: string | undefined;
  readonly from?: Date | undefined;
  readonly to?: Date | undefined;
  /** `nextCursor` of the page before. */
  readonly cursor?: string | undefined;
  readonly limit: number;
}

/** Newest first. Throws `InvalidCursorError` for a cursor that no page gave out. */
export async function listAudit(db: Database, query: AuditQuery): Promise<Page<AuditEntry>> {
  const rows = await db.prisma.auditEntry.findMany({
    where: {
      OR: [{ laboratory: query.laboratory }, ...(query.withUnrecognised ? [{ laboratory: null }] : [])],
      ...(query.subjectId === undefined ? {} : { subjectId: query.subjectId }),
      ...(query.actorId === undefined ? {} : { actorId: query.actorId }),
      at: {
        ...(query.from === undefined ? {} : { gte: query.from }),
        ...(query.to === undefined ? {} : { lt: query.to }),
      },
      ...olderThan(query.cursor),
    },
    orderBy: { id: 'desc' },
    take: query.limit + 1,
  });
  return pageOf(rows, query.limit, (row) => ({
    ...row,
    at: row.at.toISOString(),
    actorKind: row.actorKind as AuditActorKind,
    outcome: row.outcome as AuditOutcome,
  }));
}

/** The purge by age, the only way in which entries leave; returns how many. */
export async function removeAuditOlderThan(db: Database, days: number): Promise<number> {
  return inTransaction(db.pool, async (client) => {
    await client.query(`SELECT set_config('leukodiff.audit_purge', 'on', true)`);
    const { rowCount } = await client.query(`DELETE FROM audit_entries WHERE at < now() - $1 * interval '1 day'`, [
      days,
    ]);
    return rowCount ?? 0;
  });
}
