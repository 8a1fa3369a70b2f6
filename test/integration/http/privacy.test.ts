/**
 * Nothing that identifies in logs, metrics, queue payloads, problem documents or the audit trail: a full run whose every
 * field is a word that is then looked for everywhere.
 */
import { Redis } from 'ioredis';
import { expect, it } from 'vitest';
import type { JobWorker } from '../../../src/jobs/worker.js';
import { createMetrics } from '../../../src/observability/metrics.js';
import { createApiKey, SCOPES } from '../../../src/storage/api-keys.js';
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
const SECRET_WORD = 'whsec_cXVva2thIHF1b2trYSBxdW9ra2EgcXVva2th';

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
  const harness = await startHarness({ access: 'keys', ...WEBHOOK_CONFIG });
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
    retryScheduleMs: [20],
  });
  const made = { laboratory: 'default', name: 'NAME-quokka-9', scopes: SCOPES, createdBy: null };
  const { token } = await createApiKey(harness.database, made);
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
  const endpoint = { url: 'http://127.0.0.1:65535/quokka-13', description: 'quokka-14' };
  expect((await ask('POST', '/webhook-endpoints', {}, endpoint)).statusCode).toBe(201);
  await ask('POST', '/webhook-endpoints', {}, { ...endpoint, eventTypes: ['quokka'] });
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
  await expect
    .poll(async () => (await harness.database.prisma.delivery.findFirst())?.status, { timeout: 20_000 })
    .toBe('failed');
  await harness.app.audit.flush();

  expect(problems.length).toBeGreaterThanOrEqual(9);
  const trail = await harness.database.pool.query<{ row: string }>('SELECT a::text AS row FROM audit_entries a');
  const places: Record<string, string> = {
    'the log': harness.log() + lines.join(''),
    'the metrics': (await harness.app.inject('/metrics')).body + (await metrics.registry.metrics()),
    'queue payloads': await queuePayloads(harness),
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
    expect(text.includes(SECRET_WORD), `${place}: the webhook secret`).toBe(false);
  }
  await worker.close(5_000);
  await harness.close();
});
