/** Deliveries to registered endpoints: real workers, receivers, database and queue. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { CellType } from '../../../src/hematology/cell-types.js';
import { enqueueAnalysis, type Queues } from '../../../src/jobs/queues.js';
import { signedEvent } from '../../../src/jobs/stored-events.js';
import type { JobWorker, WorkerDeps } from '../../../src/jobs/worker.js';
import { pingEvent, WEBHOOK_EVENT_TYPES } from '../../../src/reporting/webhook-event.js';
import { createAnalysis, type NewAnalysis, waitForCompletion } from '../../../src/storage/analyses.js';
import { ATTEMPTS_PER_DESTINATION } from '../../../src/storage/deliveries.js';
import { getDelivery, listDeliveries, replayDelivery, replayMissed } from '../../../src/storage/delivery-log.js';
import type { AnalysisDocument } from '../../../src/storage/documents.js';
import { addPing } from '../../../src/storage/events.js';
import { reviewCell, signAnalysis } from '../../../src/storage/reviews.js';
import { newWebhookSecret } from '../../../src/storage/secrets.js';
import {
  createEndpoint,
  deleteEndpoint,
  getEndpoint,
  rotateSecret,
  updateEndpoint,
  type WebhookEndpoint,
} from '../../../src/storage/webhook-endpoints.js';
import { openTestDatabase, openTestQueues, QUEUE_BACKEND, type TestDatabase } from '../../support/database.js';
import { cellFinding, imageAnalysis, TEST_MODEL } from '../../support/findings.js';
import { atPort, REFUSED_NAMES, REFUSED_URLS } from '../../support/hostile-addresses.js';
import { startNameServer } from '../../support/name-server.js';
import { type Received, type Receiver, SEALER, startReceiver } from '../../support/webhooks.js';
import { startTestWorker } from '../../support/worker.js';

const SECRET = newWebhookSecret();
const LAB = 'default';
const WAIT_MS = 60_000;

let test: TestDatabase;
let queues: Queues;
const workers: JobWorker[] = [];
const receivers: Receiver[] = [];

beforeEach(async () => {
  test = await openTestDatabase();
  queues = await openTestQueues(test.database);
});
afterEach(async () => {
  for (const worker of workers.splice(0)) await worker.close(2_000);
  for (const one of receivers.splice(0)) await one.close();
  await queues.close();
  await test.close();
});

function work(more: Partial<WorkerDeps> = {}, config: Partial<WorkerDeps['config']> = {}): JobWorker {
  const worker = startTestWorker({
    config: { publicUrl: 'https://lab.test', ...config },
    db: test.database,
    queues,
    // A blast makes review necessary.
    vision: { analyze: async () => imageAnalysis([cellFinding('blast')]), model: TEST_MODEL },
    webhookSecret: SECRET,
    retryScheduleMs: [50, 100],
    ...more,
  });
  workers.push(worker);
  return worker;
}

async function post(order: NewAnalysis = {}, laboratory = LAB): Promise<string> {
  const image = { filename: 'a.png', contentType: 'image/png', bytes: Buffer.from('a') };
  const { id } = await createAnalysis(test.database, laboratory, { ...order, images: [image] });
  await enqueueAnalysis(queues, { id, imageCount: 1, priority: 'routine' });
  return id;
}

async function ended(id: string): Promise<void> {
  expect(await waitForCompletion(test.database, LAB, id, WAIT_MS)).toMatchObject({ status: 'completed' });
}

async function receiver(...given: Parameters<typeof startReceiver>): Promise<Receiver> {
  const started = await startReceiver(...given);
  receivers.push(started);
  return started;
}

interface Registered extends WebhookEndpoint {
  readonly secret: string;
}

async function register(
  url: string,
  eventTypes: readonly string[] = WEBHOOK_EVENT_TYPES,
  laboratory = LAB,
): Promise<Registered> {
  const secret = newWebhookSecret();
  const endpoint = await createEndpoint(
    test.database,
    SEALER,
    laboratory,
    { url, description: null, eventTypes },
    secret,
  );
  if (endpoint === null) throw new Error('too many endpoints');
  return { ...endpoint, secret };
}

/** What a person does, as the route does it. */
const REVIEW = {
  reviewer: 'mlopez',
  comment: null,
  isCurrent: () => true,
  eventsOf: (document: AnalysisDocument) => [signedEvent(document, 'https://lab.test')],
  reportsOf: () => [],
};

