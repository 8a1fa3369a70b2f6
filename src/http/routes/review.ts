/** What people do to a result: look at cells, sign, and read who did what. Optimistic locking by ETag and If-Match. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Refusal } from '../../hematology/verification.js';
import { signedEvent } from '../../jobs/stored-events.js';
import { outgoingReports } from '../../reporting/outgoing.js';
import { getCell } from '../../storage/cells.js';
import type { AnalysisDocument } from '../../storage/documents.js';
import {
  listReviewChanges,
  type ReviewContext,
  type ReviewOutcome,
  reviewCell,
  signAnalysis,
} from '../../storage/reviews.js';
import type { HttpDeps } from '../deps.js';
import { enqueueCommitted } from '../enqueue.js';
import { entityTag, isPrecondition } from '../etag.js';
import { registerJsonScope } from '../json-scope.js';
import { type LinkedAnalysis, withAnalysisLinks, withCellLinks } from '../links.js';
import { type ProblemCause, ProblemError } from '../problems.js';
import { AnalysisParams, CellParams, IfMatchHeader, NoQuery } from '../schemas/parameters.js';
import { HEADERS, jsonAnswer, problems } from '../schemas/responses.js';
import { CellReviewBody, SignatureBody } from '../schemas/review.js';
import type { App } from '../types.js';
import { POLL_SECONDS } from './analyses.js';

/** More cells than this are not listed one by one in a problem. */
const LISTED_CELLS = 100;

export function registerReview(app: App, deps: HttpDeps): void {
  const { database } = deps;
  registerJsonScope(app, registerActs);

  const refusals = [
    'malformed-json',
    'invalid-parameters',
    'analysis-not-found',
    'analysis-not-finished',
    'analysis-failed',
    'precondition-failed',
    'request-too-large',
    'unsupported-media-type',
    'invalid-fields',
    'precondition-required',
  ] as const;

  function registerActs(scope: App): void {
    scope.patch(
      '/analyses/:id/cells/:cellId',
      {
        config: { access: 'review', produces: 'application/json' },
        schema: {
          operationId: 'reviewCell',
          tags: ['Review'],
          summary: 'Name a cell by eye, or confirm its name',
          description:
            'The differential, the absolute counts and the review reasons are made anew over the names that stand now; what the service had found stays beside them in `verification.before`. After a signature the result becomes `amended` until it is signed again.',
          params: CellParams,
          querystring: NoQuery,
          headers: IfMatchHeader,
          body: CellReviewBody,
          response: { 200: jsonAnswer('The cell; ETag is that of the analysis now.', 'Cell', HEADERS.entityTag) },
          ...problems(...refusals, 'cell-not-found'),
        },
      },
      async (request, reply) => {
        const { id, cellId } = request.params;
        const { laboratory } = request.principal;
        const context = contextOf(request, request.body);
        const outcome = await reviewCell(database, laboratory, id, cellId, request.body.class, context);
        await settle(request, reply, outcome);
        const cell = await getCell(database, laboratory, id, cellId);
        if (cell === null) throw new ProblemError('analysis-not-found');
        return withCellLinks(id, cell);
      },
    );

    scope.post(
      '/analyses/:id/sign',
      {
        config: { access: 'review', produces: 'application/json' },
        schema: {
          operationId: 'signAnalysis',
          tags: ['Review'],
          summary: 'Sign the result',
          description:
            'Makes a preliminary result `final` and an amended one `corrected`. Refused while a cell has no name, or while review is required and a flagged cell was not looked at. Where the site asks for four eyes (SIGNATURES), also to those who looked at a cell since the last signature.',
          params: AnalysisParams,
          querystring: NoQuery,
          headers: IfMatchHeader,
          body: SignatureBody,
          response: { 200: jsonAnswer('The signed analysis.', 'Analysis', HEADERS.entityTag) },
          ...problems(...refusals, 'review-incomplete', 'already-signed', 'own-work'),
        },
      },
      async (request, reply) => {
        const { laboratory } = request.principal;
        const outcome = await signAnalysis(
          database,
          laboratory,
          request.params.id,
          contextOf(request, request.body),
          deps.config.signatures === 'four-eyes',
        );
        return settle(request, reply, outcome);
      },
    );
  }

  app.get(
    '/analyses/:id/changes',
    {
      config: { access: 'read', produces: 'application/json' },
      schema: {
        operationId: 'listReviewChanges',
        tags: ['Review'],
        summary: 'What people did to the result',
        description:
          'Every cell that was looked at and every signature, the oldest first: who, when, from what to what.',
        params: AnalysisParams,
        querystring: NoQuery,
        response: { 200: jsonAnswer('All changes.', 'ReviewChangeList') },
        ...problems('invalid-parameters', 'analysis-not-found'),
      },
    },
    async (request, reply) => {
      const items = await listReviewChanges(database, request.principal.laboratory, request.params.id);
      if (items === null) throw new ProblemError('analysis-not-found');
      reply.header('cache-control', 'no-store');
      return { items };
    },
  );

  function contextOf(
    request: FastifyRequest,
    body: { readonly reviewer: string; readonly comment?: string },
  ): ReviewContext {
    const ifMatch = request.headers['if-match'];
    if (ifMatch === undefined) throw new ProblemError('precondition-required');
    return {
      reviewer: body.reviewer,
      comment: body.comment ?? null,
      isCurrent: (document) => isPrecondition(ifMatch, tagOf(document)),
      eventsOf: (document) => [signedEvent(document, deps.config.publicUrl)],
      reportsOf: (document) => (deps.outgoing === undefined ? [] : outgoingReports(document, deps.outgoing)),
    };
  }

  /** The analysis as it stands after the change, or the problem that kept it from changing. */
  async function settle(request: FastifyRequest, reply: FastifyReply, outcome: ReviewOutcome): Promise<LinkedAnalysis> {
    switch (outcome.kind) {
      case 'no_analysis':
        throw new ProblemError('analysis-not-found');
      case 'no_cell':
        throw new ProblemError('cell-not-found');
      case 'unfinished':
        throw new ProblemError('analysis-not-finished', { headers: { 'retry-after': String(POLL_SECONDS) } });
      case 'failed':
        throw new ProblemError('analysis-failed');
      case 'stale':
        throw new ProblemError('precondition-failed');
      case 'refused':
        throw refusalProblem(outcome.refusal);
      case 'done': {
        for (const report of outcome.reports) {
          await enqueueCommitted(request, { reportId: report.id }, () => deps.queues.addReport(report));
        }
        // Together: a queue that hangs holds the answer back once, not once for every receiver.
        await enqueueCommitted(request, { analysisId: outcome.document.id }, async () => {
          for (const id of outcome.deliveryIds) await deps.queues.addDelivery(id);
        });
        reply.headers({ etag: tagOf(outcome.document), 'cache-control': 'private, no-cache' });
        return withAnalysisLinks(outcome.document);
      }
    }
  }
}

