/** `POST /analyze`: takes images and an order, commits them, and answers before they are analysed, or waits if asked. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { enqueueAnalysis } from '../../jobs/queues.js';
import { createAnalysis, queueLoad } from '../../storage/analyses.js';
import { createAnalysisOnce, isKeyKnown, type StoredOnce } from '../../storage/idempotency.js';
import type { HttpDeps } from '../deps.js';
import { enqueueCommitted } from '../enqueue.js';
import { type AcceptedAnalysis, analysisLinks, type LinkedAnalysis } from '../links.js';
import { type ProblemCause, ProblemError } from '../problems.js';
import { AnalyzeFormBody } from '../schemas/order.js';
import { IdempotencyKeyHeader, NoQuery, PreferHeader } from '../schemas/parameters.js';
import { HEADERS, jsonAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';
import { fingerprintOf, idempotencyKeyOf } from '../upload/idempotency.js';
import { type FieldPart, isUrgent, type Order, parseOrder } from '../upload/order-fields.js';
import { type ProbedFile, probeFiles } from '../upload/probe.js';
import { ClientGoneError, receiveUpload } from '../upload/receive.js';
import { refusalOf } from '../upload/refusal.js';
import type { Spool } from '../upload/spool.js';
import { finishedWithin, waitOf } from '../waiting.js';
import { screenAddress } from '../webhook-address.js';

/** How long a client is asked to stay away from a full queue: some images are done by then, on any machine. */
const QUEUE_FULL_RETRY_SECONDS = 15;

/** A queue that is full for others still takes urgent orders, until a tenth more waits. */
const depthForUrgent = (depth: number): number => Math.ceil((depth * 11) / 10);

/** Images that a small machine finishes in a second: from it follows when it pays to ask for the result. */
const IMAGES_PER_SECOND = 2;
const MAX_RETRY_AFTER_SECONDS = 60;

