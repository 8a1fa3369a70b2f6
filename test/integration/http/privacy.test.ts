/**
 * Nothing that identifies in logs, metrics, queue payloads, problem documents, the audit trail or what is noted of deliveries:
 * a full run whose every field is a word that is then looked for everywhere, with receivers that say it back.
 */
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { Redis } from 'ioredis';
import { expect, it } from 'vitest';
import { fhirSender, hl7Sender } from '../../../src/jobs/report-senders.js';
import type { JobWorker } from '../../../src/jobs/worker.js';
import { createMetrics } from '../../../src/observability/metrics.js';
import type { OutgoingOptions } from '../../../src/reporting/outgoing.js';
import { DEFAULT_PROFILE } from '../../../src/reporting/site-profile.js';
import { createApiKey, SCOPES } from '../../../src/storage/api-keys.js';
import { loadSealer } from '../../../src/storage/sealing.js';
import { QUEUE_BACKEND } from '../../support/database.js';
import { cellFinding, imageAnalysis, TEST_MODEL } from '../../support/findings.js';
import { WEBHOOK_CONFIG } from '../../support/webhooks.js';
import { startTestWorker } from '../../support/worker.js';
import { blob, type FormEntry, type Harness, picture, post, startHarness } from './harness.js';

const IDENTIFYING = {
  accessionNumber: 'ACC-quokka-1',
  specimenId: 'SPEC-quokka-2',
  orderId: 'ORD-quokka-3',
  subjectId: 'SUBJ-quokka-4',
  site: 'SITE-quokka-5',
  metadata: '{"patient":"META-quokka-6"}',
  callbackUrl: 'http://127.0.0.1:65535/quokka-7',
  filename: 'FILE-quokka-8.png',
};
const WORD = /quokka/i;
/** Of the image: the first bytes of its pixels. */
const FHIR_TOKEN = 'fhir-token-of-the-site-0815';
const SECRET_WORD = 'whsec_cXVva2thIHF1b2trYSBxdW9ra2EgcXVva2th';

const OUTGOING: OutgoingOptions = {
  profile: DEFAULT_PROFILE,
  publicUrl: undefined,
  hl7: true,
  fhir: true,
  send: 'all',
};

async function listening(server: Server | ReturnType<typeof createHttpServer>): Promise<number> {
  await new Promise<void>((settle) => server.listen(0, '127.0.0.1', settle));
  return (server.address() as AddressInfo).port;
}

/** An HTTP receiver that refuses everything and says back what it was sent. */
const echo = () =>
  createHttpServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    response.writeHead(422, 'quokka refused', { 'content-type': 'text/plain' }).end(Buffer.concat(chunks));
  });

/** An MLLP receiver that finds every message wrong and says whose it is. */
const mllpEcho = () =>
  createServer((socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (chunk) => {
      const id = chunk.toString().split('\r')[0]?.split('|')[9];
      const answer = [
        'MSH|^~\\&|LIS||||20261120||ACK|1|P|2.5.1',
        `MSA|AE|${id}|no patient SUBJ-quokka-4`,
        'ERR|||204|E||||ACC-quokka-1',
      ];
      socket.write(`\u000b${answer.join('\r')}\r\u001c\r`);
    });
  });

async function queuePayloads({ database }: Harness): Promise<string> {
  if (QUEUE_BACKEND === 'redis') {
    const redis = new Redis(process.env['TEST_REDIS_URL'] ?? '');
    const texts: string[] = [];
    for (const key of await redis.keys('test-*')) {
      const type = await redis.type(key);
      if (type === 'hash') texts.push(key, JSON.stringify(await redis.hgetall(key)));
      if (type === 'stream') texts.push(key, JSON.stringify(await redis.xrange(key, '-', '+')));
    }
    redis.disconnect();
    return texts.join('\n');
  }
  const { rows: tables } = await database.pool.query<{ name: string }>(
    `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname = 'bullmq'`,
  );
  const texts = tables.map(async ({ name }) => {
    const { rows } = await database.pool.query<{ row: string }>(`SELECT one::text AS row FROM ${name} AS one`);
    return rows.map(({ row }) => row).join('\n');
  });
  return (await Promise.all(texts)).join('\n');
}

