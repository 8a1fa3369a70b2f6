/** `DELETE /analyses/{id}/images` and `/masks`: what may go before the analysis does. */
import { type RemovablePart, removePart } from '../../storage/removal.js';
import type { HttpDeps } from '../deps.js';
import { ProblemError } from '../problems.js';
import { AnalysisParams, NoQuery } from '../schemas/parameters.js';
import { emptyAnswer, problems } from '../schemas/responses.js';
import type { App } from '../types.js';
import { POLL_SECONDS } from './analyses.js';

const TEXTS: Readonly<Record<RemovablePart, { operationId: string; summary: string; description: string }>> = {
  images: {
    operationId: 'removeImages',
    summary: 'Remove the posted images of an analysis',
    description: 'The result and its pictures stay, but overlays, which are drawn on the image. For good.',
  },
  masks: {
    operationId: 'removeMasks',
    summary: 'Remove the pictures of the result',
    description: 'Masks, crops, Grad-CAM and saliency maps. The numbers and the posted images stay. For good.',
  },
};

export function registerRemoval(app: App, { database }: HttpDeps): void {
  for (const part of ['images', 'masks'] as const) {
    app.delete(
      `/analyses/:id/${part}`,
      {
        config: { access: 'admin' },
        schema: {
          ...TEXTS[part],
          tags: ['Analyses'],
          params: AnalysisParams,
          querystring: NoQuery,
          response: { 204: emptyAnswer('Removed, now or before.') },
          ...problems('invalid-parameters', 'analysis-not-found', 'analysis-not-finished'),
        },
      },
      async (request, reply) => {
        const { id } = request.params;
        const outcome = await removePart(database, request.principal.laboratory, id, part);
        if (outcome === null) throw new ProblemError('analysis-not-found');
        if (outcome === 'not-ended') {
          throw new ProblemError('analysis-not-finished', { headers: { 'retry-after': String(POLL_SECONDS) } });
        }
        return reply.code(204).send();
      },
    );
  }
}
