/** Reports on their way: a real database, the queue of this run, and receivers of all tempers on real sockets. */
import { readFileSync } from 'node:fs';
import { createServer as createHttpServer, type Server as HttpServer, type IncomingMessage } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { createServer as createTlsServer } from 'node:tls';
import { fileURLToPath } from 'node:url';
import type { Hl7Message } from '@medplum/core';
import { Hl7Connection, type Hl7MessageEvent } from '@medplum/hl7';
import { type Logger, pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { MllpDestination } from '../../../src/jobs/mllp.js';
import { enqueueAnalysis, type Queues } from '../../../src/jobs/queues.js';
import { fhirSender, hl7Sender } from '../../../src/jobs/report-senders.js';
import { sweep } from '../../../src/jobs/sweep.js';
import type { JobWorker, WorkerDeps } from '../../../src/jobs/worker.js';
import { createMetrics, type Metrics } from '../../../src/observability/metrics.js';
import { outgoingReports } from '../../../src/reporting/outgoing.js';
import { DEFAULT_PROFILE } from '../../../src/reporting/site-profile.js';
import { createAnalysis, type NewAnalysis, waitForCompletion } from '../../../src/storage/analyses.js';
import { reviewCell, signAnalysis } from '../../../src/storage/reviews.js';
import {
  openTestDatabase,
  openTestQueues,
  QUEUE_BACKEND,
  type QueuePlace,
  queuePlace,
  type TestDatabase,
} from '../../support/database.js';
import { fhirFaults } from '../../support/fhir-validation.js';
import { cellFinding, imageAnalysis, TEST_MODEL } from '../../support/findings.js';
import { KEEP_ALL } from '../../support/retention.js';
import { startTestWorker } from '../../support/worker.js';

const WAIT_MS = 60_000;
const ACK_TIMEOUT_MS = 400;
const OUTGOING = { profile: DEFAULT_PROFILE, publicUrl: undefined, hl7: true, fhir: false, send: 'all' } as const;
const tlsFile = (name: string): string => fileURLToPath(new URL(`../../fixtures/tls/${name}`, import.meta.url));

let test: TestDatabase;
let place: QueuePlace;
let queues: Queues;
let metrics: Metrics;
let log: Logger;
let lines: string[];
const workers: JobWorker[] = [];
const closers: (() => void)[] = [];

beforeEach(async () => {
  test = await openTestDatabase();
  place = queuePlace(test.database);
  lines = [];
  log = pino(
    { level: 'debug' },
    new PassThrough().on('data', (chunk: Buffer) => lines.push(chunk.toString())),
  );
  queues = await openTestQueues(test.database, log, place);
  metrics = createMetrics({ version: 'test' });
});
afterEach(async () => {
  for (const worker of workers.splice(0)) await worker.close(5_000);
  for (const close of closers.splice(0)) close();
  await queues.close();
  await test.close();
});

function work(senders: WorkerDeps['senders'], more: Partial<WorkerDeps> = {}): void {
  workers.push(
    startTestWorker({
      config: { workerConcurrency: 2 },
      db: test.database,
      queues,
      vision: { analyze: async () => imageAnalysis([cellFinding('neutrophil')]), model: TEST_MODEL },
      metrics,
      log,
      outgoing: OUTGOING,
      senders: senders ?? [],
      reportWaits: { stepsMs: [50, 100, 150], pauseMs: [50] },
      ...more,
    }),
  );
}

async function post(order: NewAnalysis = {}): Promise<string> {
  const images = [{ filename: '0.png', contentType: 'image/png', bytes: Buffer.from('picture') }];
  const { id } = await createAnalysis(test.database, 'default', { targetCells: 1, ...order, images });
  await enqueueAnalysis(queues, { id, imageCount: 1, priority: 'routine' });
  return id;
}

async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + WAIT_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not in time: ${what}\n${lines.join('')}`);
    await sleep(20);
  }
}

const rowsOf = (analysisId: string) =>
  test.database.prisma.reportDelivery.findMany({ where: { analysisId }, orderBy: { id: 'asc' } });
const statusOf = async (analysisId: string) => (await rowsOf(analysisId)).map((row) => row.status);
async function settled(id: string, expected: readonly string[]): Promise<void> {
  await until(async () => (await statusOf(id)).join() === expected.join(), `the reports of ${id} are ${expected}`);
}

async function sign(id: string): Promise<void> {
  const outcome = await signAnalysis(test.database, 'default', id, {
    reviewer: 'mlopez',
    comment: null,
    isCurrent: () => true,
    eventsOf: () => [],
    reportsOf: (document) => outgoingReports(document, OUTGOING),
  });
  if (outcome.kind !== 'done') throw new Error(outcome.kind);
  for (const report of outcome.reports) await queues.addReport(report);
}

interface Listener {
  readonly destination: MllpDestination;
  readonly received: Hl7Message[];
  readonly connections: () => number;
  /** Most messages that were there without an answer at one time. */
  readonly mostAtOnce: () => number;
}

/** How one message is answered: an acknowledgement code, or what happens to the socket instead. */
type Answer = string | ((socket: Socket, message: Hl7Message) => void);

/** An MLLP receiver whose protocol is Medplum's: it answers with `answers` in turn, the last one for ever. */
async function listen(
  answers: readonly Answer[],
  options: { tls?: boolean; delayMs?: number } = {},
): Promise<Listener> {
  const received: Hl7Message[] = [];
  const sockets = new Set<Socket>();
  let connections = 0;
  let waiting = 0;
  let most = 0;
  const onSocket = (socket: Socket): void => {
    connections += 1;
    sockets.add(socket);
    socket.on('error', () => undefined);
    const connection = new Hl7Connection(socket);
    connection.addEventListener('error', () => undefined);
    connection.addEventListener('message', ({ message }: Hl7MessageEvent) => {
      waiting += 1;
      most = Math.max(most, waiting);
      const answer = answers[Math.min(received.length, answers.length - 1)] ?? 'AA';
      received.push(message);
      setTimeout(() => {
        waiting -= 1;
        if (typeof answer === 'function') answer(socket, message);
        else connection.send(message.buildAck({ ackCode: answer as 'AA' }));
      }, options.delayMs ?? 0);
    });
  };
  const server: Server = options.tls
    ? createTlsServer({ key: readFileSync(tlsFile('key.pem')), cert: readFileSync(tlsFile('cert.pem')) }, onSocket)
    : createServer({ allowHalfOpen: true }, onSocket);
  const port = await listening(server);
  closers.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    destination: { host: '127.0.0.1', port, tls: options.tls === true },
    received,
    connections: () => connections,
    mostAtOnce: () => most,
  };
}

async function listening(server: Server | HttpServer, port = 0): Promise<number> {
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

const sender = (listener: Pick<Listener, 'destination'>) => hl7Sender(listener.destination, ACK_TIMEOUT_MS);
const controlIds = ({ received }: Listener) => received.map((one) => one.getSegment('MSH')?.getField(10).toString());
const statuses = ({ received }: Listener) => received.map((one) => one.getSegment('OBR')?.getField(25).toString());
const orders = ({ received }: Listener) => received.map((one) => one.getSegment('OBR')?.getField(3).toString());

describe(`HL7 over MLLP, queue on ${QUEUE_BACKEND}`, () => {
  it('arrives when the result is there, and again when it is signed', async () => {
    const lis = await listen(['AA']);
    work([sender(lis)]);
    const id = await post({ accessionNumber: 'H-26-77', orderId: 'O-9' });
    await settled(id, ['delivered']);
    await sign(id);
    await settled(id, ['delivered', 'delivered']);
    expect(statuses(lis)).toEqual(['P', 'F']);
    expect(new Set(orders(lis))).toEqual(new Set([id]));
    expect(lis.received[0]?.getSegment('MSH')?.getField(18).toString()).toBe('UNICODE UTF-8');
    expect(lis.received[0]?.getSegment('OBR')?.getField(18).toString()).toBe('H-26-77');
    expect(lis.received[0]?.getAllSegments('OBX').length).toBeGreaterThan(10);
    expect(lis.connections()).toBe(1);
    expect((await rowsOf(id)).map((row) => [row.attempts, row.lastAnswer])).toEqual([
      [1, 'AA'],
      [1, 'AA'],
    ]);
    expect(lines.join('')).not.toMatch(/H-26-77|O-9|mlopez/);
  });

  it('holds back what nobody has signed, if the site wants that', async () => {
    const lis = await listen(['AA']);
    work([sender(lis)], { outgoing: { ...OUTGOING, send: 'signed' } });
    const id = await post();
    await waitForCompletion(test.database, 'default', id, WAIT_MS);
    expect(await rowsOf(id)).toEqual([]);
    await sign(id);
    await settled(id, ['delivered']);
    expect(statuses(lis)).toEqual(['F']);
  });

  it('says nothing of an amendment before it is signed too', async () => {
    const lis = await listen(['CA']);
    work([sender(lis)]);
    const id = await post();
    await settled(id, ['delivered']);
    await sign(id);
    const reviewed = await reviewCell(test.database, 'default', id, '0-0', 'monocyte', {
      reviewer: 'mlopez',
      comment: null,
      isCurrent: () => true,
      eventsOf: () => [],
      reportsOf: (document) => outgoingReports(document, OUTGOING),
    });
    expect(reviewed).toMatchObject({ kind: 'done', reports: [] });
    await sign(id);
    await settled(id, ['delivered', 'delivered', 'delivered']);
    expect(statuses(lis)).toEqual(['P', 'F', 'C']);
  });

  it.each([
    ['is rejected, as a receiver does that is busy', 'AR', 'AR'],
    ['is rejected at commit level', 'CR', 'CR'],
    ['is not answered', () => undefined, null],
    ['is cut off', (socket: Socket) => socket.destroy(), null],
    ['meets a receiver that closes its side', (socket: Socket) => socket.end(), null],
    ['is answered with something else', (socket: Socket) => socket.write('\u000bhello\u001c\r'), null],
    [
      'is answered for another message',
      (socket: Socket, message: Hl7Message) =>
        socket.write(
          `\u000b${message
            .buildAck()
            .toString()
            .replace(/MSA\|AA\|\w+/, 'MSA|AA|OTHER')}\u001c\r`,
        ),
      null,
    ],
  ] satisfies [string, Answer, string | null][])('goes out again, the same, when it %s', async (_, answer, code) => {
    const lis = await listen([answer, answer, 'AA']);
    work([sender(lis)]);
    const id = await post();
    await settled(id, ['delivered']);
    expect(lis.received).toHaveLength(3);
    expect(new Set(lis.received.map((one) => one.toString())).size).toBe(1);
    expect(new Set(controlIds(lis)).size).toBe(1);
    // What is lost with its connection leaves the connection behind.
    expect(lis.connections()).toBe(code === null ? 3 : 1);
  });

  it.each([
    [
      'in pieces',
      async (socket: Socket, message: Hl7Message) => {
        for (const byte of Buffer.from(`\u000b${message.buildAck().toString()}\u001c\r`)) {
          socket.write(Buffer.from([byte]));
          if (byte === 0x1c) await sleep(30);
        }
      },
    ],
    [
      'as two in one',
      (socket: Socket, message: Hl7Message) => {
        const block = (code: 'CA' | 'AA') => `\u000b${message.buildAck({ ackCode: code }).toString()}\u001c\r`;
        socket.write(block('CA') + block('AA'));
      },
    ],
    [
      'behind a late one for an earlier message',
      (socket: Socket, message: Hl7Message) => {
        const ack = message.buildAck().toString();
        socket.write(`\u000b${ack.replace(/MSA\|AA\|\w+/, 'MSA|AE|OLD')}\u001c\r`);
        socket.write(`\u000b${ack}\u001c\r`);
      },
    ],
  ] satisfies [string, Answer][])('understands an answer %s', async (_, answer) => {
    const lis = await listen([answer]);
    work([sender(lis)]);
    const id = await post();
    await settled(id, ['delivered']);
    expect(lis.received).toHaveLength(1);
  });

  it('gives a message up that the receiver calls wrong three times, and goes on behind it', async () => {
    const lis = await listen(['AE', 'CE', 'AE', 'AA']);
    work([sender(lis)]);
    const id = await post({ accessionNumber: 'X' });
    await settled(id, ['failed']);
    expect(await rowsOf(id)).toMatchObject([{ attempts: 3, refusals: 3, lastAnswer: 'AE', nextAttemptAt: null }]);
    await sign(id);
    await settled(id, ['failed', 'delivered']);
    expect(statuses(lis)).toEqual(['P', 'P', 'P', 'F']);
    expect(await metrics.registry.metrics()).toContain('leukodiff_reports_total{channel="hl7",outcome="failed"} 1');
  });

  it('waits for a receiver that is not there yet, and then keeps the order of each accession', async () => {
    const port = await freePort();
    work([hl7Sender({ host: '127.0.0.1', port, tls: false }, ACK_TIMEOUT_MS)]);
    const first = await post({ accessionNumber: 'SAME' });
    await waitForCompletion(test.database, 'default', first, WAIT_MS);
    await sign(first);
    const second = await post({ accessionNumber: 'SAME' });
    await waitForCompletion(test.database, 'default', second, WAIT_MS);
    await until(async () => ((await rowsOf(first))[0]?.attempts ?? 0) >= 2, 'attempts');
    expect(await statusOf(first)).toEqual(['pending', 'pending']);
    expect((await rowsOf(first))[0]?.lastError).toBe('ECONNREFUSED');
    // Nothing overtakes: behind the first of an order nobody was tried.
    expect([...(await rowsOf(first)).slice(1), ...(await rowsOf(second))].map((row) => row.attempts)).toEqual([0, 0]);

    const seen: string[] = [];
    const late = createServer((socket) => {
      const connection = new Hl7Connection(socket);
      socket.on('error', () => undefined);
      connection.addEventListener('message', ({ message }: Hl7MessageEvent) => {
        seen.push(`${message.getSegment('OBR')?.getField(3)} ${message.getSegment('OBR')?.getField(25)}`);
        connection.send(message.buildAck());
      });
    });
    await listening(late, port);
    closers.push(() => late.close());
    await settled(second, ['delivered']);
    expect(seen).toEqual([`${first} P`, `${first} F`, `${second} P`]);
  });

  it('lets no accession wait for another', async () => {
    const rejected = (message: Hl7Message) => message.getSegment('OBR')?.getField(18).toString() === 'SLOW';
    let rejections = 0;
    const lis = await listen([
      (socket, message) => {
        const code = rejected(message) && rejections++ < 3 ? 'AR' : 'AA';
        socket.write(`\u000b${message.buildAck({ ackCode: code }).toString()}\u001c\r`);
      },
    ]);
    work([sender(lis)]);
    const slow = await post({ accessionNumber: 'SLOW' });
    await until(() => rejections > 0, 'the first rejection');
    const quick = await post({ accessionNumber: 'QUICK' });
    await settled(quick, ['delivered']);
    await settled(slow, ['delivered']);
    expect(orders(lis).indexOf(quick)).toBeLessThan(orders(lis).lastIndexOf(slow));
  });

  it('slows no analysis and no webhook while the receiver is deaf', async () => {
    const lis = await listen([() => undefined]);
    const hook = await httpServer(() => [204]);
    work([hl7Sender(lis.destination, 60_000)]);
    const first = await post();
    await until(() => lis.received.length === 1, 'the message that nobody answers');
    const started = Date.now();
    const ids = await Promise.all(Array.from({ length: 5 }, () => post({ callbackUrl: hook.url })));
    for (const id of ids) await waitForCompletion(test.database, 'default', id, WAIT_MS);
    await until(() => hook.requests.length === 5, 'the webhooks');
    expect(Date.now() - started).toBeLessThan(20_000);
    expect(await statusOf(first)).toEqual(['pending']);
  });

  it('has one message in flight, also with several workers', async () => {
    const lis = await listen(['AA'], { delayMs: 30 });
    const processes = await Promise.all(Array.from({ length: 3 }, () => openTestQueues(test.database, log, place)));
    for (const own of processes) work([sender(lis)], { queues: own });
    const ids = await Promise.all(Array.from({ length: 12 }, () => post()));
    for (const id of ids) await settled(id, ['delivered']);
    for (const worker of workers.splice(0)) await worker.close(5_000);
    for (const own of processes) await own.close();
    expect(lis.mostAtOnce()).toBe(1);
    expect(lis.received).toHaveLength(12);
  });

  it('comes back when its job is gone', async () => {
    const id = await post();
    work([], {});
    await waitForCompletion(test.database, 'default', id, WAIT_MS);
    for (const worker of workers.splice(0)) await worker.close(5_000);
    await test.database.pool.query(
      `UPDATE report_deliveries SET next_attempt_at = now() - interval '2 minutes' WHERE analysis_id = $1`,
      [id],
    );
    const deps = { db: test.database, queues, metrics, log, publicUrl: undefined };
    const config = { ...KEEP_ALL, maxAnalysisAgeMinutes: 60 };
    // Nobody sends on that channel: nothing is to be done.
    expect(await sweep({ ...deps, config })).toMatchObject({ reports: 0 });
    expect(await sweep({ ...deps, config, channels: ['hl7'] })).toMatchObject({ reports: 1 });
    const lis = await listen(['AA']);
    work([sender(lis)]);
    await settled(id, ['delivered']);
  });

  it('is hastened when a wrong clock put it off', async () => {
    const lis = await listen(['AE', 'AA']);
    work([sender(lis)], { reportWaits: { stepsMs: [3_600_000], pauseMs: [50] } });
    const id = await post();
    await until(async () => (await rowsOf(id))[0]?.lastAnswer === 'AE', 'the attempt that fails');
    await until(async () => ((await queues.counts())['leukodiff-hl7']['delayed'] ?? 0) > 0, 'the job that waits');
    await test.database.pool.query(
      `UPDATE report_deliveries SET next_attempt_at = now() - interval '2 minutes' WHERE analysis_id = $1`,
      [id],
    );
    const deps = { db: test.database, queues, metrics, log, publicUrl: undefined };
    const config = { ...KEEP_ALL, maxAnalysisAgeMinutes: 60 };
    expect(await sweep({ ...deps, config, channels: ['hl7'] })).toMatchObject({ reports: 1 });
    await settled(id, ['delivered']);
    expect(lis.received).toHaveLength(2);
  });

  it('is encrypted where the site asks for it, and only to the receiver that it trusts', async () => {
    const lis = await listen(['AA'], { tls: true });
    const ca = readFileSync(tlsFile('cert.pem'), 'utf8');
    work([hl7Sender({ ...lis.destination, ca: readFileSync(tlsFile('other-cert.pem'), 'utf8') }, ACK_TIMEOUT_MS)]);
    const id = await post();
    await until(async () => ((await rowsOf(id))[0]?.attempts ?? 0) >= 2, 'attempts');
    expect(await rowsOf(id)).toMatchObject([{ status: 'pending', lastError: 'DEPTH_ZERO_SELF_SIGNED_CERT' }]);
    expect(lis.received).toEqual([]);
    for (const worker of workers.splice(0)) await worker.close(5_000);
    work([hl7Sender({ ...lis.destination, ca }, ACK_TIMEOUT_MS)]);
    await settled(id, ['delivered']);
    const named = hl7Sender({ ...lis.destination, host: 'localhost', ca }, ACK_TIMEOUT_MS);
    closers.push(() => named.close());
    const [row] = await rowsOf(id);
    const report = { id, body: row?.body ?? '', orderKey: id, attempts: 1, refusals: 0, ageMs: 0 };
    expect(await named.send(report)).toEqual({ outcome: 'accepted', answer: 'AA' });
  });
});

describe(`FHIR transactions, queue on ${QUEUE_BACKEND}`, () => {
  const outgoing = { ...OUTGOING, hl7: false, fhir: true, publicUrl: 'https://lab.example' };

  it('arrive as valid transactions, with the token', async () => {
    const server = await httpServer(() => [200]);
    work([fhirSender({ url: `${server.url}fhir`, token: 'tok-1' }, 5_000)], { outgoing });
    const id = await post({ accessionNumber: 'F-1' });
    await settled(id, ['delivered']);
    const [{ url, headers, body }] = server.requests as [Received];
    expect(url).toBe('/fhir');
    expect(headers).toMatchObject({
      authorization: 'Bearer tok-1',
      'content-type': 'application/fhir+json; charset=utf-8',
    });
    const bundle = JSON.parse(body);
    expect(bundle.type).toBe('transaction');
    expect(fhirFaults(bundle)).toEqual([]);
    expect(lines.join('')).not.toMatch(/tok-1|F-1/);
  });

  it('are sent again while the server cannot, and given up where it will not', async () => {
    const server = await httpServer((n) => (n === 0 ? [503, { 'retry-after': '1' }] : n === 1 ? [409] : [201]));
    work([fhirSender({ url: server.url, token: undefined }, 5_000)], { outgoing });
    const id = await post();
    await settled(id, ['delivered']);
    expect(server.requests).toHaveLength(3);
    const [first, second] = server.requests;
    expect((second?.atMs ?? 0) - (first?.atMs ?? 0)).toBeGreaterThanOrEqual(950);
    for (const worker of workers.splice(0)) await worker.close(5_000);

    const strict = await httpServer(() => [422]);
    work([fhirSender({ url: strict.url, token: undefined }, 5_000)], { outgoing });
    const refused = await post();
    await settled(refused, ['failed']);
    expect(await rowsOf(refused)).toMatchObject([{ attempts: 3, lastAnswer: '422' }]);
  });

  it('do not follow a redirect, and do not wait for ever', async () => {
    const elsewhere = await httpServer(() => [200]);
    const server = await httpServer((n) => (n === 0 ? [307, { location: elsewhere.url }] : n === 1 ? null : [200]));
    work([fhirSender({ url: server.url, token: 'tok' }, 300)], { outgoing });
    const id = await post();
    await settled(id, ['delivered']);
    expect(server.requests).toHaveLength(3);
    expect(elsewhere.requests).toEqual([]);
  });
});

interface Received {
  readonly url: string | undefined;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
  readonly atMs: number;
}

/** Answers the nth request with a status and headers; null: not at all. */
async function httpServer(
  answer: (n: number) => [status: number, headers?: Record<string, string>] | null,
): Promise<{ url: string; requests: Received[] }> {
  const requests: Received[] = [];
  const server = createHttpServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const given = answer(requests.length);
      const body = Buffer.concat(chunks).toString();
      requests.push({ url: request.url, headers: request.headers, body, atMs: Date.now() });
      if (given !== null) response.writeHead(given[0], given[1]).end();
    });
  });
  const port = await listening(server);
  closers.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${port}/`, requests };
}

async function freePort(): Promise<number> {
  const probe = createServer();
  const port = await listening(probe);
  await new Promise((resolve) => probe.close(resolve));
  return port;
}
