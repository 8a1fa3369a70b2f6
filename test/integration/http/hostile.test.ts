/** The hostile table: whatever is posted, the answer is a clear problem document or a clean result, and nothing stays. */
import { deflateSync, gzipSync, crc32 as zlibCrc32 } from 'node:zlib';
import sharp from 'sharp';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { expectContract } from './contract.js';
import { blob, type FormEntry, type Harness, picture, post, rawForm, startHarness } from './harness.js';

let harness: Harness;
let jpeg: Buffer;
let png: Buffer;
let storedBefore: number;

beforeAll(async () => {
  harness = await startHarness({ maxImageBytes: 200_000, maxRequestBytes: 2_000_000, maxFieldBytes: 4096 });
  [jpeg, png] = await Promise.all([picture('jpeg'), picture('png')]);
});
afterAll(() => harness.close());
beforeEach(async () => {
  storedBefore = await harness.analysesStored();
});

interface Expected {
  readonly status: number;
  readonly slug: string;
  readonly fields?: readonly string[];
}

async function expectRefused(
  response: Awaited<ReturnType<typeof post>>,
  { status, slug, fields }: Expected,
): Promise<void> {
  expect(response.body).toContain(slug);
  expect(response.statusCode).toBe(status);
  expectContract(harness.app, response, 'post', '/analyze');
  const problem = response.json();
  expect(problem).toMatchObject({ type: `https://leukodiff.dev/problems/${slug}`, status, instance: '/analyze' });
  expect(problem.detail.length).toBeGreaterThan(20);
  expect(problem.requestId).toBe(response.headers['x-request-id']);
  if (fields !== undefined) {
    expect(problem.errors.map((error: { field: string }) => error.field).sort()).toEqual([...fields].sort());
  }
  expect(await harness.analysesStored()).toBe(storedBefore);
  expect(await harness.spooled()).toEqual([]);
}

const image = (bytes: Uint8Array | string, name = 'a.jpg'): FormEntry => ['images', blob(bytes), name];

