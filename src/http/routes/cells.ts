/** `/analyses/{id}/cells`: every found cell, and the pictures that belong to it. */
import { getAnalysisDocument } from '../../storage/analyses.js';
import { type CellArtefact, getCellArtefact, getCells } from '../../storage/cells.js';
import { isPartRemoved } from '../../storage/removal.js';
import { renderCam } from '../../vision/render.js';
import type { Principal } from '../access/principal.js';
import type { HttpDeps } from '../deps.js';
import { nextPageLink, withCellLinks } from '../links.js';
import { withCursor } from '../paging.js';
import { ProblemError } from '../problems.js';
import { AnalysisParams, CellParams, CellsQuery, IfNoneMatchHeader, NoQuery } from '../schemas/parameters.js';
import { binaryAnswer, emptyAnswer, jsonAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';
import { requireFinished } from './images.js';

export function registerCells(app: App, { database }: HttpDeps): void {
  app.get(
    '/analyses/:id/cells',
    {
      config: { access: 'read', produces: 'application/json' },
      schema: {
        operationId: 'listCells',
        tags: ['Cells'],
        summary: 'List the cells of an analysis',
        description: 'By image and number. While the analysis is under way, the cells of the images that are finished.',
        params: AnalysisParams,
        querystring: CellsQuery,
        response: { 200: jsonAnswer('A page of cells.', 'CellList') },
        ...problems('invalid-parameters', 'analysis-not-found'),
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const page = await withCursor(() =>
        getCells(database, request.principal.laboratory, id, { limit: 100, ...request.query }),
      );
      if (page === null) throw new ProblemError('analysis-not-found');
      reply.header('cache-control', 'no-store');
      return {
        items: page.items.map((cell) => withCellLinks(id, cell)),
        total: page.total,
        nextCursor: page.nextCursor,
        links: { next: nextPageLink(`/analyses/${id}/cells`, request.query, page.nextCursor) },
      };
    },
  );

  const picture = (summary: string) => ({
    tags: ['Cells'],
    summary,
    params: CellParams,
    querystring: NoQuery,
    headers: IfNoneMatchHeader,
    response: {
      200: binaryAnswer('The picture.', ['image/png']),
      304: emptyAnswer('It has not changed since the ETag in If-None-Match.'),
    },
    ...problems(
      'invalid-parameters',
      'analysis-not-found',
      'cell-not-found',
      'analysis-not-finished',
      'image-failed',
      'masks-removed',
    ),
  });
  const config = { access: 'read', produces: 'image/png', entityTag: true } as const;

  app.get(
    '/analyses/:id/cells/:cellId/crop.png',
    { config, schema: { operationId: 'getCellCrop', ...picture('The cell as the network saw it') } },
    async (request, reply) => reply.type('image/png').send(await artefact(request.principal, request.params, 'crop')),
  );

  app.get(
    '/analyses/:id/cells/:cellId/mask.png',
    {
      config,
      schema: {
        operationId: 'getCellMask',
        ...picture("Label mask of the cell's box"),
        description: '0 background, 128 cytoplasm, 255 nucleus.',
      },
    },
    async (request, reply) => reply.type('image/png').send(await artefact(request.principal, request.params, 'mask')),
  );

  app.get(
    '/analyses/:id/cells/:cellId/cam.png',
    {
      config,
      schema: {
        operationId: 'getCellCam',
        ...picture('Grad-CAM of the class over the crop'),
        description: 'Where the network found the evidence for the class that it names.',
      },
    },
    async ({ principal, params }, reply) => {
      const [crop, cam] = await Promise.all([artefact(principal, params, 'crop'), artefact(principal, params, 'cam')]);
      return reply.type('image/png').send(await renderCam(crop, cam));
    },
  );

  async function artefact(
    { laboratory }: Principal,
    { id, cellId }: { readonly id: string; readonly cellId: string },
    kind: CellArtefact,
  ): Promise<Buffer> {
    const png = await getCellArtefact(database, laboratory, id, cellId, kind);
    if (png !== null) return png;
    const document = await getAnalysisDocument(database, laboratory, id);
    if (document === null) throw new ProblemError('analysis-not-found');
    const image = document.images.find((candidate) => candidate.index === Number(cellId.split('-', 1)[0]));
    if (image !== undefined) requireFinished(image);
    if (await isPartRemoved(database, laboratory, id, 'masks')) throw new ProblemError('masks-removed');
    throw new ProblemError('cell-not-found');
  }
}