async function renamed(id: string, to: CellType): Promise<void> {
  expect(await reviewCell(test.database, LAB, id, '0-0', to, REVIEW)).toMatchObject({ kind: 'done', deliveryIds: [] });
}

/** Signs and answers when. */
async function signed(id: string): Promise<string | null | undefined> {
  const outcome = await signAnalysis(test.database, LAB, id, REVIEW);
  if (outcome.kind !== 'done') throw new Error(outcome.kind);
  for (const deliveryId of outcome.deliveryIds) await queues.addDelivery(deliveryId);
  return outcome.document.verification?.signedAt;
}

const verified = (secret: string, { body, headers }: Received): unknown =>
  new Webhook(secret).verify(body, headers as Record<string, string>);
const typesAt = (hook: Receiver): string[] => hook.received.map(({ body }) => JSON.parse(body).type).sort();
const arrived = (hook: Receiver, count: number) =>
  expect.poll(() => hook.received.length, { timeout: WAIT_MS }).toBeGreaterThanOrEqual(count);
const logOf = async (endpointId: string) =>
  (await listDeliveries(test.database, LAB, { endpointId, limit: 100 })).items;
const statuses = async (endpointId: string) => (await logOf(endpointId)).map(({ status }) => status);
const stateOf = (id: string) => getEndpoint(test.database, LAB, id);

