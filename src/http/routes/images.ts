/** `/analyses/{id}/images/{index}`: what was posted, and pictures of what was found in it. */
import { Type } from '@fastify/type-provider-typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { getAnalysisDocument } from '../../storage/analyses.js';
import type { AnalysisDocument, ImageDocument } from '../../storage/documents.js';
import { getImageCells, getImageFile, getImageSaliency } from '../../storage/images.js';
import { isPartRemoved } from '../../storage/removal.js';
import { renderMask, renderOverlay, renderSaliency } from '../../vision/render.js';
import type { HttpDeps } from '../deps.js';
import { entityTag, matchesEntityTag } from '../etag.js';
import { createLimiter } from '../limiter.js';
import { ProblemError } from '../problems.js';
import { IfNoneMatchHeader, ImageParams, literals, NoQuery } from '../schemas/parameters.js';
import { binaryAnswer, emptyAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';
import { POLL_SECONDS } from './analyses.js';

/** A picture of a large field takes hundreds of megabytes while it is drawn. */
const SIMULTANEOUS_DRAWINGS = 2;

const SaliencyQuery = Type.Object(
  {
    style: Type.Optional(
      literals(['grey', 'heat'], { default: 'grey', description: '`grey`: 0 to 255 is 0 to 1; `heat`: for the eye.' }),
    ),
  },
  { additionalProperties: false },
);

export function registerImages(app: App, { database, version }: HttpDeps): void {
  const inTurn = createLimiter(SIMULTANEOUS_DRAWINGS);

  app.get(
    '/analyses/:id/images/:index/original',
    {
      config: { access: 'read' },
      schema: {
        operationId: 'getImageOriginal',
        tags: ['Images'],
        summary: 'The posted image, byte for byte',
        params: ImageParams,
        querystring: NoQuery,
        headers: IfNoneMatchHeader,
        response: {
          200: binaryAnswer('The image.', ['image/jpeg', 'image/png', 'image/tiff', 'image/webp', 'image/bmp']),
          304: emptyAnswer('It has not changed since the ETag in If-None-Match.'),
        },
        ...problems(
          'invalid-parameters',
          'analysis-not-found',
          'image-not-found',
          'image-removed',
          'image-storage-unavailable',
        ),
      },
    },
    async (request, reply) => {
      const { id, index } = request.params;
      const { laboratory } = request.principal;
      const { image } = await requireImage(laboratory, id, index);
      const tag = `"${image.sha256}"`;
      reply.headers({ etag: tag, 'cache-control': 'private, no-cache' });
      if (matchesEntityTag(request.headers['if-none-match'], tag)) return reply.code(304).send();
      const file = (await getImageFile(database, laboratory, id, index)) ?? (await gone(laboratory, id, 'images'));
      return reply
        .type(file.contentType)
        .header('content-disposition', contentDisposition(file.filename))
        .header('content-security-policy', "default-src 'none'; sandbox")
        .send(file.bytes);
    },
  );

  const drawing = (summary: string, description: string) => ({
    tags: ['Images'],
    summary,
    description,
    params: ImageParams,
    headers: IfNoneMatchHeader,
    response: {
      200: binaryAnswer('The picture.', ['image/png']),
      304: emptyAnswer('It has not changed since the ETag in If-None-Match.'),
    },
    ...problems(
      'invalid-parameters',
      'analysis-not-found',
      'image-not-found',
      'analysis-not-finished',
      'image-failed',
      'image-removed',
      'masks-removed',
      'image-storage-unavailable',
    ),
  });

  app.get(
    '/analyses/:id/images/:index/mask.png',
    {
      config: { access: 'read', produces: 'image/png' },
      schema: {
        operationId: 'getImageMask',
        ...drawing('Label mask of the image', 'At the posted size: 0 background, 128 cytoplasm, 255 nucleus.'),
        querystring: NoQuery,
      },
    },
    async (request, reply) =>
      draw(request, reply, request.params, 'mask', async ({ laboratory, id, index }) => {
        const found = (await getImageCells(database, laboratory, id, index)) ?? absent();
        return renderMask(found.width, found.height, found.cells);
      }),
  );

  app.get(
    '/analyses/:id/images/:index/overlay.png',
    {
      config: { access: 'read', produces: 'image/png' },
      schema: {
        operationId: 'getImageOverlay',
        ...drawing('The image with its cells drawn in', 'Outlines of cells and nuclei, each cell with its class.'),
        querystring: NoQuery,
      },
    },
    async (request, reply) =>
      draw(request, reply, request.params, 'overlay', async ({ laboratory, id, index }) => {
        const found = (await getImageCells(database, laboratory, id, index)) ?? absent();
        const file = (await getImageFile(database, laboratory, id, index)) ?? (await gone(laboratory, id, 'images'));
        return renderOverlay(file.bytes, found.cells);
      }),
  );

  app.get(
    '/analyses/:id/images/:index/saliency.png',
    {
      config: { access: 'read', produces: 'image/png' },
      schema: {
        operationId: 'getImageSaliency',
        ...drawing('Saliency map of the image', 'At the posted size: where the network expects white cells.'),
        querystring: SaliencyQuery,
      },
    },
    async (request, reply) => {
      const { style = 'grey' } = request.query;
      return draw(request, reply, request.params, `saliency-${style}`, async ({ laboratory, id, index }, image) => {
        const saliency = (await getImageSaliency(database, laboratory, id, index)) ?? absent();
        if (image.width === null || image.height === null) return absent();
        return renderSaliency(saliency, image.width, image.height, style);
      });
    },
  );

  type Key = { readonly id: string; readonly index: number };
  type OwnKey = Key & { readonly laboratory: string };

  /**
   * Answers a picture of a finished image. Its entity tag is that of the result it shows, so a client that has the
   * picture costs no drawing.
   */
  async function draw(
    request: FastifyRequest,
    reply: FastifyReply,
    key: Key,
    kind: string,
    make: (key: OwnKey, image: ImageDocument) => Promise<Buffer>,
  ): Promise<FastifyReply> {
    const { laboratory } = request.principal;
    const { document, image } = await requireImage(laboratory, key.id, key.index);
    requireFinished(image);
    const tag = entityTag(`${kind} ${version} ${key.index} ${JSON.stringify(document)}`);
    reply.headers({ etag: tag, 'cache-control': 'private, no-cache' });
    if (matchesEntityTag(request.headers['if-none-match'], tag)) return reply.code(304).send();
    if (await isPartRemoved(database, laboratory, key.id, 'masks')) throw new ProblemError('masks-removed');
    const png = await inTurn(() => make({ ...key, laboratory }, image));
    return reply.type('image/png').send(png);
  }

  /** Why a part is not there: it was removed, or its analysis was between two reads. */
  async function gone(laboratory: string, id: string, part: 'images'): Promise<never> {
    if (await isPartRemoved(database, laboratory, id, part)) throw new ProblemError('image-removed');
    return absent();
  }

  async function requireImage(
    laboratory: string,
    id: string,
    index: number,
  ): Promise<{ document: AnalysisDocument; image: ImageDocument }> {
    const document = await getAnalysisDocument(database, laboratory, id);
    if (document === null) throw new ProblemError('analysis-not-found');
    const image = document.images.find((candidate) => candidate.index === index);
    if (image === undefined) throw new ProblemError('image-not-found');
    return { document, image };
  }
}

/** Throws the problem of an image that has no result, or none yet. */
export function requireFinished(image: ImageDocument): void {
  if (image.status === 'failed') {
    const reason = image.problem === null ? '' : `${image.problem.title}: ${image.problem.detail} `;
    throw new ProblemError('image-failed', { detail: `${reason}There is nothing to draw for this image.` });
  }
  if (image.status !== 'completed') {
    throw new ProblemError('analysis-not-finished', { headers: { 'retry-after': String(POLL_SECONDS) } });
  }
}

/** The rows went away between two reads: a deletion came in between. */
function absent(): never {
  throw new ProblemError('analysis-not-found');
}

/** RFC 6266, with the UTF-8 form of RFC 8187 only: every client of this decade reads it. */
export function contentDisposition(filename: string): string {
  const encoded = encodeURIComponent(filename).replace(
    /['()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `inline; filename*=UTF-8''${encoded}`;
}