it('holds after a full run, failures and hostile requests included', async () => {
  const harness = await startHarness({ access: 'keys', ...WEBHOOK_CONFIG }, 'shared', OUTGOING);
  const [http, mllp] = [echo(), mllpEcho()];
  const [httpPort, mllpPort] = [await listening(http), await listening(mllp)];
  const metrics = createMetrics({ version: 'test' });
  const lines: string[] = [];
  const log = (await import('pino')).pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) });
  let broken = true;
  const worker: JobWorker = startTestWorker({
    config: { workerConcurrency: 2 },
    db: harness.database,
    queues: harness.queues,
    vision: {
      analyze: async () => {
        broken = !broken;
        if (broken) throw new TypeError('Cannot read properties of undefined');
        return imageAnalysis([cellFinding('neutrophil')]);
      },
      model: TEST_MODEL,
    },
    metrics,
    log,
    webhookSecret: SECRET_WORD,
    sealer: loadSealer(harness.config),
    outgoing: OUTGOING,
    senders: [
      hl7Sender({ host: '127.0.0.1', port: mllpPort, tls: false }, 5_000),
      fhirSender({ url: `http://127.0.0.1:${httpPort}/fhir`, token: FHIR_TOKEN }, 5_000),
    ],
    reportWaits: { stepsMs: [20], pauseMs: [20] },
    retryScheduleMs: [20],
  });
  const person = { laboratory: 'default', name: 'NAME-quokka-9', scopes: SCOPES, createdBy: null };
  const { token } = await createApiKey(harness.database, person);
  const headers = { authorization: `Bearer ${token}`, 'idempotency-key': 'IDEM-quokka-10' };
  const { filename, ...fields } = IDENTIFYING;
  const entries: FormEntry[] = [...Object.entries(fields), ['images', blob(await picture('png')), filename]];
  const problems: string[] = [];
  const ask = async (
    method: 'GET' | 'POST' | 'PATCH' | 'DELETE',
    url: string,
    more: Record<string, string> = {},
    body?: object,
  ) => {
    const json = body === undefined ? {} : { payload: JSON.stringify(body) };
    const type: Record<string, string> = body === undefined ? {} : { 'content-type': 'application/json' };
    const response = await harness.app.inject({ method, url, headers: { ...headers, ...type, ...more }, ...json });
    if (response.statusCode >= 400) problems.push(response.body);
    return response;
  };
  const form = async (form: readonly FormEntry[], more: Record<string, string> = {}) => {
    const response = await post(harness.app, form, { ...headers, ...more });
    if (response.statusCode >= 400) problems.push(response.body);
    return response;
  };

  const endpoint = { url: `http://127.0.0.1:${httpPort}/quokka-13`, description: 'quokka-14' };
  const registered = await ask('POST', '/webhook-endpoints', {}, endpoint);
  expect(registered.statusCode).toBe(201);
  const { id: endpointId, secret } = registered.json<{ id: string; secret: string }>();
  const finished = await form(entries, { prefer: 'wait=30' });
  expect(finished.statusCode).toBe(200);
  const { id } = finished.json<{ id: string }>();
  // Only here, and over the signed webhook, the identifiers come back.
  expect(finished.body).toMatch(WORD);
  await form(entries);
  await form([...entries, ['targetCells', '1']]);
  await form([...entries, ['accession', 'ACC-quokka-11']], { 'idempotency-key': 'b' });
  await form([['accessionNumber', 'ACC-quokka\u000012'], ...entries], { 'idempotency-key': 'c' });
  await form([['collectedAt', 'quokka'], ['wbcCount', 'quokka'], ['priority', 'quokka'], ...entries], {
    'idempotency-key': 'd',
  });
  await form([['images', blob('quokka'), 'x.png']], { 'idempotency-key': 'e' });
  await ask('GET', `/analyses?accessionNumber=${IDENTIFYING.accessionNumber}`);
  await ask('GET', '/analyses?patient=quokka&status=quokka&cursor=quokka');
  await ask('GET', '/analyses/ACC-quokka-1');
  await ask('GET', `/analyses/${id}/cells/quokka/crop.png`);
  await ask('GET', `/analyses/${id}/images/0/overlay.png`);
  await ask('POST', '/webhook-endpoints', {}, { ...endpoint, eventTypes: ['quokka'] });
  await ask('POST', '/webhook-endpoints', {}, { url: 'https://quokka:quokka@quokka.test/quokka' });
  const rotated = (await ask('POST', `/webhook-endpoints/${endpointId}/secret`)).json<{ secret: string }>().secret;
  const made = (await ask('POST', '/keys', {}, { name: 'quokka-17', scopes: ['read'] })).json<{
    key: { id: string };
    token: string;
  }>();
  await ask('DELETE', `/keys/${made.key.id}`);
  await ask('GET', '/analyses', { authorization: `Bearer ${made.token}` });
  const act = { reviewer: 'quokka-15', comment: 'quokka-16' };
  const any = { 'if-match': '*' };
  expect((await ask('PATCH', `/analyses/${id}/cells/0-0`, any, { ...act, class: 'monocyte' })).statusCode).toBe(200);
  await ask('PATCH', `/analyses/${id}/cells/0-0`, any, { ...act, class: 'quokka' });
  await ask('POST', `/analyses/${id}/sign`, { 'if-match': '"quokka"' }, act);
  expect((await ask('POST', `/analyses/${id}/sign`, any, act)).statusCode).toBe(200);
  for (const name of ['changes', 'fhir', 'hl7', 'deliveries']) {
    expect((await ask('GET', `/analyses/${id}/${name}`)).statusCode).toBe(200);
  }
  await ask('GET', '/analyses', { authorization: 'Bearer lk_quokkaquokka_quokka' });
  await ask('GET', '/audit?actorId=quokka&cursor=quokka');
  await ask('DELETE', '/keys/quokkaquokka');
  await form(entries, { 'idempotency-key': '"quokka' });
  const { prisma } = harness.database;
  const pending = async () =>
    (await prisma.delivery.count({ where: { status: 'pending' } })) +
    (await prisma.reportDelivery.count({ where: { status: 'pending' } }));
  await expect.poll(pending, { timeout: 30_000 }).toBe(0);
  expect(await prisma.reportDelivery.count({ where: { lastAnswer: 'AE' } })).toBeGreaterThan(0);
  expect(await prisma.reportDelivery.count({ where: { lastAnswer: '422' } })).toBeGreaterThan(0);
  await harness.app.audit.flush();

  expect(problems.length).toBeGreaterThanOrEqual(9);
  const attempts = await prisma.deliveryAttempt.findMany();
  expect(attempts.map(({ httpStatus }) => httpStatus)).toContain(422);
  const notes = [
    attempts.map(({ error, httpStatus }) => [error, httpStatus]),
    await prisma.delivery.findMany({ select: { lastError: true, lastStatus: true } }),
    await prisma.reportDelivery.findMany({ select: { lastAnswer: true, lastError: true } }),
  ];
  const trail = await harness.database.pool.query<{ row: string }>('SELECT a::text AS row FROM audit_entries a');
  const places: Record<string, string> = {
    'the log': harness.log() + lines.join(''),
    'the metrics': (await harness.app.inject('/metrics')).body + (await metrics.registry.metrics()),
    'queue payloads': await queuePayloads(harness),
    'what is noted of deliveries': JSON.stringify(notes),
    'the audit trail': trail.rows.map(({ row }) => row).join('\n'),
    'problem documents': problems
      .map((text) => {
        // What the caller sent as a path, a name of a field or of a file is told back to that caller alone.
        const { instance: _path, errors, detail, ...rest } = JSON.parse(text) as Record<string, unknown>;
        const causes = (errors ?? []) as { field: string; filename?: string }[];
        return JSON.stringify([rest, detail, causes.map(({ filename: _name, ...cause }) => cause)]);
      })
      .join('\n'),
  };
  expect(places['the log']).toContain(id);
  expect(places['queue payloads']).toContain(id);
  expect(places['the audit trail']).toContain(id);
  for (const [place, text] of Object.entries(places)) {
    const found = text.split('\n').filter((line) => WORD.test(line));
    expect([place, found]).toEqual([place, []]);
    expect(text.includes(token.slice(16)), `${place}: the key`).toBe(false);
    for (const [what, word] of Object.entries({
      'the secret of the service': SECRET_WORD,
      'the secret of an endpoint': secret,
      'its next secret': rotated,
      'a key that was revoked': made.token.slice(16),
      'the token of the FHIR server': FHIR_TOKEN,
    })) {
      expect(word.length, what).toBeGreaterThan(10);
      expect(text.includes(word.replace('whsec_', '')), `${place}: ${what}`).toBe(false);
    }
  }
  await worker.close(5_000);
  http.close();
  mllp.close();
  await harness.close();
});