describe(`registered endpoints, queue on ${QUEUE_BACKEND}`, () => {
  it('receive the events that they asked for, signed with their own secret; other laboratories receive nothing', async () => {
    const [all, review, completed, failed, other, callback] = (await Promise.all(
      Array.from({ length: 6 }, () => receiver([204])),
    )) as [Receiver, Receiver, Receiver, Receiver, Receiver, Receiver];
    const everything = await register(all.url);
    const elsewhere = await receiver([204]);
    await register(elsewhere.url, ['analysis.completed'], 'third-laboratory');
    const onlyReview = await register(review.url, ['analysis.review_required']);
    await register(completed.url, ['analysis.completed']);
    await register(failed.url, ['analysis.failed']);
    await register(other.url, WEBHOOK_EVENT_TYPES, 'other-laboratory');
    work();
    const id = await post({ accessionNumber: 'A-7', callbackUrl: callback.url });
    await Promise.all([arrived(all, 2), arrived(review, 1), arrived(completed, 1), arrived(callback, 1)]);
    await sleep(500);
    expect(typesAt(all)).toEqual(['analysis.completed', 'analysis.review_required']);
    expect(typesAt(review)).toEqual(['analysis.review_required']);
    expect(typesAt(completed)).toEqual(['analysis.completed']);
    expect(typesAt(callback)).toEqual(['analysis.completed']);
    expect([...failed.received, ...other.received]).toEqual([]);
    // An analysis of another laboratory is told there, and nowhere else.
    const foreign = await post({}, 'third-laboratory');
    await arrived(elsewhere, 1);
    await sleep(500);
    expect(elsewhere.received.map(({ body }) => JSON.parse(body).data.id)).toEqual([foreign]);
    expect(all.received).toHaveLength(2);
    for (const one of all.received) {
      expect(verified(everything.secret, one)).toMatchObject({
        data: { id, accessionNumber: 'A-7', reviewRequired: true },
      });
      expect(() => verified(SECRET, one)).toThrow();
      expect(() => verified(onlyReview.secret, one)).toThrow();
    }
    verified(SECRET, callback.received[0] as Received);
    const ids = [...all.received, ...review.received, ...completed.received].map(
      ({ headers }) => headers['webhook-id'],
    );
    expect(new Set(ids).size).toBe(4);
    await expect.poll(async () => (await stateOf(everything.id))?.lastDeliveredAt, { timeout: WAIT_MS }).not.toBeNull();
  });

  it('hear of a signature, once for each; so does the callback address', async () => {
    const [hook, callback] = [await receiver([204]), await receiver([204])];
    const endpoint = await register(hook.url, ['analysis.signed']);
    work();
    const id = await post({ callbackUrl: callback.url });
    await ended(id);
    await arrived(callback, 1);
    await renamed(id, 'blast');
    const first = await signed(id);
    await Promise.all([arrived(hook, 1), arrived(callback, 2)]);
    await expect.poll(() => statuses(endpoint.id), { timeout: WAIT_MS }).toEqual(['delivered']);
    await renamed(id, 'monocyte');
    const second = await signed(id);
    await Promise.all([arrived(hook, 2), arrived(callback, 3)]);
    expect(hook.received.map((one) => verified(endpoint.secret, one))).toMatchObject([
      { type: 'analysis.signed', timestamp: first, data: { id, status: 'completed' } },
      { type: 'analysis.signed', timestamp: second },
    ]);
    // Only signatures are told, not what went before them.
    await sleep(300);
    expect([hook.received.length, callback.received.length]).toEqual([2, 3]);
  });

  it('verify with the old and the new secret while it changes, and with the new one afterwards', async () => {
    const hook = await receiver([204]);
    const { id, secret: old } = await register(hook.url, ['analysis.completed']);
    const renewed = newWebhookSecret();
    expect((await rotateSecret(test.database, SEALER, LAB, id, renewed, 3600))?.previousSecretUntil).not.toBeNull();
    work();
    await post();
    await arrived(hook, 1);
    const during = hook.received[0] as Received;
    expect(String(during.headers['webhook-signature']).split(' ')).toHaveLength(2);
    for (const secret of [old, renewed]) verified(secret, during);

    await test.database.pool.query(`UPDATE webhook_endpoints SET previous_secret_until = now() - interval '1 second'`);
    await post();
    await arrived(hook, 2);
    const after = hook.received[1] as Received;
    verified(renewed, after);
    expect(() => verified(old, after)).toThrow();
    expect((await stateOf(id))?.previousSecretUntil).toBeNull();

    const last = newWebhookSecret();
    await rotateSecret(test.database, SEALER, LAB, id, last, 0);
    await post();
    await arrived(hook, 3);
    verified(last, hook.received[2] as Received);
    expect(() => verified(renewed, hook.received[2] as Received)).toThrow();
  });

  it("the service's own secret can be changed in the same way", async () => {
    const [hook, renewed] = [await receiver([204]), newWebhookSecret()];
    work({ webhookSecret: `${renewed} ${SECRET}` });
    await post({ callbackUrl: hook.url });
    await arrived(hook, 1);
    for (const secret of [renewed, SECRET]) verified(secret, hook.received[0] as Received);
  });

  it('are called where they are registered now, not where they were when it happened', async () => {
    const [before, after] = [await receiver([503]), await receiver([204])];
    const { id } = await register(before.url, ['analysis.completed']);
    work({ retryScheduleMs: [1_500, 1_500] });
    await post();
    await arrived(before, 1);
    await updateEndpoint(test.database, LAB, id, { url: after.url });
    await arrived(after, 1);
    await expect.poll(() => statuses(id), { timeout: WAIT_MS }).toEqual(['delivered']);
    expect((await logOf(id))[0]?.url).toBe(after.url);
  });

  it('that are deleted receive nothing more', async () => {
    const hook = await receiver([503]);
    const { id } = await register(hook.url, ['analysis.completed']);
    work({ retryScheduleMs: [2_000] });
    await post();
    await arrived(hook, 1);
    expect(await deleteEndpoint(test.database, LAB, id)).toBe(true);
    await sleep(3_000);
    expect(hook.received.length).toBe(1);
    expect(await logOf(id)).toEqual([]);
  });

  it('with a secret that this process cannot open are not called, and the log says why', async () => {
    const hook = await receiver([204]);
    const { id } = await register(hook.url, ['analysis.completed']);
    await test.database.pool.query(`UPDATE webhook_endpoints SET secret = '\\x01'`);
    work({ retryScheduleMs: [] });
    await post();
    await expect.poll(() => statuses(id), { timeout: WAIT_MS }).toEqual(['failed']);
    expect((await logOf(id))[0]?.lastError).toContain('WEBHOOK_ENCRYPTION_KEY');
    expect(hook.received).toEqual([]);
  });
});

