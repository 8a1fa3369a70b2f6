import { Type } from '@fastify/type-provider-typebox';
import type { HttpDeps } from '../deps.js';
import { ProblemError } from '../problems.js';
import { NoQuery } from '../schemas/parameters.js';
import { jsonAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';

export const healthSchemas = [
  Type.Object({ status: Type.Literal('alive') }, { $id: 'Alive', title: 'Alive' }),
  Type.Object(
    {
      status: Type.Literal('ready'),
      checks: Type.Array(
        Type.Object({
          name: Type.String({ description: '`database`, `queue`, `model`.' }),
          ok: Type.Boolean(),
          detail: Type.String({ description: 'What was found.' }),
        }),
      ),
    },
    { $id: 'Ready', title: 'Ready' },
  ),
];

export function registerHealth(app: App, { readiness }: HttpDeps): void {
  app.get(
    '/health/live',
    {
      config: { access: 'open', produces: 'application/json' },
      schema: {
        operationId: 'getLiveness',
        tags: ['Operation'],
        summary: 'Whether the process runs',
        description: 'Looks at nothing else: restart the process where this does not answer.',
        querystring: NoQuery,
        response: { 200: jsonAnswer('It runs.', 'Alive') },
        ...problems('invalid-parameters'),
      },
    },
    async (_request, reply) => {
      reply.header('cache-control', 'no-store');
      return { status: 'alive' };
    },
  );

  app.get(
    '/health/ready',
    {
      config: { access: 'open', produces: 'application/json' },
      schema: {
        operationId: 'getReadiness',
        tags: ['Operation'],
        summary: 'Whether orders can be taken',
        description: 'Database, queue, and the model on the intended execution provider.',
        querystring: NoQuery,
        response: { 200: jsonAnswer('Everything works.', 'Ready') },
        ...problems('invalid-parameters', 'not-ready'),
      },
    },
    async (_request, reply) => {
      const checks = await readiness();
      const failing = checks.filter((check) => !check.ok);
      if (failing.length > 0) {
        throw new ProblemError('not-ready', {
          errors: failing.map(({ name, detail }) => ({ field: name, detail })),
          headers: { 'retry-after': '5' },
        });
      }
      reply.header('cache-control', 'no-store');
      return { status: 'ready', checks };
    },
  );
}
