/** `/analyses/{id}/fhir` and `/analyses/{id}/hl7`: the result in the languages of laboratory systems. */
import { Type } from '@fastify/type-provider-typebox';
import { fhirBundle } from '../../reporting/fhir.js';
import { type Report, reportOf } from '../../reporting/figures.js';
import { hl7Message } from '../../reporting/hl7.js';
import { DEFAULT_PROFILE } from '../../reporting/site-profile.js';
import { getAnalysisDocument } from '../../storage/analyses.js';
import type { HttpDeps } from '../deps.js';
import { ProblemError } from '../problems.js';
import { AnalysisParams, IfNoneMatchHeader, NoQuery } from '../schemas/parameters.js';
import { emptyAnswer, HEADERS, problems } from '../schemas/responses.js';
import type { App } from '../types.js';
import { POLL_SECONDS } from './analyses.js';

const FHIR_MEDIA_TYPE = 'application/fhir+json';
/** Not registered with IANA; the one that HL7-over-HTTP implementations use. */
const HL7_MEDIA_TYPE = 'application/hl7-v2';

export function registerReports(app: App, { config, database, outgoing }: HttpDeps): void {
  const profile = outgoing?.profile ?? DEFAULT_PROFILE;

  const answer = (description: string, mediaType: string, schema: object) => ({
    200: {
      description,
      headers: { ...HEADERS.requestId, ...HEADERS.entityTag },
      content: { [mediaType]: { schema } },
    },
    304: emptyAnswer('It has not changed since the ETag in If-None-Match.'),
  });
  const common = {
    tags: ['Reports'],
    params: AnalysisParams,
    querystring: NoQuery,
    headers: IfNoneMatchHeader,
    ...problems('invalid-parameters', 'analysis-not-found', 'analysis-not-finished', 'analysis-failed'),
  };

  app.get(
    '/analyses/:id/fhir',
    {
      config: { access: 'read', produces: FHIR_MEDIA_TYPE, entityTag: true },
      schema: {
        operationId: 'getFhirBundle',
        summary: 'The result as a FHIR R4 bundle',
        description:
          'A collection with DiagnosticReport, Observations, Specimen, Device, Media and Provenance. Status is that of the review: preliminary, final, amended or corrected.',
        ...common,
        response: answer('The bundle.', FHIR_MEDIA_TYPE, Type.Ref('FhirBundle')),
      },
    },
    async (request, reply) => {
      const report = await requireReport(request.principal.laboratory, request.params.id);
      const bundle = fhirBundle(report, { profile, publicUrl: config.publicUrl });
      return reply.type(`${FHIR_MEDIA_TYPE}; charset=utf-8`).send(JSON.stringify(bundle));
    },
  );

  app.get(
    '/analyses/:id/hl7',
    {
      config: { access: 'read', produces: HL7_MEDIA_TYPE, entityTag: true },
      schema: {
        operationId: 'getHl7Message',
        summary: 'The result as an HL7 v2.5.1 message',
        description:
          'ORU^R01^ORU_R01 in UTF-8, segments ended by carriage returns, without MLLP framing. OBX-11 is P, F or C.',
        ...common,
        response: answer('The message.', HL7_MEDIA_TYPE, Type.String()),
      },
    },
    async (request, reply) => {
      const report = await requireReport(request.principal.laboratory, request.params.id);
      return reply.type(`${HL7_MEDIA_TYPE}; charset=utf-8`).send(hl7Message(report, profile));
    },
  );

  async function requireReport(laboratory: string, id: string): Promise<Report> {
    const document = await getAnalysisDocument(database, laboratory, id);
    if (document === null) throw new ProblemError('analysis-not-found');
    if (document.completedAt === null) {
      throw new ProblemError('analysis-not-finished', { headers: { 'retry-after': String(POLL_SECONDS) } });
    }
    if (document.differential === null) throw new ProblemError('analysis-failed');
    return reportOf(document, profile);
  }
}