describe(`trouble of a receiver, queue on ${QUEUE_BACKEND}`, () => {
  it('Retry-After is waited for', async () => {
    const hook = await receiver([429], { 'retry-after': '120' });
    const { id } = await register(hook.url, ['analysis.completed']);
    work();
    await post();
    await expect.poll(async () => (await logOf(id))[0]?.lastStatus, { timeout: WAIT_MS }).toBe(429);
    const wait = Date.parse((await logOf(id))[0]?.nextAttemptAt ?? '') - Date.now();
    expect(wait).toBeGreaterThan(100_000);
    expect(wait).toBeLessThan(121_000);
  });

  it('Gone disables the endpoint; what it misses is kept and can be replayed', async () => {
    const hook = await receiver([410, 204]);
    const { id } = await register(hook.url, ['analysis.completed']);
    work();
    await post();
    await expect.poll(async () => (await stateOf(id))?.disabledReason, { timeout: WAIT_MS }).toBe('gone');
    await ended(await post());
    await sleep(500);
    expect(hook.received).toHaveLength(1);
    expect(await statuses(id)).toEqual(['failed', 'failed']);
    const [missed] = await logOf(id);
    expect(await replayDelivery(test.database, LAB, missed?.id ?? '')).toBe('disabled');
    expect(await replayDelivery(test.database, 'other-laboratory', missed?.id ?? '')).toBeNull();

    await updateEndpoint(test.database, LAB, id, { enabled: true });
    expect(await replayMissed(test.database, LAB, id, new Date(Date.now() + 1_000))).toEqual([]);
    const ids = await replayMissed(test.database, LAB, id, new Date(Date.now() - 60_000));
    expect(ids).toHaveLength(2);
    // They are due now, and nothing is left to replay.
    expect(await replayMissed(test.database, LAB, id, new Date(0))).toEqual([]);
    await test.database.pool.query(`UPDATE deliveries SET next_attempt_at = now() + interval '5 hours'`);
    expect(await replayMissed(test.database, LAB, id, new Date(0))).toEqual(ids);
    for (const one of ids) await queues.addDelivery(one, { again: true });
    await arrived(hook, 3);
    await expect.poll(() => statuses(id), { timeout: WAIT_MS }).toEqual(['delivered', 'delivered']);
    const messages = hook.received.map(({ headers }) => headers['webhook-id']);
    expect(new Set(messages).size).toBe(2);
    const first = await getDelivery(test.database, LAB, ids[0] ?? '');
    expect(first?.attemptLog.map(({ httpStatus }) => httpStatus)).toEqual([204, 410]);
  });

  it('days of failure disable the endpoint, and not before', async () => {
    const hook = await receiver([500]);
    const { id } = await register(hook.url, ['analysis.completed']);
    const failing = (days: number, failures: number) =>
      test.database.pool.query(
        `INSERT INTO failing_destinations (destination, since, failures) VALUES ($1, now() - $2 * interval '1 day', $3)
         ON CONFLICT (destination) DO UPDATE SET since = excluded.since, failures = excluded.failures`,
        [id, days, failures],
      );
    work({ retryScheduleMs: [] });
    for (const [days, failures, disabled] of [
      [4.9, 50, false],
      [30, 3, false],
      [5.1, 9, true],
    ] as const) {
      await failing(days, failures);
      const before = hook.received.length;
      await post();
      await arrived(hook, before + 1);
      await expect
        .poll(async () => (await logOf(id)).some(({ status }) => status === 'pending'), { timeout: WAIT_MS })
        .toBe(false);
      expect((await stateOf(id))?.disabledReason, `${days} days, ${failures} failures`).toBe(
        disabled ? 'failing' : null,
      );
    }
    const enabled = await updateEndpoint(test.database, LAB, id, { enabled: true });
    expect(enabled).toMatchObject({ enabled: true, disabledReason: null, failingSince: null });
  });

  it('a success ends the count of failures', async () => {
    const hook = await receiver([500, 204]);
    const { id } = await register(hook.url, ['analysis.completed']);
    work({ retryScheduleMs: [300] });
    await post();
    await expect.poll(async () => (await stateOf(id))?.failingSince, { timeout: WAIT_MS }).not.toBeNull();
    await arrived(hook, 2);
    await expect.poll(async () => (await stateOf(id))?.failingSince, { timeout: WAIT_MS }).toBeNull();
  });

  it('many deliveries to one that was down arrive, each once, when it is back', async () => {
    const hook = await receiver([503, 503, 503, 503, 503, 503, 503, 503, 204]);
    const { id } = await register(hook.url, ['analysis.completed']);
    work({ retryScheduleMs: [200, 400, 800, 1_600] });
    await Promise.all(Array.from({ length: 12 }, () => post()));
    await expect
      .poll(async () => (await statuses(id)).filter((status) => status === 'delivered').length, { timeout: WAIT_MS })
      .toBe(12);
    const taken = hook.received.slice(8).map(({ headers }) => headers['webhook-id']);
    expect(taken).toHaveLength(12);
    expect(new Set(taken).size).toBe(12);
  });

  it('dead receivers by the hundred slow neither results nor live receivers, and none holds more than one attempt', async () => {
    const open = new Map<string, number>();
    let most = 0;
    const dead = createServer((request) => {
      const path = request.url ?? '';
      open.set(path, (open.get(path) ?? 0) + 1);
      most = Math.max(most, open.get(path) ?? 0);
      request.on('close', () => open.set(path, (open.get(path) ?? 0) - 1));
      // Takes every request and never answers.
    });
    await new Promise<void>((settle) => dead.listen(0, '127.0.0.1', settle));
    const { port } = dead.address() as AddressInfo;
    const hook = await receiver([204]);
    const live = await register(hook.url, ['analysis.completed']);
    // By their ids they all come before the live one in every line.
    await test.database.pool.query(
      `INSERT INTO webhook_endpoints (id, url, event_types, secret)
       SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'http://127.0.0.1:' || $1 || '/' || n, '{analysis.completed}', '\\x00'
         FROM generate_series(1, 100) AS n`,
      [port],
    );
    for (const { id } of await test.database.prisma.webhookEndpoint.findMany({ where: { id: { not: live.id } } })) {
      await rotateSecret(test.database, SEALER, LAB, id, newWebhookSecret(), 0);
    }
    work();
    const begun = performance.now();
    const ids = await Promise.all(Array.from({ length: 6 }, () => post()));
    for (const id of ids) await ended(id);
    expect(performance.now() - begun).toBeLessThan(10_000);
    await arrived(hook, 6);
    // Far below the time that one attempt at a dead one takes.
    expect((hook.received[5]?.at ?? 0) - begun).toBeLessThan(12_000);
    // Results and the live receiver may be done before the dead ones were all called.
    await expect.poll(() => open.size, { timeout: WAIT_MS }).toBeGreaterThan(50);
    expect(most).toBeLessThanOrEqual(ATTEMPTS_PER_DESTINATION);
    // The end does not wait for those that never answer, and counts nothing against them.
    const closing = performance.now();
    await workers.pop()?.close(500);
    expect(performance.now() - closing).toBeLessThan(8_000);
    dead.closeAllConnections();
    dead.close();
  });
});

