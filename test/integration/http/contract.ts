/** Holds answers against the OpenAPI document of the running application: status, media type and schema. */
import { createRequire } from 'node:module';
import type { LightMyRequestResponse } from 'fastify';
import { expect } from 'vitest';
import type { App } from '../../../src/http/types.js';

// Both are CommonJS without a default that NodeNext would see.
const require = createRequire(import.meta.url);
const Ajv2020 = require('ajv/dist/2020.js').default as typeof import('ajv/dist/2020.js').Ajv2020;
const addFormats = require('ajv-formats').default as typeof import('ajv-formats').default;

interface Documented {
  readonly paths: Record<
    string,
    Record<string, { responses: Record<string, { content?: Record<string, { schema: object }> }> }>
  >;
  readonly components: { readonly schemas: Record<string, object> };
}

/** Fails unless `response` is one that the contract documents for `path` (`/analyses/{id}`) and `method`. */
export function expectContract(
  app: App,
  response: Pick<LightMyRequestResponse, 'statusCode' | 'headers' | 'body'>,
  method: 'get' | 'post' | 'patch' | 'delete',
  path: string,
): void {
  const document = app.swagger() as unknown as Documented;
  const operation = document.paths[path]?.[method];
  expect(operation, `${method} ${path} is documented`).toBeDefined();
  const answer = operation?.responses[response.statusCode];
  expect(answer, `${response.statusCode} of ${method} ${path} is documented`).toBeDefined();
  const mediaType = String(response.headers['content-type'] ?? '').split(';')[0] ?? '';
  if (answer?.content === undefined) {
    expect(response.body).toBe('');
    return;
  }
  const schema = answer.content[mediaType]?.schema;
  expect(schema, `${mediaType} is documented for ${response.statusCode} of ${method} ${path}`).toBeDefined();
  if (schema === undefined || !mediaType.endsWith('json')) return;
  expectSchema(app, schema, JSON.parse(response.body));
}

/** Fails unless `value` fits `schema`, whose references point into the contract. */
export function expectSchema(app: App, schema: object, value: unknown): void {
  const { components } = app.swagger() as unknown as Documented;
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  addFormats(ajv);
  ajv.addSchema({ $id: 'https://contract.test/', components });
  const validate = ajv.compile(JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"https://contract.test/#/')));
  expect(validate(value), JSON.stringify(validate.errors)).toBe(true);
}
