/**
 * Every operation of the contract with every kind of input that means no good: the answer is one that the contract documents,
 * never a failure of the service, and nothing is stored. What `/analyze` takes has a table of its own (hostile.test.ts).
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Harness, startHarness } from './harness.js';

const ID = '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e';
type Method = 'get' | 'post' | 'patch' | 'delete';

interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
}

interface Operation {
  readonly method: Method;
  readonly path: string;
  readonly parameters: readonly Parameter[];
  readonly json: boolean;
  readonly responses: Readonly<Record<string, { readonly content?: object }>>;
}

let harness: Harness;
let operations: Operation[];

beforeAll(async () => {
  harness = await startHarness({ rateLimitPerMinute: 0 });
  const { paths } = harness.app.swagger() as unknown as {
    paths: Record<
      string,
      Record<string, Pick<Operation, 'responses'> & { parameters?: Parameter[]; requestBody?: { content: object } }>
    >;
  };
  operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods)
      .filter(([method]) => ['get', 'post', 'patch', 'delete'].includes(method))
      .map(([method, { parameters = [], requestBody, responses }]) => ({
        ...{ method: method as Method, path, parameters, responses },
        json: requestBody !== undefined && 'application/json' in requestBody.content,
      })),
  );
});
afterAll(() => harness.close());

/** What path parameters are where they are not what is tried. */
const GOOD: Readonly<Record<string, string>> = { index: '0', cellId: '0-0' };
const addressOf = (path: string, values: Readonly<Record<string, string>> = {}): string =>
  path.replace(/\{(\w+)\}/g, (_all, name: string) => values[name] ?? GOOD[name] ?? ID);

async function rows(): Promise<string> {
  const { rows: counts } = await harness.database.pool.query<{ row: string }>(
    `SELECT format('%s %s %s %s', (SELECT count(*) FROM analyses), (SELECT count(*) FROM api_keys),
                   (SELECT count(*) FROM webhook_endpoints), (SELECT count(*) FROM review_changes)) AS row`,
  );
  return counts[0]?.row ?? '';
}

/** Documented, and no failure of the service. The schemas of answers are held elsewhere: here it is many and fast. */
async function expectNothingThrough(
  { method, path, responses }: Operation,
  request: { url: string; headers?: Record<string, string>; payload?: string | Buffer },
): Promise<number> {
  const response = await harness.app.inject({ method: method.toUpperCase() as 'GET', ...request });
  const { statusCode, headers } = response;
  const what = `${statusCode} of ${method} ${path} for ${request.url.slice(0, 200)}: ${response.body.slice(0, 200)}`;
  expect(statusCode, what).toBeLessThan(500);
  expect(Object.keys(responses), what).toContain(String(statusCode));
  const mediaType = String(headers['content-type'] ?? '').split(';')[0] ?? '';
  if (mediaType !== '') expect(Object.keys(responses[statusCode]?.content ?? {}), what).toContain(mediaType);
  if (statusCode >= 400) expect(response.json().type).toMatch(/^https:\/\/leukodiff\.dev\/problems\/[a-z-]+$/);
  return statusCode;
}