describe(`a test ping, queue on ${QUEUE_BACKEND}`, () => {
  it('arrives once, also at an endpoint that is disabled, and says what came of it', async () => {
    const hook = await receiver([500, 204]);
    const endpoint = await register(hook.url);
    await updateEndpoint(test.database, LAB, endpoint.id, { enabled: false });
    work();
    const ping = async () => {
      const body = JSON.stringify(pingEvent(endpoint.id, new Date().toISOString()));
      const id = await addPing(test.database, { ...endpoint, laboratory: LAB }, body);
      await queues.addDelivery(id);
      await expect
        .poll(async () => (await getDelivery(test.database, LAB, id))?.status, { timeout: WAIT_MS })
        .not.toBe('pending');
      return getDelivery(test.database, LAB, id);
    };
    expect(await ping()).toMatchObject({ status: 'failed', attempts: 1, lastStatus: 500, eventType: 'webhook.ping' });
    expect(await ping()).toMatchObject({ status: 'delivered', attempts: 1, attemptLog: [{ httpStatus: 204 }] });
    expect(hook.received).toHaveLength(2);
    expect(verified(endpoint.secret, hook.received[1] as Received)).toMatchObject({
      type: 'webhook.ping',
      data: { endpointId: endpoint.id },
    });
    expect((await stateOf(endpoint.id))?.enabled).toBe(false);
  });
});

