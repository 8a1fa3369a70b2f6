/** The multipart form of `POST /analyze`, as the contract states it. Parsed by `upload/order-fields.ts`. */
import { Type } from '@fastify/type-provider-typebox';
import { PRIORITIES } from '../../storage/documents.js';
import { ORDER_LIMITS } from '../upload/order-fields.js';
import { IDENTIFIER_MAX_LENGTH, literals, PRINTABLE_PATTERN } from './parameters.js';

const text = (description: string, examples?: string[]) =>
  Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: IDENTIFIER_MAX_LENGTH,
      pattern: PRINTABLE_PATTERN,
      description,
      ...(examples === undefined ? {} : { examples }),
    }),
  );

/** As the body refers to it. */
export const AnalyzeFormBody = Type.Ref('AnalyzeForm');

/** @param maxImages Upper limit of `images`, from the configuration. */
export function analyzeFormSchema(maxImages: number) {
  return Type.Object(
    {
      images: Type.Array(Type.String({ format: 'binary', contentMediaType: 'application/octet-stream' }), {
        minItems: 1,
        maxItems: maxImages,
        description:
          'The fields of one smear: JPEG, PNG, TIFF, WebP or BMP, 8 or 16 bit, of any size and magnification. Repeat the part for every image.',
      }),
      accessionNumber: text('Accession number; opaque, comes back with the result.', ['H-26-001234']),
      specimenId: text('Specimen id; opaque.'),
      orderId: text('Order id; opaque.'),
      subjectId: text('Id of the subject; opaque. Send a pseudonym: no identity is needed.'),
      site: text('Where the image was taken; opaque.'),
      collectedAt: Type.Optional(
        Type.String({ format: 'date-time', description: 'Collection time, RFC 3339 with an offset.' }),
      ),
      callbackUrl: Type.Optional(
        Type.String({
          format: 'uri',
          maxLength: ORDER_LIMITS.callbackUrlLength,
          description:
            'Receives the events of this analysis as Standard Webhooks: http or https, without credentials. A private address has to lie in WEBHOOK_ALLOW_NETWORKS.',
          examples: ['https://lis.example/hooks/leukodiff'],
        }),
      ),
      micronsPerPixel: Type.Optional(
        Type.Number({
          minimum: ORDER_LIMITS.micronsPerPixel.min,
          maximum: ORDER_LIMITS.micronsPerPixel.max,
          description: 'µm per pixel of the posted images; estimated from each image when absent.',
          examples: [0.16],
        }),
      ),
      targetCells: Type.Optional(
        Type.Integer({
          minimum: 1,
          maximum: ORDER_LIMITS.targetCells,
          default: ORDER_LIMITS.defaultTargetCells,
          description: 'White cells that the laboratory wants counted.',
        }),
      ),
      wbcCount: Type.Optional(
        Type.Number({
          minimum: 0,
          maximum: ORDER_LIMITS.wbcCount,
          description: 'White blood cell count in 10*9/L, not corrected for erythroblasts; gives absolute counts.',
          examples: [7.2],
        }),
      ),
      priority: Type.Optional(
        literals(PRIORITIES, {
          default: 'routine',
          description:
            '`stat` is analysed before `routine`, whichever laboratory sent it; within each, laboratories take turns. Sent before the first image, it is taken by a queue that is full for others, too.',
        }),
      ),
      metadata: Type.Optional(
        Type.Record(Type.String(), Type.Unknown(), {
          description: 'JSON object; opaque, comes back with the result.',
          examples: [{ instrument: 'bench 3' }],
        }),
      ),
    },
    { $id: 'AnalyzeForm', title: 'AnalyzeForm', additionalProperties: false },
  );
}
