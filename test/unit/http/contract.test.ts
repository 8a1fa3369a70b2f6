/** The committed contract, as an integrator finds it. It is what the program makes: `npm run openapi:check` says so. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { PROBLEMS } from '../../../src/http/problems.js';

interface Media {
  readonly example?: unknown;
  readonly examples?: Readonly<Record<string, { readonly $ref: string }>>;
  readonly encoding?: object;
}

interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly security?: readonly object[];
  readonly requestBody?: { readonly content: Readonly<Record<string, Media>> };
  readonly responses: Readonly<
    Record<string, { readonly description: string; readonly content?: Readonly<Record<string, Media>> }>
  >;
}

const contract = parse(readFileSync(new URL('../../../openapi.yaml', import.meta.url), 'utf8')) as {
  openapi: string;
  paths: Record<string, Record<string, Operation>>;
  webhooks: Record<string, { post: Operation }>;
  components: { examples: Record<string, unknown>; securitySchemes: Record<string, unknown> };
};
const operations = Object.entries(contract.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => [`${method} ${path}`, operation] as const),
);
const hasExample = (media: Media): boolean => media.example !== undefined || media.examples !== undefined;

describe('the contract', () => {
  it('is OpenAPI 3.1 with two ways to say who asks, and every event', () => {
    expect(contract.openapi).toMatch(/^3\.1\./);
    expect(Object.keys(contract.components.securitySchemes)).toEqual(['bearer', 'apiKey']);
    expect(Object.keys(contract.webhooks)).toHaveLength(5);
    for (const { post } of Object.values(contract.webhooks)) {
      expect(hasExample(post.requestBody?.content['application/json'] ?? {}), post.operationId).toBe(true);
    }
  });

  it('knows every problem, and shows each where it can be answered', () => {
    // What is answered where there is no operation.
    const elsewhere = ['method-not-allowed', 'not-found'];
    const known = Object.keys(PROBLEMS).filter((slug) => !elsewhere.includes(slug));
    expect(Object.keys(contract.components.examples).sort()).toEqual(known.sort());
    const shown = operations.flatMap(([, { responses }]) =>
      Object.entries(responses).flatMap(([status, { content }]) =>
        Object.keys(content?.['application/problem+json']?.examples ?? {}).map((slug) => [slug, status] as const),
      ),
    );
    for (const [slug, status] of shown)
      expect(String(PROBLEMS[slug as keyof typeof PROBLEMS].status), slug).toBe(status);
    expect(new Set(shown.map(([slug]) => slug)).size).toBe(known.length);
  });

  it('says how the parts of the form are written', () => {
    const form = contract.paths['/analyze']?.['post']?.requestBody?.content['multipart/form-data'];
    expect(Object.keys(form?.encoding ?? {})).toEqual(['images', 'metadata']);
  });

  it.each(operations)('%s says who may, what may go wrong, and shows what is sent and answered', (name, operation) => {
    expect(operation.security, 'security').toBeDefined();
    expect(operation.summary.length).toBeGreaterThan(5);
    for (const status of ['400', '406', '431', '500', '503'])
      expect(Object.keys(operation.responses)).toContain(status);
    if (operation.security?.length)
      expect(Object.keys(operation.responses)).toEqual(expect.arrayContaining(['401', '403', '429']));
    const json = (content: Readonly<Record<string, Media>> = {}) =>
      Object.entries(content).filter(([type]) => type.endsWith('json'));
    for (const [type, media] of json(operation.requestBody?.content))
      expect(hasExample(media), `body ${type}`).toBe(true);
    for (const [status, { content }] of Object.entries(operation.responses)) {
      for (const [, media] of json(content)) expect(hasExample(media), `${name} ${status}`).toBe(true);
    }
  });
});
