import { type Static, Type } from '@fastify/type-provider-typebox';
import type { HttpDeps } from '../deps.js';
import { NoQuery } from '../schemas/parameters.js';
import { jsonAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';

export const homeSchema = Type.Object(
  {
    name: Type.String(),
    version: Type.String(),
    welcome: Type.String(),
    links: Type.Object({
      analyze: Type.String(),
      analyses: Type.String(),
      docs: Type.String(),
      openapi: Type.String(),
      ready: Type.String(),
    }),
  },
  { $id: 'Home', title: 'Home' },
);

/** What `GET /` answers. */
export const homeDocument = (version: string): Static<typeof homeSchema> => ({
  name: 'leukodiff',
  version,
  welcome:
    'Post a photograph of a blood smear: curl -H "Authorization: Bearer lk_…" -H "Prefer: wait=30" -F images=@smear.jpg http://…/analyze',
  links: {
    analyze: '/analyze',
    analyses: '/analyses',
    docs: '/docs',
    openapi: '/openapi.json',
    ready: '/health/ready',
  },
});

export function registerHome(app: App, { version }: HttpDeps): void {
  app.get(
    '/',
    {
      config: { access: 'open' },
      schema: {
        operationId: 'getHome',
        tags: ['Operation'],
        summary: 'What this is',
        description: 'A browser is sent to the documentation.',
        querystring: NoQuery,
        response: { 200: jsonAnswer('A welcome, and where to go.', 'Home') },
        ...problems('invalid-parameters'),
      },
    },
    async (request, reply) => {
      // Only browsers name HTML in so many words.
      if (request.headers.accept?.includes('text/html')) return reply.redirect('/docs');
      return homeDocument(version);
    },
  );
}
