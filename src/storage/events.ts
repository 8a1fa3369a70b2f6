/** Events become deliveries: one for every receiver, made in the transaction that makes the event true. */
import type pg from 'pg';
import type { Database } from './database.js';
import { ENDPOINT_DISABLED, PING_EVENT } from './deliveries.js';
import { uuidv7 } from './ids.js';

/** An event as it is stored, with its final bytes. */
export interface StoredEvent {
  readonly type: string;
  readonly body: string;
  /** Tells events of one type and analysis apart, where there can be several; the same again changes nothing. */
  readonly occurrence: string;
  /** Whether the order's own callback address receives it. */
  readonly toCallback: boolean;
}

/** Whose events these are, and the address that came with the order. */
interface Source {
  readonly id: string;
  readonly laboratory: string;
  readonly callbackUrl: string | null;
}

interface Endpoint {
  readonly id: string;
  readonly url: string;
  readonly enabled: boolean;
}

/**
 * Makes a delivery for everybody who receives one of these events; an endpoint that is disabled gets one that has failed, to be
 * replayed when it is back. Returns those that are to be made.
 */
export async function addDeliveries(
  client: pg.PoolClient,
  analysis: Source,
  events: readonly StoredEvent[],
): Promise<string[]> {
  if (events.length === 0) return [];
  const { rows: endpoints } = await client.query<Endpoint & { readonly eventTypes: readonly string[] }>(
    `SELECT id, url, disabled_at IS NULL AS enabled, event_types AS "eventTypes" FROM webhook_endpoints
      WHERE laboratory = $1 AND event_types && $2::text[] ORDER BY id`,
    [analysis.laboratory, events.map(({ type }) => type)],
  );
  const ids: string[] = [];
  for (const event of events) {
    const listening = endpoints.filter(({ eventTypes }) => eventTypes.includes(event.type));
    ids.push(...(await addDeliveriesOf(client, analysis, event, listening)));
  }
  return ids;
}

async function addDeliveriesOf(
  client: pg.PoolClient,
  analysis: Source,
  event: StoredEvent,
  endpoints: readonly Endpoint[],
): Promise<string[]> {
  const receivers = endpoints.map(({ id, url, enabled }) => ({
    url,
    enabled,
    endpointId: id as string | null,
    destination: id,
  }));
  if (analysis.callbackUrl !== null && event.toCallback) {
    const { origin } = new URL(analysis.callbackUrl);
    receivers.push({ endpointId: null, url: analysis.callbackUrl, destination: origin, enabled: true });
  }
  if (receivers.length === 0) return [];
  const occurrences = receivers.map(({ endpointId }) =>
    [analysis.id, event.type, event.occurrence, endpointId ?? 'callback'].join(' '),
  );
  await client.query(
    `INSERT INTO deliveries (id, analysis_id, laboratory, event_type, body, endpoint_id, url, destination, occurrence,
                             status, next_attempt_at, last_error)
     SELECT one.id, $1, $2, $3, $4, one.endpoint_id, one.url, one.destination, one.occurrence,
            CASE WHEN one.enabled THEN 'pending' ELSE 'failed' END::delivery_status,
            CASE WHEN one.enabled THEN now() END, CASE WHEN one.enabled THEN NULL ELSE $11 END
       FROM unnest($5::uuid[], $6::uuid[], $7::text[], $8::text[], $9::text[], $10::boolean[])
         AS one(id, endpoint_id, url, destination, occurrence, enabled)
     ON CONFLICT (occurrence) DO NOTHING`,
    [
      analysis.id,
      analysis.laboratory,
      event.type,
      event.body,
      receivers.map(() => uuidv7()),
      receivers.map((one) => one.endpointId),
      receivers.map((one) => one.url),
      receivers.map((one) => one.destination),
      occurrences,
      receivers.map((one) => one.enabled),
      ENDPOINT_DISABLED,
    ],
  );
  const { rows } = await client.query<{ id: string }>(
    `SELECT id FROM deliveries WHERE occurrence = ANY($1) AND status = 'pending' ORDER BY id`,
    [occurrences],
  );
  return rows.map((row) => row.id);
}

/** Stores a test ping. */
export async function addPing(
  db: Database,
  endpoint: { readonly id: string; readonly laboratory: string; readonly url: string },
  body: string,
): Promise<string> {
  const id = uuidv7();
  await db.pool.query(
    `INSERT INTO deliveries (id, laboratory, endpoint_id, event_type, url, body, destination, next_attempt_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, now())`,
    [id, endpoint.laboratory, endpoint.id, PING_EVENT, endpoint.url, body, endpoint.id],
  );
  return id;
}

/** Removes test pings, which no analysis takes with it, and what is known of destinations that are long not called. */
export async function removeOldTraces(db: Database, days: number): Promise<void> {
  await db.pool.query(
    `DELETE FROM deliveries WHERE analysis_id IS NULL AND created_at < now() - $1 * interval '1 day'`,
    [days],
  );
  await db.pool.query(
    `DELETE FROM failing_destinations f WHERE f.last_at < now() - $1 * interval '1 day'
        AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.destination = f.destination AND d.status = 'pending')`,
    [days],
  );
}