const NESTED = `${'{"a":'.repeat(20_000)}1${'}'.repeat(20_000)}`;
const BODIES: [what: string, payload: string | Buffer, contentType?: string][] = [
  ['nothing', ''],
  ['half of it', '{"reviewer":"a"'],
  ['a number', '1'],
  ['null', 'null'],
  ['a list', '[]'],
  ['a text', '"reviewer"'],
  ['twenty thousand levels', NESTED],
  ['a prototype', '{"__proto__":{"admin":true}}'],
  ['a constructor', '{"constructor":{"prototype":{"admin":true}}}'],
  ['fields that there are not', '{"admin":true,"laboratory":"other"}'],
  ['other types', '{"reviewer":{},"class":[],"url":1,"name":null,"scopes":"admin","enabled":"yes","eventTypes":{}}'],
  [
    'control characters',
    '{"reviewer":"a\\u0000","class":"blast\\u0000","url":"https://1.1.1.1/\\u0000","name":"\\u0007"}',
  ],
  [
    'a surrogate by itself',
    '{"reviewer":"\\ud800","class":"\\ud800","url":"https://\\ud800/","name":"\\ud800","scopes":["read"]}',
  ],
  ['numbers beyond all', '{"reviewer":1e999,"expiresInDays":1e308,"name":-1e999,"scopes":["read"]}'],
  ['bytes that are no UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d])],
  ['UTF-16', Buffer.from('{"reviewer":"a"}', 'utf16le')],
  ['a hundred thousand bytes', JSON.stringify({ reviewer: 'x'.repeat(100_000), name: 'x', url: 'x', class: 'blast' })],
  ['a form', 'reviewer=a', 'application/x-www-form-urlencoded'],
  ['XML with an entity', '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', 'application/xml'],
  ['a media type that is none', '{}', ';;'],
];

describe('bodies', () => {
  it.each(BODIES)('%s', async (_what, payload, contentType = 'application/json') => {
    const before = await rows();
    const taking = operations.filter((operation) => operation.json);
    expect(taking.length).toBeGreaterThanOrEqual(5);
    for (const operation of taking) {
      const headers = { 'content-type': contentType, 'if-match': '*' };
      const status = await expectNothingThrough(operation, { url: addressOf(operation.path), headers, payload });
      expect(status, `${operation.method} ${operation.path}`).toBeGreaterThanOrEqual(400);
    }
    expect(await rows()).toBe(before);
  });
});

const WORDS: readonly string[] = [
  "'; DROP TABLE analyses; --",
  '../../../../etc/passwd',
  '%2e%2e%2f%2e%2e%2fetc%2fpasswd',
  '\u0000',
  'a\r\nX-Injected: 1',
  '-1',
  '99999999999999999999',
  'NaN',
  '{{7*7}}',
  '<script>alert(1)</script>',
  '\u202e\ufeff',
  '[object Object]',
  'x'.repeat(2_000),
  `${ID}'`,
  '00000000-0000-0000-0000-000000000000',
];

describe('parameters', () => {
  it.each(WORDS)('in the path: %j', async (word) => {
    const before = await rows();
    for (const operation of operations.filter(({ path }) => path.includes('{'))) {
      for (const { name } of operation.parameters.filter((one) => one.in === 'path')) {
        const url = addressOf(operation.path, { [name]: encodeURIComponent(word) });
        const json = operation.json ? { headers: { 'content-type': 'application/json' }, payload: '{}' } : {};
        expect(await expectNothingThrough(operation, { url, ...json }), url).toBeGreaterThanOrEqual(400);
      }
    }
    expect(await rows()).toBe(before);
  });

  it.each(WORDS)('in the query: %j', async (word) => {
    for (const operation of operations.filter(({ method }) => method === 'get')) {
      for (const { name } of [...operation.parameters.filter((one) => one.in === 'query'), { name: 'other' }]) {
        const url = `${addressOf(operation.path)}?${name}=${encodeURIComponent(word)}`;
        await expectNothingThrough(operation, { url });
        await expectNothingThrough(operation, { url: `${url}&${name}=${encodeURIComponent(word)}` });
      }
    }
  });

  it.each(WORDS.filter((word) => /^[\x20-\x7e]*$/.test(word)))('in a header: %j', async (word) => {
    const names = [
      'if-match',
      'if-none-match',
      'prefer',
      'idempotency-key',
      'accept',
      'traceparent',
      'x-request-id',
      'range',
    ];
    for (const operation of operations.filter(({ path }) => path !== '/analyze')) {
      const headers = Object.fromEntries(names.map((name) => [name, word]));
      const { accept: _any, ...others } = headers;
      const json = operation.json ? { payload: '{}' } : {};
      const type: Record<string, string> = operation.json ? { 'content-type': 'application/json' } : {};
      await expectNothingThrough(operation, {
        url: addressOf(operation.path),
        headers: { ...headers, ...type },
        ...json,
      });
      await expectNothingThrough(operation, {
        url: addressOf(operation.path),
        headers: { ...others, ...type },
        ...json,
      });
    }
  });
});
