/** What only a real connection shows: slow and broken uploads, clients that leave, early answers, keep-alive. */
import { readdir } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { blob, encodeForm, finish, type Harness, picture, rawForm, startHarness } from './harness.js';

const MULTIPART = 'multipart/form-data; boundary=b0undary';
const PART = 'Content-Disposition: form-data; name="images"; filename="a.png"';

let harness: Harness;
/** Gives an upload one second. */
let impatient: Harness;
let port: number;
let png: Buffer;

beforeAll(async () => {
  harness = await startHarness({ maxRequestBytes: 3_000_000, maxImageBytes: 1_000_000 });
  impatient = await startHarness({ uploadTimeoutSeconds: 1 });
  port = await harness.listen();
  png = await picture('png');
});
afterAll(() => Promise.all([harness.close(), impatient.close()]));

/** A raw connection that collects what comes back. */
class Client {
  received = '';
  readonly socket: Socket;
  readonly closed: Promise<void>;

  constructor(at = port) {
    this.socket = connect(at, '127.0.0.1');
    this.socket.on('data', (chunk: Buffer) => {
      this.received += chunk.toString('latin1');
    });
    this.socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => this.socket.on('close', () => resolve()));
  }

  write(...parts: (string | Buffer)[]): void {
    for (const part of parts) this.socket.write(part);
  }

  async until(text: string, timeoutMs = 20_000): Promise<string> {
    const end = Date.now() + timeoutMs;
    while (!this.received.includes(text)) {
      if (Date.now() > end) throw new Error(`"${text}" did not come; received: ${this.received.slice(0, 500)}`);
      await sleep(10);
    }
    return this.received;
  }
}

function head(length: number | 'chunked', extra = ''): string {
  const framing = length === 'chunked' ? 'Transfer-Encoding: chunked' : `Content-Length: ${length}`;
  return `POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Type: ${MULTIPART}\r\n${framing}\r\n${extra}\r\n`;
}

async function eventually(check: () => Promise<void>): Promise<void> {
  const end = Date.now() + 20_000;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > end) throw error;
      await sleep(20);
    }
  }
}

/** The service must be as it was: nothing stored, no file left, still answering. */
async function expectUntouched(storedBefore: number, service = harness): Promise<void> {
  await eventually(async () => expect(await service.spooled()).toEqual([]));
  expect(await service.analysesStored()).toBe(storedBefore);
  expect((await fetch(`http://127.0.0.1:${await service.listen()}/health/live`)).status).toBe(200);
}

