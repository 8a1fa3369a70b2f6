/** `/analyses` and `/analyses/{id}`. */
import { deleteAnalysis, getAnalysisDocument, listAnalyses } from '../../storage/analyses.js';
import type { HttpDeps } from '../deps.js';
import { nextPageLink, withAnalysisLinks, withSummaryLinks } from '../links.js';
import { withCursor } from '../paging.js';
import { ProblemError } from '../problems.js';
import { AnalysesQuery, AnalysisParams, IfNoneMatchHeader, NoQuery, PreferHeader } from '../schemas/parameters.js';
import { emptyAnswer, HEADERS, jsonAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';
import { finishedWithin, waitOf } from '../waiting.js';

/** When to ask again for an analysis that is under way: most take a second or two. */
export const POLL_SECONDS = 2;

export function registerAnalyses(app: App, { config, database, queues }: HttpDeps): void {
  app.get(
    '/analyses',
    {
      config: { access: 'read', produces: 'application/json' },
      schema: {
        operationId: 'listAnalyses',
        tags: ['Analyses'],
        summary: 'List analyses, newest first',
        description:
          'The worklist of those who sign: `?signed=false`, and with `&reviewRequired=true` what needs attention.',
        querystring: AnalysesQuery,
        response: { 200: jsonAnswer('A page of analyses.', 'AnalysisList') },
        ...problems('invalid-parameters'),
      },
    },
    async (request, reply) => {
      const { items, nextCursor } = await withCursor(() =>
        listAnalyses(database, request.principal.laboratory, { limit: 20, ...request.query }),
      );
      reply.header('cache-control', 'no-store');
      return {
        items: items.map(withSummaryLinks),
        nextCursor,
        links: { next: nextPageLink('/analyses', request.query, nextCursor) },
      };
    },
  );

  app.get(
    '/analyses/:id',
    {
      config: { access: 'read', produces: 'application/json', entityTag: true },
      schema: {
        operationId: 'getAnalysis',
        tags: ['Analyses'],
        summary: 'State and result of an analysis',
        description:
          'While the analysis is under way `Retry-After` says when to ask again. `Prefer: wait=N` waits for the end.',
        params: AnalysisParams,
        querystring: NoQuery,
        headers: { ...PreferHeader, properties: { ...PreferHeader.properties, ...IfNoneMatchHeader.properties } },
        response: {
          200: jsonAnswer(
            'The analysis.',
            'Analysis',
            HEADERS.entityTag,
            HEADERS.retryAfter,
            HEADERS.preferenceApplied,
          ),
          304: emptyAnswer('It has not changed since the ETag in If-None-Match.'),
        },
        ...problems('invalid-parameters', 'analysis-not-found'),
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const waitSeconds = waitOf(request, reply, config.maxWaitSeconds);
      const finished = waitSeconds === null ? null : await finishedWithin(database, id, waitSeconds, request);
      if (finished !== null) return finished;
      const document = await getAnalysisDocument(database, request.principal.laboratory, id);
      if (document === null) throw new ProblemError('analysis-not-found');
      if (document.completedAt === null) reply.header('retry-after', String(POLL_SECONDS));
      return withAnalysisLinks(document);
    },
  );

  app.delete(
    '/analyses/:id',
    {
      config: { access: 'admin' },
      schema: {
        operationId: 'deleteAnalysis',
        tags: ['Analyses'],
        summary: 'Delete an analysis',
        description: 'Removes the order, the images and every result, at once and for good.',
        params: AnalysisParams,
        querystring: NoQuery,
        response: { 204: emptyAnswer('Deleted.') },
        ...problems('invalid-parameters', 'analysis-not-found'),
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      if (!(await deleteAnalysis(database, request.principal.laboratory, id))) {
        throw new ProblemError('analysis-not-found');
      }
      // Its jobs would find nothing; without them not even its id stays in the queue.
      await queues
        .removeAnalysis(id.toLowerCase())
        .catch(() => request.log.warn('the jobs of a deleted analysis stay'));
      return reply.code(204).send();
    },
  );
}
