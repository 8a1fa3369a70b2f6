/** The whole service as a newcomer meets it: started, fed with smears, read, restarted, killed. */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import sharp from 'sharp';
import { Webhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { AnalysisDocument, CellDocument } from '../../src/storage/documents.js';
import { startEmbeddedPostgres } from '../../src/storage/embedded-postgres.js';
import {
  cleanUp,
  logEntry,
  preparedDataDir,
  run,
  type Service,
  serve,
  stopAll,
  temporaryFolder,
} from '../support/program.js';
import { drawSmear } from '../support/smear.js';

type Linked = Record<string, string>;
type Analysis = AnalysisDocument & { readonly links: Linked; readonly images: readonly { readonly links: Linked }[] };
interface CellPage {
  readonly items: readonly (CellDocument & { readonly links: Linked })[];
}

let smear: Buffer;
beforeAll(async () => {
  smear = await png(7, 640, 480);
});
afterEach(stopAll);
afterAll(cleanUp);

async function png(seed: number, width: number, height: number): Promise<Buffer> {
  const drawn = drawSmear({ seed, width, height, micronsPerPixel: 0.2, cells: { neutrophil: 3, lymphocyte: 2 } });
  return sharp(Buffer.from(drawn.data.buffer), { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

function smearFile(name = 'smear.png', bytes = smear): string {
  const file = join(temporaryFolder(), name);
  writeFileSync(file, bytes);
  return file;
}

async function post(
  { address, headers: key }: Service,
  images: readonly Buffer[],
  fields: Record<string, string> = {},
  headers: Record<string, string> = {},
): Promise<Response> {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (const [n, image] of images.entries()) form.append('images', new Blob([new Uint8Array(image)]), `field-${n}.png`);
  return fetch(`${address}/analyze`, { method: 'POST', body: form, headers: { ...key, ...headers } });
}

async function read<T>({ address, headers }: Service, path: string): Promise<T> {
  const response = await fetch(new URL(path, address), { headers });
  expect(response.status, path).toBe(200);
  return (await response.json()) as T;
}

/** The metrics, once they say `line`: what has ended is counted after it is committed, so its reader may be a moment ahead. */
async function metricsWith(url: URL, line: string, headers: Record<string, string> = {}): Promise<string> {
  const scrape = async (): Promise<string> => (await fetch(url, { headers })).text();
  await expect.poll(scrape, { timeout: 10_000 }).toContain(line);
  return scrape();
}

async function ended(service: Service, id: string, patienceMs = 120_000): Promise<Analysis> {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    const analysis = await read<Analysis>(service, `/analyses/${id}`);
    if (analysis.status === 'completed' || analysis.status === 'failed') return analysis;
    if (Date.now() > deadline) throw new Error(`still ${analysis.status}: ${service.output().slice(-3000)}`);
    await sleep(100);
  }
}

/** Every URL of an object's `links`, at any depth. */
function linksOf(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(linksOf);
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) =>
    key === 'links' ? Object.values(inner as Linked).filter((link) => typeof link === 'string') : linksOf(inner),
  );
}

describe('the service', () => {
  it('takes a smear, answers with the differential, and keeps it over a restart', async () => {
    const DATA_DIR = join(temporaryFolder(), 'data');
    const first = await serve({ DATA_DIR });
    const response = await post(
      first,
      [smear],
      { accessionNumber: 'E2E-1', micronsPerPixel: '0.2' },
      { prefer: 'wait=60' },
    );
    expect(response.status).toBe(200);
    const analysis = (await response.json()) as Analysis;
    expect(analysis).toMatchObject({
      status: 'completed',
      accessionNumber: 'E2E-1',
      images: [{ width: 640, height: 480 }],
    });
    // What the drawn cells are called is the model's affair and tested elsewhere; here they must be found.
    expect(analysis.images[0]?.cellCount).toBeGreaterThanOrEqual(4);
    expect(analysis.differential?.classes.length).toBeGreaterThan(0);

    const page = await read<CellPage>(first, analysis.links['cells'] ?? '');
    expect(page.items.length).toBe(analysis.images[0]?.cellCount);
    const links = [...new Set([...linksOf(analysis), ...linksOf(page)])];
    expect(links.length).toBeGreaterThanOrEqual(8);
    const before = new Map<string, Buffer>();
    for (const link of links) {
      const answer = await fetch(new URL(link, first.address), { headers: first.headers });
      expect(answer.status, link).toBe(200);
      before.set(
        new URL(link, first.address).pathname + new URL(link, first.address).search,
        Buffer.from(await answer.arrayBuffer()),
      );
    }
    const mask = await sharp([...before].find(([link]) => /images\/0\/mask/.test(link))?.[1])
      .raw()
      .toBuffer({ resolveWithObject: true });
    expect([mask.info.width, mask.info.height]).toEqual([640, 480]);
    expect([...new Set(mask.data)].sort((a, b) => a - b)).toEqual([0, 128, 255]);
    for (const path of ['/health/live', '/health/ready'])
      expect((await fetch(new URL(path, first.address))).status).toBe(200);
    const metrics = await metricsWith(
      new URL('/metrics', first.address),
      'leukodiff_analyses_total{outcome="completed"} 1',
    );
    // Accession numbers stay out of logs and metrics.
    expect(metrics + first.output()).not.toContain('E2E-1');
    expect(await first.stop('SIGTERM')).toMatchObject({ code: 0 });

    const second = await serve({ DATA_DIR });
    for (const [link, bytes] of before) {
      const response = await fetch(new URL(link, second.address), { headers: second.headers });
      const again = Buffer.from(await response.arrayBuffer());
      expect(again.equals(bytes), link).toBe(true);
    }
    const list = await read<{ items: readonly { id: string }[] }>(second, '/analyses?accessionNumber=E2E-1');
    expect(list.items.map((item) => item.id)).toEqual([analysis.id]);
    expect(await second.stop('SIGINT')).toMatchObject({ code: 0 });
  });

  it('finishes after kill -9 in the middle of an analysis, and counts every cell once', async () => {
    const DATA_DIR = await preparedDataDir();
    const env = { DATA_DIR, WORKER_CONCURRENCY: '1' };
    const images = await Promise.all(Array.from({ length: 4 }, (_, n) => png(20 + n, 560, 420)));
    const first = await serve(env);
    const accepted = await post(first, images, { micronsPerPixel: '0.2' });
    expect(accepted.status).toBe(202);
    const { id } = (await accepted.json()) as { id: string };
    for (;;) {
      const { status, images: state } = await read<Analysis>(first, `/analyses/${id}`);
      expect(status).not.toBe('completed');
      if (state.some((image) => image.status === 'completed')) break;
      await sleep(10);
    }
    expect(await first.stop('SIGKILL')).toMatchObject({ signal: 'SIGKILL' });

    const second = await serve(env);
    const analysis = await ended(second, id, 300_000);
    expect(analysis.status).toBe('completed');
    expect(analysis.images.map((image) => image.status)).toEqual(Array.from({ length: 4 }, () => 'completed'));
    const found = analysis.images.reduce((sum, image) => sum + (image.cellCount ?? 0), 0);
    const { differential } = analysis;
    const counted =
      (differential?.totalWbc ?? 0) +
      (differential?.notCounted ?? 0) +
      (differential?.others.reduce((sum, { count }) => sum + count, 0) ?? 0);
    expect(counted).toBe(found);
    await second.stop();
  }, 400_000);

  it('tells the callback address, signed with the secret in the data folder', async () => {
    const received: { headers: IncomingHttpHeaders; body: string }[] = [];
    const receiver = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      request.on('end', () => {
        received.push({ headers: request.headers, body });
        response.writeHead(204).end();
      });
    });
    await new Promise<void>((settle) => receiver.listen(0, '127.0.0.1', settle));
    const callbackUrl = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/results`;
    const DATA_DIR = await preparedDataDir();
    const service = await serve({ DATA_DIR, WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8' });
    const response = await post(service, [smear], { callbackUrl, specimenId: 'S-9' }, { prefer: 'wait=60' });
    const { id } = (await response.json()) as Analysis;
    const deadline = Date.now() + 30_000;
    while (received.length === 0 && Date.now() < deadline) await sleep(50);
    receiver.close();
    receiver.closeAllConnections();
    const secret = readFileSync(join(DATA_DIR, 'webhook-secret'), 'utf8').trim();
    const event = new Webhook(secret).verify(received[0]?.body ?? '', received[0]?.headers as Record<string, string>);
    expect(event).toMatchObject({ type: 'analysis.completed', data: { id, specimenId: 'S-9' } });
    expect(service.output()).not.toContain(secret);
    await service.stop();
  });

  it('goes on after images that cannot be read', async () => {
    const service = await serve({ DATA_DIR: await preparedDataDir() });
    const truncated = smear.subarray(0, smear.length >> 1);
    const response = await post(service, [smear, truncated], {}, { prefer: 'wait=60' });
    if (response.status === 200) {
      const analysis = (await response.json()) as Analysis;
      expect(analysis.status).toBe('completed');
      expect(analysis.images[1]?.problem?.code).toMatch(/^image-/);
    } else {
      expect(response.status).toBe(422);
    }
    expect((await post(service, [smear], {}, { prefer: 'wait=60' })).status).toBe(200);
    await service.stop();
  });
});

describe('keys', () => {
  it('are asked for from the first start on; the first one is told once, and not in the log', async () => {
    const DATA_DIR = await preparedDataDir();
    const first = await serve({ DATA_DIR });
    const file = join(DATA_DIR, 'first-key');
    const token = readFileSync(file, 'utf8').trim();
    expect(token).toMatch(/^lk_[a-z0-9]{12}_[A-Za-z0-9_-]{43}$/);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect((await fetch(new URL('/analyses', first.address))).status).toBe(401);
    expect((await fetch(new URL('/analyses', first.address), { headers: first.headers })).status).toBe(200);
    const { stdout, stderr } = await first.stop();
    expect(stderr.split(token)).toHaveLength(2);
    expect(stdout).not.toContain(token);

    const second = await serve({ DATA_DIR, NODE_ENV: 'production' });
    expect((await fetch(new URL('/analyses', second.address), { headers: second.headers })).status).toBe(200);
    const again = await second.stop();
    expect(again.stdout + again.stderr).not.toContain('lk_');
  });

  it('are made, listed, rotated and revoked on the command line', async () => {
    const DATA_DIR = await preparedDataDir();
    const keys = async (...args: string[]) => run(['keys', ...args], { DATA_DIR }).ended;
    const created = await keys('create', '--name', 'LIS', '--scopes', 'submit,read', '--laboratory', 'north');
    expect(created).toMatchObject({ code: 0, stdout: expect.stringMatching(/^lk_[a-z0-9]{12}_[A-Za-z0-9_-]{43}\n$/) });
    const id = created.stdout.slice(3, 15);
    const listed = await keys('list');
    expect(listed.stdout).toMatch(new RegExp(`^${id} +north +submit,read +valid +never used +LIS$`, 'm'));
    const rotated = await keys('rotate', id, '--overlap-hours', '0', '--json');
    const { key, token } = JSON.parse(rotated.stdout) as { key: { id: string; laboratory: string }; token: string };
    expect(key.laboratory).toBe('north');
    expect(await keys('revoke', key.id)).toMatchObject({ code: 0, stdout: expect.stringContaining('revoked') });
    const after = await keys('list', '--json');
    expect(after.stdout).not.toContain(token);
    expect(JSON.parse(after.stdout)).toMatchObject([{ id }, { id: key.id, revokedAt: expect.any(String) }]);
    const cases: [string[], RegExp][] = [
      [['create', '--name', 'x', '--scopes', 'root'], /--scopes must be some of submit, read, review, admin/],
      [['create', '--name', 'x', '--scopes', 'read', '--laboratory', 'A B'], /--laboratory must be a slug/],
      [['revoke', 'nothing'], /There is no key nothing/],
      [['rotate', id], /is not valid any more/],
    ];
    for (const [args, message] of cases) {
      const { code, stderr } = await keys(...args);
      expect([args.join(' '), code]).toEqual([args.join(' '), 1]);
      expect(stderr).toMatch(message);
    }
    // There is a key, so the service makes none; it is revoked, so nobody gets in.
    const service = await serve({ DATA_DIR });
    expect(existsSync(join(DATA_DIR, 'first-key'))).toBe(false);
    await service.stop();
  });

  it('are not asked for with ACCESS=open, which says so and stays on this machine', async () => {
    const DATA_DIR = await preparedDataDir();
    const refused = await run(['serve'], { DATA_DIR, ACCESS: 'open', HOST: '0.0.0.0', PORT: '0' }).ended;
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/ACCESS=open .*127\.0\.0\.1 alone/) });
    const service = await serve({ DATA_DIR, ACCESS: 'open' });
    expect((await fetch(new URL('/analyses', service.address))).status).toBe(200);
    expect(service.output()).toContain('ACCESS=open: nobody is asked for a key');
    expect(existsSync(join(DATA_DIR, 'first-key'))).toBe(false);
    await service.stop();
  });
});

describe('the command line', () => {
  it('says its version and lists commands and variables', async () => {
    const version = await run(['--version']).ended;
    expect(version).toMatchObject({ code: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) });
    const help = await run(['--help']).ended;
    expect(help.code).toBe(0);
    for (const word of ['serve', 'work', 'migrate', 'keys', 'analyze', 'DATABASE_URL', 'MAX_IMAGES'])
      expect(help.stdout).toContain(word);
  });

  it('says in one line what is wrong, and fails', async () => {
    const taken = createServer();
    await new Promise<void>((settle) => taken.listen(0, '127.0.0.1', settle));
    const { port } = taken.address() as AddressInfo;
    const DATA_DIR = await preparedDataDir();
    const cases: [readonly string[], Record<string, string>, RegExp][] = [
      [['serve'], { PORT: 'x' }, /^leukodiff: The configuration cannot be used: PORT must be /],
      [
        ['serve'],
        { DATA_DIR, PORT: String(port) },
        new RegExp(`leukodiff: Port ${port} on 127\\.0\\.0\\.1 is in use\\.`),
      ],
      [['serve'], { DATA_DIR, MODEL_DIR: '/nonexistent' }, /leukodiff: No model in \/nonexistent/],
      [
        ['migrate'],
        { DATABASE_URL: 'postgresql://u:geheim@127.0.0.1:1/x' },
        /leukodiff: The database at postgresql:\/\/127\.0\.0\.1:1\/x cannot/,
      ],
      [
        ['migrate'],
        { DATABASE_URL: 'postgresql://u:geheim@nowhere.invalid/x' },
        /leukodiff: The database at .*nowhere\.invalid.* cannot/,
      ],
      [
        ['serve'],
        { DATA_DIR, REDIS_URL: 'redis://:geheim@127.0.0.1:1' },
        /leukodiff: Redis at 127\.0\.0\.1:1 cannot be used/,
      ],
      [['analyze', smearFile(), '--microns-per-pixel', '9'], {}, /leukodiff: --microns-per-pixel must be/],
      [['conquer'], {}, /unknown command|too many arguments/],
      [['analyze'], {}, /missing required argument/],
    ];
    for (const [args, env, message] of cases) {
      const { code, stdout, stderr } = await run(args, env).ended;
      expect(code, args.join(' ')).toBe(1);
      expect(stderr, args.join(' ')).toMatch(message);
      expect(stdout + stderr).not.toMatch(/^\s+at .*:\d+:\d+\)?$/m);
      expect(stdout + stderr).not.toContain('geheim');
    }
    taken.close();
  });

  it('lets neither a second service nor a worker onto the same data folder', async () => {
    const DATA_DIR = await preparedDataDir();
    const service = await serve({ DATA_DIR });
    const second = await run(['serve'], { DATA_DIR, PORT: '0' }).ended;
    expect(second).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(`in use by another Leukodiff (process ${service.child.pid})`),
    });
    const worker = await run(['work'], { DATA_DIR }).ended;
    expect(worker.code).toBe(1);
    expect(worker.stderr).toMatch(
      /^leukodiff: A worker of its own needs a database that it can share .* DATABASE_URL is not set/,
    );
    expect((await fetch(new URL('/health/ready', service.address))).status).toBe(200);
    await service.stop();
  });

  it('analyses files without a server, and fails when one of them could not be', async () => {
    const out = join(temporaryFolder(), 'out');
    const file = smearFile();
    const args = ['analyze', file, '--microns-per-pixel', '0.2'];
    const good = await run([...args, '--out', out]).ended;
    expect(good).toMatchObject({ code: 0, stderr: '' });
    expect(good.stdout).toMatch(/smear\.png +[4-9] +0\.200 /);
    expect(good.stdout).toMatch(/white cells counted +\d/);
    for (const name of ['smear/mask.png', 'smear/overlay.png', 'smear/saliency.png', 'result.json']) {
      expect(existsSync(join(out, name)), name).toBe(true);
    }
    const notAnImage = smearFile('report.jpg', Buffer.from('%PDF-1.7 not a smear'));
    const mixed = await run([...args, notAnImage, '/nonexistent.png', '--json']).ended;
    expect(mixed.code).toBe(1);
    expect(mixed.stderr).toMatch(/report\.jpg: .*PDF/);
    expect(mixed.stderr).toContain('/nonexistent.png: There is no such file.');
    const report = JSON.parse(mixed.stdout) as { images: { status: string; cells: unknown[] }[] };
    expect(report.images.map((image) => image.status)).toEqual(['completed', 'failed', 'failed']);
    expect(report.images[0]?.cells.length).toBeGreaterThanOrEqual(4);
  });

  it('migrates and says so', async () => {
    const DATA_DIR = join(temporaryFolder(), 'data');
    expect(await run(['migrate'], { DATA_DIR }).ended).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^Applied: \d+_init/),
    });
    expect(await run(['migrate'], { DATA_DIR }).ended).toMatchObject({
      code: 0,
      stdout: 'The database is up to date.\n',
    });
  });

  it('works with API and worker in processes of their own on one server', async () => {
    // The embedded database of one folder plays the server for the others.
    const DATA_DIR = await preparedDataDir();
    const server = await startEmbeddedPostgres({ dataDir: DATA_DIR, log: pino({ level: 'silent' }) });
    const METRICS_TOKEN = randomBytes(16).toString('hex');
    const env = { DATABASE_URL: server.url, WEBHOOK_SECRET: `whsec_${randomBytes(32).toString('base64')}` };
    const api = await serve({ ...env, DATA_DIR: temporaryFolder() }, ['serve', '--no-worker']);
    const accepted = await post(api, [smear], {}, { prefer: 'wait=1' });
    expect(accepted.status).toBe(202);
    const { id } = (await accepted.json()) as { id: string };
    const worker = run(['work'], { ...env, DATA_DIR: temporaryFolder(), METRICS_PORT: '0', METRICS_TOKEN });
    const { metricsPort } = await logEntry(worker, 'working');
    expect((await ended(api, id)).status).toBe('completed');
    await metricsWith(
      new URL(`http://127.0.0.1:${metricsPort}/metrics`),
      'leukodiff_images_total{outcome="completed",reason="none"} 1',
      { authorization: `Bearer ${METRICS_TOKEN}` },
    );
    expect((await fetch(`http://127.0.0.1:${metricsPort}/metrics`)).status).toBe(401);
    const ready = await fetch(`http://127.0.0.1:${metricsPort}/health/ready`);
    expect([ready.status, await ready.json()]).toMatchObject([200, { status: 'ready' }]);
    worker.child.kill('SIGTERM');
    expect(await worker.ended).toMatchObject({ code: 0 });
    expect(await api.stop()).toMatchObject({ code: 0 });
    await server.stop();
  });
});