/** A PNG that says it is `side` × `side` pixels; its data is `data`, deflated. */
function pngOf(side: number, data: Buffer): Buffer {
  const chunk = (type: string, body: Buffer): Buffer => {
    const typed = Buffer.concat([Buffer.from(type, 'latin1'), body]);
    const frame = Buffer.alloc(8);
    frame.writeUInt32BE(body.length, 0);
    frame.writeUInt32BE(crc32(typed), 4);
    return Buffer.concat([frame.subarray(0, 4), typed, frame.subarray(4)]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  header.set([8, 0, 0, 0, 0], 8);
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(data, { level: 9 })),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

/** node:zlib has it from 20.15 on; the types of Node 20 do not know it. */
function crc32(bytes: Buffer): number {
  return zlibCrc32(bytes);
}

describe('files', () => {
  it.each<[string, () => FormEntry[] | Promise<FormEntry[]>, Expected]>([
    ['an empty file', () => [image('')], { status: 422, slug: 'invalid-image', fields: ['images[0]'] }],
    [
      'a text named .jpg',
      () => [image('hello')],
      { status: 415, slug: 'unsupported-image-format', fields: ['images[0]'] },
    ],
    ['a PDF named .jpg', () => [image('%PDF-1.7\n%âãÏÓ\n1 0 obj')], { status: 415, slug: 'unsupported-image-format' }],
    [
      'an SVG',
      () => [image('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', 'a.svg')],
      { status: 415, slug: 'unsupported-image-format' },
    ],
    [
      'an HTML page',
      () => [image('<!doctype html><script>alert(1)</script>', 'a.png')],
      { status: 415, slug: 'unsupported-image-format' },
    ],
    [
      'an animated GIF',
      async () => [
        image(
          await sharp(Buffer.alloc(8 * 16 * 3, 90), { raw: { width: 8, height: 16, channels: 3, pageHeight: 8 } })
            .gif()
            .toBuffer(),
          'a.gif',
        ),
      ],
      { status: 415, slug: 'unsupported-image-format' },
    ],
    [
      'a zip archive',
      () => [image(Buffer.from('504b0304140000000800', 'hex'), 'a.zip')],
      { status: 415, slug: 'unsupported-image-format' },
    ],
    [
      'a gzip bomb',
      () => [image(gzipSync(Buffer.alloc(20_000_000)), 'a.png')],
      { status: 415, slug: 'unsupported-image-format' },
    ],
    [
      'a PNG of 30000 × 30000',
      () => [image(pngOf(30_000, Buffer.alloc(100)), 'a.png')],
      { status: 413, slug: 'image-too-large', fields: ['images[0]'] },
    ],
    [
      'a PNG bomb',
      () => [image(pngOf(20_000, Buffer.alloc(20_000_000)), 'a.png')],
      { status: 413, slug: 'image-too-large' },
    ],
    [
      'a file over the limit',
      () => [image(Buffer.alloc(200_001, 1))],
      { status: 413, slug: 'image-too-large', fields: ['images[0]'] },
    ],
    [
      'a PNG that ends in its header',
      () => [image(png.subarray(0, 20), 'a.png')],
      { status: 422, slug: 'invalid-image' },
    ],
    ['only the first bytes of a JPEG', () => [image(jpeg.subarray(0, 3))], { status: 422, slug: 'invalid-image' }],
    ['no files at all', () => [['accessionNumber', 'A']], { status: 422, slug: 'invalid-fields', fields: ['images'] }],
    [
      'a path instead of a file',
      () => [['images', 'smear.jpg']],
      { status: 422, slug: 'invalid-fields', fields: ['images'] },
    ],
    ['201 files', () => Array.from({ length: 201 }, () => image(png)), { status: 413, slug: 'too-many-images' }],
    ['files under another name', () => [['image', blob(png), 'a.png']], { status: 400, slug: 'unknown-field' }],
    [
      'good files among bad ones: every bad one is named',
      () => [image(png), image(''), image('x'), image(Buffer.alloc(200_001)), image(jpeg)],
      { status: 413, slug: 'image-too-large', fields: ['images[1]', 'images[2]', 'images[3]'] },
    ],
  ])('%s', async (_name, entries, expected) => {
    await expectRefused(await post(harness.app, await entries()), expected);
  });

  it('names the file and what to do', async () => {
    const response = await post(harness.app, [image(png), image('%PDF-1.7', 'report.jpg')]);
    expect(response.json().errors).toEqual([
      {
        field: 'images[1]',
        filename: 'report.jpg',
        code: 'unsupported-image-format',
        detail: expect.stringContaining('PDF'),
      },
    ]);
    expect(response.json().detail).toContain('report.jpg');
  });

  it.each<[string, () => Promise<Buffer> | Buffer]>([
    [
      'a JPEG that ends too early (its worker will say so)',
      async () => {
        const whole = await sharp(Buffer.alloc(300 * 200 * 3, 120), { raw: { width: 300, height: 200, channels: 3 } })
          .jpeg()
          .toBuffer();
        return whole.subarray(0, Math.floor(whole.length * 0.7));
      },
    ],
    ['a PNG of 1 × 1', () => picture('png', 1, 1)],
    ['a file of exactly the limit', () => Buffer.concat([jpeg, Buffer.alloc(200_000 - jpeg.length)])],
  ])('accepts %s', async (_name, bytes) => {
    const response = await post(harness.app, [image(await bytes())]);
    expect(response.statusCode).toBe(202);
    expect(await harness.spooled()).toEqual([]);
  });
});

describe('fields', () => {
  it.each<[string, FormEntry[], Expected]>([
    [
      'wrong types',
      [
        ['targetCells', 'many'],
        ['wbcCount', 'x'],
        ['micronsPerPixel', '0,25'],
      ],
      { status: 422, slug: 'invalid-fields', fields: ['micronsPerPixel', 'targetCells', 'wbcCount'] },
    ],
    [
      'NUL in the accession number',
      [['accessionNumber', 'H\u000026']],
      { status: 422, slug: 'invalid-fields', fields: ['accessionNumber'] },
    ],
    [
      'NUL in the metadata',
      [['metadata', '{"a":"\\u0000"}']],
      { status: 422, slug: 'invalid-fields', fields: ['metadata'] },
    ],
    [
      'a field twice',
      [
        ['orderId', 'A'],
        ['orderId', 'B'],
      ],
      { status: 422, slug: 'invalid-fields', fields: ['orderId'] },
    ],
    [
      'a huge field',
      [['metadata', `{"a":"${'x'.repeat(10_000)}"}`]],
      { status: 422, slug: 'invalid-fields', fields: ['metadata'] },
    ],
    ['a huge field that is no field', [['x'.repeat(300), 'y'.repeat(10_000)]], { status: 400, slug: 'unknown-field' }],
    ['a misspelt field', [['acessionNumber', 'A']], { status: 400, slug: 'unknown-field', fields: ['acessionNumber'] }],
    [
      'a misspelt field beside a bad value',
      [
        ['acessionNumber', 'A'],
        ['wbcCount', 'x'],
      ],
      { status: 400, slug: 'unknown-field', fields: ['acessionNumber', 'wbcCount'] },
    ],
    ['the name of a property that every object has', [['constructor', 'A']], { status: 400, slug: 'unknown-field' }],
    ['the name of every object’s prototype', [['__proto__', 'A']], { status: 400, slug: 'unknown-field' }],
    [
      'credentials in the callback address',
      [['callbackUrl', 'https://u:p@lis.example/']],
      { status: 422, slug: 'invalid-fields', fields: ['callbackUrl'] },
    ],
    [
      'a callback address of another scheme',
      [['callbackUrl', 'gopher://lis.example/']],
      { status: 422, slug: 'invalid-fields', fields: ['callbackUrl'] },
    ],
  ])('%s, before and after the file', async (_name, fields, expected) => {
    await expectRefused(await post(harness.app, [...fields, image(png)]), expected);
    await expectRefused(await post(harness.app, [image(png), ...fields]), expected);
  });

  it('never repeats a value, in the answer or in the log', async () => {
    const response = await post(harness.app, [
      ['accessionNumber', 'SECRET-ACCESSION\u0001'],
      ['metadata', 'SECRET-METADATA'],
      ['callbackUrl', 'https://SECRET:USER@lis.example'],
      image(png),
    ]);
    expect(response.statusCode).toBe(422);
    await harness.app.inject('/analyses?accessionNumber=SECRET-QUERY&nonsense=1');
    expect(response.body).not.toContain('SECRET');
    expect(harness.log()).not.toContain('SECRET');
  });

  it('refuses thousands of fields', async () => {
    const entries = Array.from({ length: 3000 }, (_, i) => [`f${i}`, 'x'] as const);
    await expectRefused(await post(harness.app, [...entries, image(png)]), { status: 413, slug: 'too-many-fields' });
  });

  it('accepts a field of exactly the limit', async () => {
    const metadata = `{"a":"${'x'.repeat(4096 - 8)}"}`;
    expect(metadata).toHaveLength(4096);
    expect((await post(harness.app, [['metadata', metadata], image(png)])).statusCode).toBe(202);
    storedBefore += 1;
    await expectRefused(await post(harness.app, [['metadata', `${metadata} `], image(png)]), {
      status: 422,
      slug: 'invalid-fields',
      fields: ['metadata'],
    });
  });
});

describe('bodies', () => {
  const send = (payload: Buffer | string, contentType: string | undefined) =>
    harness.app.inject({
      method: 'POST',
      url: '/analyze',
      payload,
      headers: contentType === undefined ? {} : { 'content-type': contentType },
    });
  const file = (name = 'images') => ({
    headers: `Content-Disposition: form-data; name="${name}"; filename="a.png"`,
    body: png,
  });

  it.each<[string, () => Buffer | string, string | undefined, Expected]>([
    ['JSON', () => '{"images":[]}', 'application/json', { status: 415, slug: 'unsupported-media-type' }],
    ['a bare image', () => png, 'image/png', { status: 415, slug: 'unsupported-media-type' }],
    [
      'a urlencoded form',
      () => 'images=a.png',
      'application/x-www-form-urlencoded',
      { status: 415, slug: 'unsupported-media-type' },
    ],
    [
      'another multipart type',
      () => rawForm([file()]),
      'multipart/mixed; boundary=b0undary',
      { status: 415, slug: 'unsupported-media-type' },
    ],
    ['no media type', () => png, undefined, { status: 415, slug: 'unsupported-media-type' }],
    ['a media type that is none', () => png, ';;;', { status: 415, slug: 'unsupported-media-type' }],
    ['nothing', () => '', undefined, { status: 415, slug: 'unsupported-media-type' }],
    ['no boundary', () => rawForm([file()]), 'multipart/form-data', { status: 400, slug: 'malformed-multipart' }],
    [
      'an empty boundary',
      () => rawForm([file()]),
      'multipart/form-data; boundary=',
      { status: 400, slug: 'malformed-multipart' },
    ],
    [
      'another boundary than announced',
      () => rawForm([file()]),
      'multipart/form-data; boundary=other',
      { status: 400, slug: 'malformed-multipart' },
    ],
    [
      'a form without its end',
      () => rawForm([file()]).subarray(0, -20),
      'multipart/form-data; boundary=b0undary',
      { status: 400, slug: 'malformed-multipart' },
    ],
    [
      'a form that ends in a header',
      () => '--b0undary\r\nContent-Disp',
      'multipart/form-data; boundary=b0undary',
      { status: 400, slug: 'malformed-multipart' },
    ],
    [
      'an empty multipart body',
      () => '',
      'multipart/form-data; boundary=b0undary',
      { status: 422, slug: 'invalid-fields', fields: ['images'] },
    ],
    [
      'an empty form',
      () => '--b0undary--\r\n',
      'multipart/form-data; boundary=b0undary',
      { status: 422, slug: 'invalid-fields', fields: ['images'] },
    ],
    [
      'a part without a name',
      () => rawForm([{ headers: 'Content-Disposition: form-data', body: 'x' }, file()]),
      'multipart/form-data; boundary=b0undary',
      { status: 400, slug: 'unknown-field' },
    ],
    [
      'a part with an empty name',
      () => rawForm([file('')]),
      'multipart/form-data; boundary=b0undary',
      { status: 400, slug: 'unknown-field' },
    ],
    [
      'JSON that is none',
      () =>
        rawForm([
          { headers: 'Content-Disposition: form-data; name="metadata"\r\nContent-Type: application/json', body: '{' },
          file(),
        ]),
      'multipart/form-data; boundary=b0undary',
      { status: 422, slug: 'invalid-fields', fields: ['metadata'] },
    ],
    [
      'text in another encoding than UTF-8',
      () =>
        rawForm([
          { headers: 'Content-Disposition: form-data; name="site"', body: Buffer.from('Zürich', 'latin1') },
          file(),
        ]),
      'multipart/form-data; boundary=b0undary',
      { status: 422, slug: 'invalid-fields', fields: ['site'] },
    ],
    [
      'more bytes than a request may have',
      () => rawForm(Array.from({ length: 12 }, () => ({ headers: file().headers, body: Buffer.alloc(190_000) }))),
      'multipart/form-data; boundary=b0undary',
      { status: 413, slug: 'request-too-large' },
    ],
  ])('%s', async (_name, payload, contentType, expected) => {
    await expectRefused(await send(payload(), contentType), expected);
  });

  it('shows how to do it', async () => {
    for (const contentType of ['multipart/form-data', 'application/json']) {
      expect((await send('{}', contentType)).json().detail).toContain('curl -F images=@');
    }
  });

  it('is not mistaken by a part that is called like a file of the system', async () => {
    const response = await send(
      rawForm([
        { headers: 'Content-Disposition: form-data; name="images"; filename="../../../../etc/passwd"', body: png },
      ]),
      'multipart/form-data; boundary=b0undary',
    );
    expect(response.statusCode).toBe(202);
    const { images } = (await harness.app.inject(response.json().links.self)).json();
    expect(images[0].filename).toBe('passwd');
  });
});