describe('uploads', () => {
  it('stores an upload that comes in small pieces', async () => {
    const client = new Client();
    const form = rawForm([{ headers: PART, body: png }]);
    client.write(head(form.length));
    for (let i = 0; i < form.length; i += 7) client.write(form.subarray(i, i + 7));
    expect(await client.until('"links"')).toMatch(/^HTTP\/1\.1 202 /);
    client.socket.destroy();
  });

  it('refuses an upload that is too slow with 408 and closes the connection', async () => {
    const client = new Client(await impatient.listen());
    client.write(head(1_000_000), `--b0undary\r\n${PART}\r\n\r\n`);
    const drip = setInterval(() => client.write(Buffer.alloc(10)), 50);
    const received = await client.until('upload-timeout');
    expect(received).toMatch(/^HTTP\/1\.1 408 /);
    expect(received.toLowerCase()).toContain('connection: close');
    await client.closed;
    clearInterval(drip);
    await expectUntouched(0, impatient);
  });

  it('refuses an upload that never begins', async () => {
    const client = new Client(await impatient.listen());
    client.write(head(1000));
    expect(await client.until('upload-timeout')).toMatch(/^HTTP\/1\.1 408 /);
    await client.closed;
    await expectUntouched(0, impatient);
  });

  it.each([
    ['in the middle of a file', () => [head(1_000_000), `--b0undary\r\n${PART}\r\n\r\n`, Buffer.alloc(100_000)]],
    [
      'in the middle of a field',
      () => [head(1000), '--b0undary\r\nContent-Disposition: form-data; name="site"\r\n\r\nBas'],
    ],
    [
      'after the first of two files',
      () => [
        head(1_000_000),
        rawForm([{ headers: PART, body: png }]).subarray(0, -16),
        `\r\n--b0undary\r\n${PART}\r\n\r\nxx`,
      ],
    ],
    ['before anything', () => [head(1000)]],
    ['in a chunked body', () => [head('chunked'), `64\r\n--b0undary\r\n${PART}\r\n\r\n`]],
  ])('forgets a client that leaves %s', async (_name, parts) => {
    const before = await harness.analysesStored();
    const client = new Client();
    client.write(...parts());
    await sleep(150);
    client.socket.resetAndDestroy();
    await expectUntouched(before);
    expect(harness.log()).not.toContain('request failed unexpectedly');
  });

  it('refuses what is announced as too large before it comes, and the client can read why', async () => {
    const before = await harness.analysesStored();
    const client = new Client();
    client.write(head(3_000_001), `--b0undary\r\n${PART}\r\n\r\n`);
    expect(await client.until('request-too-large')).toMatch(/^HTTP\/1\.1 413 /);
    // Whoever goes on sending is heard out, so that the answer is not lost in a reset.
    client.write(Buffer.alloc(500_000));
    await sleep(100);
    expect(client.socket.destroyed).toBe(false);
    client.socket.destroy();
    await expectUntouched(before);
  });

  it('stops a chunked body at the limit', async () => {
    const before = await harness.analysesStored();
    const client = new Client();
    client.write(head('chunked'));
    const file = Buffer.alloc(900_000, 1);
    for (let i = 0; i < 5; i += 1) {
      const body = Buffer.concat([Buffer.from(`--b0undary\r\n${PART}\r\n\r\n`), file, Buffer.from('\r\n')]);
      client.write(`${body.length.toString(16)}\r\n`, body, '\r\n');
    }
    expect(await client.until('request-too-large')).toMatch(/^HTTP\/1\.1 413 /);
    client.socket.destroy();
    await expectUntouched(before);
  });

  it('keeps the connection usable after a refusal', async () => {
    const client = new Client();
    const bad = rawForm([{ headers: PART, body: 'not an image' }]);
    const good = rawForm([{ headers: PART, body: png }]);
    client.write(head(bad.length), bad);
    await client.until('unsupported-image-format');
    client.write(head(good.length), good);
    await client.until('HTTP/1.1 202 ');
    expect(client.received).toMatch(/^HTTP\/1\.1 415 /);
    client.socket.destroy();
  });

  it('takes several uploads at once', async () => {
    const { contentType, body } = await encodeForm(
      Array.from({ length: 5 }, (_, i) => ['images', blob(png), `${i}.png`] as const),
    );
    const answers = await Promise.all(
      Array.from({ length: 12 }, () =>
        fetch(`http://127.0.0.1:${port}/analyze`, {
          method: 'POST',
          headers: { 'content-type': contentType },
          body: new Uint8Array(body),
        }).then(async (response) => ({ status: response.status, id: ((await response.json()) as { id: string }).id })),
      ),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 12 }, () => 202));
    expect(new Set(answers.map(({ id }) => id)).size).toBe(12);
    expect(await harness.spooled()).toEqual([]);
  });
});