describe(`addresses that lead inwards, queue on ${QUEUE_BACKEND}`, () => {
  it('are not called: nothing arrives at a listener on every address of this machine', async () => {
    let connections = 0;
    const listener = createServer((_request, response) => response.end()).on('connection', () => {
      connections += 1;
    });
    await new Promise<void>((settle) => listener.listen(0, '::', settle));
    const { port } = listener.address() as AddressInfo;
    const names = await startNameServer((name) => REFUSED_NAMES[name]);
    const urls = [
      ...REFUSED_URLS.map((url) => atPort(url, port)),
      ...Object.keys(REFUSED_NAMES).map((name) => `http://${name}:${port}/`),
    ];
    expect(urls.length).toBeGreaterThanOrEqual(60);
    const image = { filename: 'a.png', contentType: 'image/png', bytes: Buffer.from('a') };
    const { id } = await createAnalysis(test.database, LAB, { images: [image] });
    await test.database.pool.query(`UPDATE analyses SET status = 'completed' WHERE id = $1`, [id]);
    const { rows } = await test.database.pool.query<{ id: string }>(
      `INSERT INTO deliveries (id, analysis_id, event_type, url, body, destination, next_attempt_at)
       SELECT gen_random_uuid(), $1, 'analysis.completed', url, '{}', url, now() FROM unnest($2::text[]) AS url
       RETURNING id`,
      [id, urls],
    );
    work({ resolve: names.resolve, retryScheduleMs: [] }, { webhookNetworks: [] });
    for (const row of rows) await queues.addDelivery(row.id);
    const left = () => test.database.prisma.delivery.count({ where: { status: { not: 'failed' } } });
    await expect.poll(left, { timeout: WAIT_MS }).toBe(0);
    expect(connections).toBe(0);
    for (const { url, lastError, lastStatus } of await test.database.prisma.delivery.findMany()) {
      expect(lastStatus, url).toBeNull();
      expect(lastError, url).toMatch(
        /^refused: |^The host is |^Port |^Only |^Credentials |not a URL|ENOTFOUND|ENODATA/,
      );
    }
    // The listener does listen.
    expect((await fetch(`http://127.0.0.1:${port}/`)).status).toBe(200);
    expect(connections).toBe(1);
    listener.closeAllConnections();
    listener.close();
    await names.close();
  });
});