export function registerAnalyze(app: App, deps: HttpDeps, spool: Spool): void {
  const { config, database } = deps;
  app.route({
    method: 'POST',
    url: '/analyze',
    config: { access: 'submit', produces: 'application/json' },
    // The body is a stream that the handler reads; its schema is documentation, and the parser of the form holds to it.
    validatorCompiler: ({ schema, httpPart }) =>
      httpPart === 'body' ? () => true : (app.validatorCompiler?.({ schema, httpPart } as never) ?? (() => true)),
    schema: {
      operationId: 'analyze',
      tags: ['Analyses'],
      summary: 'Analyse the images of a smear',
      description:
        'Takes 1 to 200 images of one smear with an optional order, as one atomic request: either everything is stored, or nothing. Fields and files may come in any order; an empty field counts as not sent. A queue that is full (429) still takes urgent orders, until a tenth more waits, whose `priority` comes before their first image. Once 202 is answered the analysis is committed and survives a restart. With an `Idempotency-Key` the request can be sent again without making a second analysis. With `Prefer: wait=N` the finished analysis is answered at once if it is ready within N seconds.',
      consumes: ['multipart/form-data'],
      headers: {
        ...PreferHeader,
        properties: { ...PreferHeader.properties, ...IdempotencyKeyHeader.properties },
      },
      querystring: NoQuery,
      body: AnalyzeFormBody,
      response: {
        200: jsonAnswer(
          'The finished analysis, after `Prefer: wait=N`.',
          'Analysis',
          HEADERS.location,
          HEADERS.idempotencyReplayed,
          HEADERS.preferenceApplied,
        ),
        202: jsonAnswer(
          'Accepted and stored; the result comes under `Location`.',
          'AcceptedAnalysis',
          HEADERS.location,
          HEADERS.idempotencyReplayed,
          HEADERS.retryAfter,
          HEADERS.preferenceApplied,
        ),
      },
      ...problems(
        'malformed-multipart',
        'unknown-field',
        'invalid-parameters',
        'analysis-not-found',
        'idempotency-key-in-flight',
        'idempotency-key-reused',
        'upload-timeout',
        'too-many-images',
        'too-many-fields',
        'request-too-large',
        'image-too-large',
        'unsupported-media-type',
        'unsupported-image-format',
        'invalid-fields',
        'invalid-image',
        'queue-full',
        'storage-full',
        'image-storage-unavailable',
      ),
    },
    handler: async (request, reply): Promise<AcceptedAnalysis | LinkedAnalysis> => {
      const { laboratory } = request.principal;
      const key = idempotencyKeyOf(request.headers['idempotency-key']);
      const load = await queueLoad(database);
      const queued = load.waiting + load.running;
      // What was taken before is answered again even when the queue is full: that is what a client waits for.
      const isKnown = key !== null && (await isKeyKnown(database, laboratory, key, config.idempotencyHours));
      const isFull = queued >= config.maxQueueDepth && !isKnown;
      if (isFull && queued >= depthForUrgent(config.maxQueueDepth)) throw queueFull(queued);

      const { order, files, dispose } = await acceptUpload(request, (fields) => {
        if (isFull && !isUrgent(fields)) throw queueFull(queued);
      });
      let stored: StoredOnce;
      try {
        stored = await store(request, key, order, files);
      } finally {
        await dispose();
      }
      const { id, turn } = acceptedOf(stored);
      request.auditSubject = id;
      if (turn !== null) {
        await enqueueCommitted(request, { analysisId: id }, () =>
          enqueueAnalysis(deps.queues, {
            id,
            imageCount: files.length,
            priority: order.priority,
            turn,
            among: { load, pixels: largestPixels(files) },
          }),
        );
      } else {
        reply.header('idempotency-replayed', 'true');
      }
      return answer(request, reply, id, queued + files.length);
    },
  });

  /** The form, read and found good; `dispose` must be called. Throws the problem that answers anything else. */
  async function acceptUpload(
    request: FastifyRequest,
    beforeFiles: (fields: readonly FieldPart[]) => void,
  ): Promise<{ order: Order; files: readonly ProbedFile[]; dispose: () => Promise<void> }> {
    const upload = await receiveUpload(request, spool, config, beforeFiles);
    try {
      const { order, causes: fieldCauses } = parseOrder(upload.fields, config.maxFieldBytes);
      const { files, causes: fileCauses } = await probeFiles(upload.files, config);
      const addressCauses = await screenCallback(order.callbackUrl);
      const refusal = refusalOf([...upload.causes, ...fieldCauses, ...addressCauses, ...fileCauses]);
      if (refusal !== undefined) throw refusal;
      // Nobody would learn the id of what is stored now, and whoever left will send it again.
      if (request.raw.socket?.destroyed) throw new ClientGoneError('The client left after its upload.');
      return { order, files, dispose: upload.dispose };
    } catch (error) {
      await upload.dispose();
      throw error;
    }
  }

  /** What is known to be wrong. A name that cannot be looked up now is no reason to refuse an order with its images. */
  async function screenCallback(callbackUrl: string | null): Promise<ProblemCause[]> {
    const screening = callbackUrl === null ? null : await screenAddress(callbackUrl, config);
    if (screening?.verdict !== 'refused') return [];
    return [{ field: 'callbackUrl', code: 'invalid-field', detail: screening.detail }];
  }

  async function store(
    request: FastifyRequest,
    key: string | null,
    order: Order,
    files: readonly ProbedFile[],
  ): Promise<StoredOnce> {
    const { laboratory } = request.principal;
    const { traceparent, tracestate } = request.trace;
    const origin = { requestId: request.id, traceparent, tracestate };
    const input = { ...order, origin, images: files.map(toNewImage) };
    if (key === null) return { outcome: 'created', ...(await createAnalysis(database, laboratory, input)) };
    return createAnalysisOnce(database, laboratory, input, {
      key,
      fingerprint: fingerprintOf(order, files),
      rememberedHours: config.idempotencyHours,
    });
  }

  async function answer(
    request: FastifyRequest,
    reply: FastifyReply,
    id: string,
    imagesAhead: number,
  ): Promise<AcceptedAnalysis | LinkedAnalysis> {
    const links = analysisLinks(id);
    reply.header('location', links.self);
    const waitSeconds = waitOf(request, reply, config.maxWaitSeconds);
    const finished = waitSeconds === null ? null : await finishedWithin(database, id, waitSeconds, request);
    if (finished !== null) return finished;
    const retryAfter = Math.min(Math.ceil(imagesAhead / IMAGES_PER_SECOND), MAX_RETRY_AFTER_SECONDS);
    reply.code(202).header('retry-after', String(retryAfter));
    return { id, status: 'queued', links };
  }

  function queueFull(queued: number): ProblemError {
    return new ProblemError('queue-full', {
      detail: `${queued} images are waiting (at most ${config.maxQueueDepth}: MAX_QUEUE_DEPTH; a tenth more for urgent orders, which say so before their first image); nothing was stored. Send the request again after the seconds in Retry-After.`,
      headers: { 'retry-after': String(QUEUE_FULL_RETRY_SECONDS) },
    });
  }
}

/** The analysis that answers the request, with its place in the line if it is new, or the problem that does. */
function acceptedOf(stored: StoredOnce): { id: string; turn: number | null } {
  switch (stored.outcome) {
    case 'created':
      return { id: stored.id, turn: stored.turn };
    case 'replayed':
      return { id: stored.id, turn: null };
    case 'deleted':
      throw new ProblemError('analysis-not-found', {
        detail: 'The order with this Idempotency-Key was taken before, and its analysis has been deleted since.',
      });
    case 'other-order':
      throw new ProblemError('idempotency-key-reused');
    case 'in-flight':
      throw new ProblemError('idempotency-key-in-flight', { headers: { 'retry-after': '1' } });
  }
}

const largestPixels = (files: readonly ProbedFile[]): number =>
  Math.max(...files.map(({ probe }) => probe.width * probe.height));

function toNewImage(file: ProbedFile) {
  const { format, width, height } = file.probe;
  const { filename, sha256, read } = file;
  return { filename, contentType: `image/${format}`, bytes: read, sha256, width, height };
}
