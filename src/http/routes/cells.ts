/** `/analyses/{id}/cells`: every found cell, and the pictures that belong to it. */
import { getAnalysisDocument } from '../../storage/analyses.js';
import { getCellArtefact, getCells } from '../../storage/cells.js';
import { renderCam } from '../../vision/render.js';
import type { HttpDeps } from '../deps.js';
import { nextPageLink, withCellLinks } from '../links.js';
import { ProblemError } from '../problems.js';
import { AnalysisParams, CellParams, CellsQuery, IfNoneMatchHeader, NoQuery } from '../schemas/parameters.js';
import { binaryAnswer, emptyAnswer, jsonAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';
import { withCursor } from './analyses.js';
import { requireFinished } from './images.js';

export function registerCells(app: App, { database }: HttpDeps): void {
  app.get(
    '/analyses/:id/cells',
    {
      config: { produces: 'application/json' },
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
      const page = await withCursor(() => getCells(database, id, { limit: 100, ...request.query }));
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
    ...problems('invalid-parameters', 'analysis-not-found', 'cell-not-found', 'analysis-not-finished', 'image-failed'),
  });
  const config = { produces: 'image/png', entityTag: true };

  app.get(
    '/analyses/:id/cells/:cellId/crop.png',
    { config, schema: { operationId: 'getCellCrop', ...picture('The cell as the network saw it') } },
    async ({ params }, reply) => reply.type('image/png').send(await artefact(params, 'crop')),
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
    async ({ params }, reply) => reply.type('image/png').send(await artefact(params, 'mask')),
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
    async ({ params }, reply) => {
      const [crop, cam] = await Promise.all([artefact(params, 'crop'), artefact(params, 'cam')]);
      return reply.type('image/png').send(await renderCam(crop, cam));
    },
  );

  async function artefact(
    { id, cellId }: { readonly id: string; readonly cellId: string },
    kind: Parameters<typeof getCellArtefact>[3],
  ): Promise<Buffer> {
    const png = await getCellArtefact(database, id, cellId, kind);
    if (png !== null) return png;
    const document = await getAnalysisDocument(database, id);
    if (document === null) throw new ProblemError('analysis-not-found');
    const image = document.images.find((candidate) => candidate.index === Number(cellId.split('-', 1)[0]));
    if (image !== undefined) requireFinished(image);
    throw new ProblemError('cell-not-found');
  }
}