/** The entity tag that `GET /analyses/{id}` answers for this document. */
function tagOf(document: AnalysisDocument): string {
  return entityTag(JSON.stringify(withAnalysisLinks(document)));
}

interface Reason {
  readonly problem: 'review-incomplete' | 'own-work';
  readonly detail: string;
  /** Of each cell that stands in the way. */
  readonly cause: string;
}

const REASONS: Readonly<Record<Exclude<Refusal['code'], 'already_signed'>, Reason>> = {
  unidentified_left: {
    problem: 'review-incomplete',
    detail: 'Cells without a name are left: name each by PATCH /analyses/{id}/cells/{cellId}, then sign.',
    cause: 'It has no name.',
  },
  cells_not_reviewed: {
    problem: 'review-incomplete',
    detail:
      'The result needs review, and flagged cells were not looked at: confirm or rename each by PATCH /analyses/{id}/cells/{cellId}, then sign.',
    cause: 'Nobody has looked at it.',
  },
  own_work: {
    problem: 'own-work',
    detail:
      'This site asks for four eyes, and the reviewer looked at the cells named in `errors`: somebody else has to sign.',
    cause: 'The reviewer looked at it.',
  },
};

function refusalProblem({ code, cells }: Refusal): ProblemError {
  if (code === 'already_signed') return new ProblemError('already-signed');
  const { problem, detail, cause } = REASONS[code];
  const errors: ProblemCause[] = cells
    .slice(0, LISTED_CELLS)
    .map((id) => ({ field: `cells[${id}]`, detail: cause, code }));
  return new ProblemError(problem, { detail, errors });
}