describe('waiting', () => {
  it('keeps what a client that leaves while waiting has posted', async () => {
    const before = await harness.analysesStored();
    const form = rawForm([{ headers: PART, body: png }]);
    const client = new Client();
    client.write(head(form.length, 'Prefer: wait=30\r\n'), form);
    await eventually(async () => expect(await harness.analysesStored()).toBe(before + 1));
    client.socket.destroy();
    await eventually(async () => expect(harness.log()).toContain('client left'));
    expect(await harness.analysesStored()).toBe(before + 1);
  });

  it('answers the client that waits, on a connection that is kept alive', async () => {
    const form = rawForm([{ headers: PART, body: png }]);
    const client = new Client();
    const known = new Set(
      (await harness.database.prisma.analysis.findMany({ select: { id: true } })).map(({ id }) => id),
    );
    client.write(head(form.length, 'Prefer: wait=20\r\n'), form);
    let id = '';
    await eventually(async () => {
      const rows = await harness.database.prisma.analysis.findMany({ select: { id: true } });
      id = rows.find((row) => !known.has(row.id))?.id ?? '';
      expect(id).not.toBe('');
    });
    await finish(harness, id, { images: 1 });
    expect(await client.until('"completed"')).toMatch(/^HTTP\/1\.1 200 /);
    client.received = '';
    client.write('GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n');
    expect(await client.until('alive')).toMatch(/^HTTP\/1\.1 200 /);
    client.socket.destroy();
  });
});

describe('requests that are no HTTP', () => {
  it.each([
    ['a request line that is none', 'HELLO\r\n\r\n', 400, 'malformed-request'],
    [
      'two lengths',
      'POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello',
      400,
      'malformed-request',
    ],
    [
      'a length and chunks',
      'POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
      400,
      'malformed-request',
    ],
    [
      'a header without an end',
      `GET / HTTP/1.1\r\nHost: x\r\nX: ${'a'.repeat(20_000)}\r\n\r\n`,
      431,
      'header-too-large',
    ],
  ])('%s gets a problem document', async (_name, bytes, status, slug) => {
    const client = new Client();
    client.write(bytes);
    const received = await client.until(slug);
    expect(received).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(received).toContain('application/problem+json');
    await client.closed;
  });

  it('a path that cannot be decoded gets a problem document', async () => {
    const response = await fetch(`http://127.0.0.1:${port}/analyses/%E0%A4%A`);
    expect(response.status).toBe(400);
    expect(response.headers.get('content-type')).toContain('application/problem+json');
  });
});

describe('shutting down', () => {
  it('answers who waits, keeps what was posted, closes every connection and removes its files', async () => {
    const short = await startHarness();
    const shortPort = await short.listen();
    const form = rawForm([{ headers: PART, body: png }]);
    const waiting = connect(shortPort, '127.0.0.1');
    let received = '';
    waiting.on('data', (chunk: Buffer) => {
      received += chunk.toString('latin1');
    });
    const closed = new Promise((resolve) => waiting.on('close', resolve));
    waiting.write(Buffer.concat([Buffer.from(head(form.length, 'Prefer: wait=30\r\n')), form]));
    await eventually(async () => expect(await short.analysesStored()).toBe(1));
    const started = Date.now();
    await short.app.close();
    await closed;
    expect(Date.now() - started).toBeLessThan(20_000);
    expect(received).toMatch(/^HTTP\/1\.1 202 /);
    expect(received.toLowerCase()).toContain('connection: close');
    expect(await readdir(join(short.config.dataDir, 'spool'))).toEqual([]);
    await short.close();
  });

  it('refuses what comes on a connection that is still open', async () => {
    const short = await startHarness();
    const shortPort = await short.listen();
    const form = rawForm([{ headers: PART, body: png }]);
    const socket = connect(shortPort, '127.0.0.1');
    let received = '';
    socket.on('data', (chunk: Buffer) => {
      received += chunk.toString('latin1');
    });
    const closed = new Promise((resolve) => socket.on('close', resolve));
    // The upload holds the connection open; its headers were read before the shutdown begins, its body comes after.
    socket.write(Buffer.concat([Buffer.from(head(form.length)), form.subarray(0, 30)]));
    await sleep(100);
    const closing = short.app.close();
    await sleep(50);
    socket.write(Buffer.concat([form.subarray(30), Buffer.from('GET /analyses HTTP/1.1\r\nHost: x\r\n\r\n')]));
    await closed;
    await closing;
    expect(received).toMatch(/^HTTP\/1\.1 202 /);
    expect(await short.analysesStored()).toBe(1);
    expect(received).not.toContain('"items"');
    await short.close();
  });
});
