/** Registered receivers of events. Everything is asked for within a laboratory: others do not exist. */
import { type Database, inTransaction } from './database.js';
import { failPending } from './deliveries.js';
import type { WebhookEndpoint as Row } from './generated/client.js';
import { isUuid, uuidv7 } from './ids.js';
import type { Sealer } from './sealing.js';

/** Every event of a laboratory makes a delivery for each of its endpoints. */
export const MAX_ENDPOINTS = 50;

export type DisabledReason = 'requested' | 'gone' | 'failing';

/** As it is read; the secret is never part of it. */
export interface WebhookEndpoint {
  readonly id: string;
  readonly url: string;
  readonly description: string | null;
  readonly eventTypes: readonly string[];
  readonly enabled: boolean;
  readonly disabledAt: string | null;
  readonly disabledReason: DisabledReason | null;
  /** Since when every attempt has failed; null: the last one was received, or none was made. */
  readonly failingSince: string | null;
  readonly lastDeliveredAt: string | null;
  /** Until when the secret before the present one signs too; null: it does not. */
  readonly previousSecretUntil: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface NewEndpoint {
  readonly url: string;
  readonly description: string | null;
  readonly eventTypes: readonly string[];
}

/** Null: the laboratory has as many as it may have. */
export async function createEndpoint(
  db: Database,
  sealer: Sealer,
  laboratory: string,
  endpoint: NewEndpoint,
  secret: string,
): Promise<WebhookEndpoint | null> {
  if ((await db.prisma.webhookEndpoint.count({ where: { laboratory } })) >= MAX_ENDPOINTS) return null;
  const id = uuidv7();
  const row = await db.prisma.webhookEndpoint.create({
    data: { id, laboratory, ...endpoint, eventTypes: [...endpoint.eventTypes], secret: sealer.seal(secret, id) },
  });
  return toEndpoint(row, null);
}

export async function listEndpoints(db: Database, laboratory: string): Promise<WebhookEndpoint[]> {
  const rows = await db.prisma.webhookEndpoint.findMany({ where: { laboratory }, orderBy: { id: 'asc' } });
  const failing = await failingSince(
    db,
    rows.map((row) => row.id),
  );
  return rows.map((row) => toEndpoint(row, failing.get(row.id) ?? null));
}

/** Null: the laboratory has no such endpoint. */
export async function getEndpoint(db: Database, laboratory: string, id: string): Promise<WebhookEndpoint | null> {
  const row = isUuid(id) ? await db.prisma.webhookEndpoint.findFirst({ where: { id, laboratory } }) : null;
  return row === null ? null : toEndpoint(row, (await failingSince(db, [id])).get(id) ?? null);
}

export interface EndpointChange {
  readonly url?: string | undefined;
  readonly description?: string | null | undefined;
  readonly eventTypes?: readonly string[] | undefined;
  readonly enabled?: boolean | undefined;
}

/** Null: the laboratory has no such endpoint. A new address, or being enabled, is a new start: past failures are forgotten. */
export async function updateEndpoint(
  db: Database,
  laboratory: string,
  id: string,
  change: EndpointChange,
): Promise<WebhookEndpoint | null> {
  if (!isUuid(id)) return null;
  const found = await inTransaction(db.pool, async (client) => {
    const { rows } = await client.query<{ url: string; disabledAt: Date | null }>(
      `SELECT url, disabled_at AS "disabledAt" FROM webhook_endpoints WHERE id = $1 AND laboratory = $2 FOR UPDATE`,
      [id, laboratory],
    );
    const [row] = rows;
    if (row === undefined) return false;
    const enable = change.enabled === true && row.disabledAt !== null;
    const disable = change.enabled === false && row.disabledAt === null;
    await client.query(
      `UPDATE webhook_endpoints
          SET url = coalesce($2, url), description = CASE WHEN $3 THEN $4 ELSE description END,
              event_types = coalesce($5, event_types), updated_at = now(),
              disabled_at = CASE WHEN $6 THEN NULL WHEN $7 THEN now() ELSE disabled_at END,
              disabled_reason = CASE WHEN $6 THEN NULL WHEN $7 THEN 'requested' ELSE disabled_reason END
        WHERE id = $1`,
      [
        id,
        change.url ?? null,
        change.description !== undefined,
        change.description ?? null,
        change.eventTypes === undefined ? null : [...change.eventTypes],
        enable,
        disable,
      ],
    );
    if (disable) await failPending(client, id);
    if (enable || (change.url !== undefined && change.url !== row.url)) {
      await client.query('DELETE FROM failing_destinations WHERE destination = $1', [id]);
    }
    return true;
  });
  return found ? getEndpoint(db, laboratory, id) : null;
}

/** Removes an endpoint with its deliveries; false: the laboratory has no such endpoint. */
export async function deleteEndpoint(db: Database, laboratory: string, id: string): Promise<boolean> {
  if (!isUuid(id)) return false;
  const { count } = await db.prisma.webhookEndpoint.deleteMany({ where: { id, laboratory } });
  if (count > 0) await db.prisma.failingDestination.deleteMany({ where: { destination: id } });
  return count > 0;
}

/** The present secret signs beside the new one for `overlapSeconds`. Null: the laboratory has no such endpoint. */
export async function rotateSecret(
  db: Database,
  sealer: Sealer,
  laboratory: string,
  id: string,
  secret: string,
  overlapSeconds: number,
): Promise<WebhookEndpoint | null> {
  if (!isUuid(id)) return null;
  const { rowCount } = await db.pool.query(
    `UPDATE webhook_endpoints
        SET previous_secret = CASE WHEN $4::int > 0 THEN secret END, secret = $3, updated_at = now(),
            previous_secret_until = CASE WHEN $4::int > 0 THEN now() + $4::int * interval '1 second' END
      WHERE id = $1 AND laboratory = $2`,
    [id, laboratory, Buffer.from(sealer.seal(secret, id)), overlapSeconds],
  );
  return rowCount === 1 ? getEndpoint(db, laboratory, id) : null;
}

async function failingSince(db: Database, ids: readonly string[]): Promise<Map<string, Date>> {
  const rows = await db.prisma.failingDestination.findMany({ where: { destination: { in: [...ids] } } });
  return new Map(rows.map((row) => [row.destination, row.since]));
}

function toEndpoint(row: Row, failing: Date | null): WebhookEndpoint {
  const until = row.previousSecretUntil;
  return {
    id: row.id,
    url: row.url,
    description: row.description,
    eventTypes: row.eventTypes,
    enabled: row.disabledAt === null,
    disabledAt: row.disabledAt?.toISOString() ?? null,
    disabledReason: row.disabledReason as DisabledReason | null,
    failingSince: failing?.toISOString() ?? null,
    lastDeliveredAt: row.lastDeliveredAt?.toISOString() ?? null,
    previousSecretUntil: until !== null && until > new Date() ? until.toISOString() : null,
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
  };
}
