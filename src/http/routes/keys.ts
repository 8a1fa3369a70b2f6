/** `/keys`: the API keys of the caller's own laboratory. Keys for another laboratory are made on the command line. */
import { createApiKey, getApiKey, listApiKeys, revokeApiKey, rotateApiKey } from '../../storage/api-keys.js';
import type { HttpDeps } from '../deps.js';
import { registerJsonScope } from '../json-scope.js';
import { ProblemError } from '../problems.js';
import { DEFAULT_OVERLAP_SECONDS, KeyParams, NewApiKeyBody, RotateQuery } from '../schemas/keys.js';
import { NoQuery } from '../schemas/parameters.js';
import { emptyAnswer, HEADERS, jsonAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';

const DAY_MS = 24 * 60 * 60 * 1000;

export function registerKeys(app: App, { database }: HttpDeps): void {
  const config = { access: 'admin', produces: 'application/json' } as const;

  app.get(
    '/keys',
    {
      config,
      schema: {
        operationId: 'listKeys',
        tags: ['Keys'],
        summary: 'List the API keys of the laboratory',
        description: 'All of them, oldest first, with those that are revoked. The keys themselves are kept nowhere.',
        querystring: NoQuery,
        response: { 200: jsonAnswer('The keys.', 'ApiKeyList') },
        ...problems('invalid-parameters'),
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store');
      return { items: await listApiKeys(database, request.principal.laboratory) };
    },
  );

  app.get(
    '/keys/:id',
    {
      config,
      schema: {
        operationId: 'getKey',
        tags: ['Keys'],
        summary: 'One API key',
        params: KeyParams,
        querystring: NoQuery,
        response: { 200: jsonAnswer('The key, without its secret.', 'ApiKey') },
        ...problems('invalid-parameters', 'key-not-found'),
      },
    },
    async (request, reply) => {
      reply.header('cache-control', 'no-store');
      const key = await getApiKey(database, request.principal.laboratory, request.params.id);
      if (key === null) throw new ProblemError('key-not-found');
      return key;
    },
  );

  app.post(
    '/keys/:id/rotate',
    {
      config,
      schema: {
        operationId: 'rotateKey',
        tags: ['Keys'],
        summary: 'Replace an API key',
        description: 'Makes a key with the same name and scopes. The old one goes on for `overlapSeconds`, then ends.',
        params: KeyParams,
        querystring: RotateQuery,
        response: { 201: jsonAnswer('The new key, told once.', 'CreatedApiKey', HEADERS.location) },
        ...problems('invalid-parameters', 'key-not-found', 'key-not-valid'),
      },
    },
    async (request, reply) => {
      const { laboratory, id: createdBy } = request.principal;
      const { overlapSeconds = DEFAULT_OVERLAP_SECONDS } = request.query;
      const { id } = request.params;
      const rotated = await rotateApiKey(database, laboratory, id, { overlapSeconds, createdBy });
      app.keyRing.forget();
      if (rotated === null) {
        throw new ProblemError(
          (await getApiKey(database, laboratory, id)) === null ? 'key-not-found' : 'key-not-valid',
        );
      }
      return reply
        .code(201)
        .headers({ location: `/keys/${rotated.key.id}`, 'cache-control': 'no-store' })
        .send(rotated);
    },
  );

  app.delete(
    '/keys/:id',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'revokeKey',
        tags: ['Keys'],
        summary: 'Revoke an API key',
        description: 'Ends it at once; other processes of the service follow within two seconds. It stays in the list.',
        params: KeyParams,
        querystring: NoQuery,
        response: { 204: emptyAnswer('Revoked, now or before.') },
        ...problems('invalid-parameters', 'key-not-found'),
      },
    },
    async (request, reply) => {
      const key = await revokeApiKey(database, request.principal.laboratory, request.params.id);
      app.keyRing.forget();
      if (key === null) throw new ProblemError('key-not-found');
      return reply.code(204).send();
    },
  );

  registerJsonScope(app, (json) => {
    json.post(
      '/keys',
      {
        config,
        schema: {
          operationId: 'createKey',
          tags: ['Keys'],
          summary: 'Make an API key',
          description: 'For the laboratory of the caller. The answer holds the key itself, which is never told again.',
          querystring: NoQuery,
          body: NewApiKeyBody,
          response: { 201: jsonAnswer('The key, told once.', 'CreatedApiKey', HEADERS.location) },
          ...problems(
            'invalid-parameters',
            'malformed-json',
            'invalid-fields',
            'unsupported-media-type',
            'request-too-large',
          ),
        },
      },
      async (request, reply) => {
        const { name, scopes, expiresInDays } = request.body;
        const { laboratory, id: createdBy } = request.principal;
        const expiresAt = expiresInDays === undefined ? null : new Date(Date.now() + expiresInDays * DAY_MS);
        const created = await createApiKey(database, { laboratory, name, scopes, expiresAt, createdBy });
        request.auditSubject = created.key.id;
        return reply
          .code(201)
          .headers({ location: `/keys/${created.key.id}`, 'cache-control': 'no-store' })
          .send(created);
      },
    );
  });
}
