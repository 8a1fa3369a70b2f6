/** The public documents. Field names and meanings are those of `storage/documents.ts`; links are added by HTTP. */
import { Type } from '@fastify/type-provider-typebox';
import { CELL_TYPES, OTHER_CLASSES, WBC_CLASSES } from '../../hematology/cell-types.js';
import { REVIEW_CODES } from '../../hematology/review-rules.js';
import { REPORT_STATUSES } from '../../hematology/verification.js';
import { ANALYSIS_STATUSES, PRIORITIES } from '../../storage/documents.js';
import { literals, nullable } from './parameters.js';

const dateTime = (description: string) => Type.String({ format: 'date-time', description });
const share = (description: string) => Type.Number({ minimum: 0, maximum: 1, description });
const link = (description: string) => Type.String({ format: 'uri-reference', description });

const id = Type.String({ format: 'uuid', description: 'Id of the analysis (UUIDv7).' });
const status = literals(ANALYSIS_STATUSES, {
  description: '`completed` also when some images failed; `failed` only when all did.',
});

const AnalysisLinks = Type.Object(
  {
    self: link('The analysis.'),
    cells: link('Its cells, a page at a time.'),
    changes: link('What people did to the result.'),
    fhir: link('The result as a FHIR R4 bundle.'),
    hl7: link('The result as an HL7 v2.5.1 message.'),
  },
  { $id: 'AnalysisLinks', title: 'AnalysisLinks' },
);

const StoredProblem = Type.Object(
  {
    code: Type.String({ description: 'Kind of the failure.', examples: ['image-truncated'] }),
    title: Type.String(),
    detail: Type.String({ description: 'What happened, and what to do about it.' }),
  },
  { $id: 'StoredProblem', title: 'StoredProblem', description: 'Why an image or an analysis failed.' },
);

const ImageQuality = Type.Object(
  {
    sharpness: Type.Number({ description: 'Variance of the Laplacian of the green channel; low means out of focus.' }),
    brightness: share('Mean luminance.'),
    clipped: share('Share of pixels at 0 or 255 in any channel.'),
    background: share('Share of the field that is clear background.'),
    stain: Type.Optional(
      nullable(
        Type.Object(
          {
            density: Type.Number({ description: 'Mean optical density of what is stained, in green.' }),
            balance: Type.Number({
              description: 'Its optical density in red to that in green: low is pink, high is blue.',
            }),
          },
          { description: 'Null: nothing stained is to be seen. Absent: an older version did not measure it.' },
        ),
      ),
    ),
    flags: Type.Array(Type.String(), {
      description: 'What a person should know about the picture.',
      examples: [['out_of_focus']],
    }),
  },
  { $id: 'ImageQuality', title: 'ImageQuality' },
);

const Model = Type.Object(
  {
    name: Type.String(),
    version: Type.String(),
    sha256: Type.String({ description: 'SHA-256 over the checksums of the model files, hexadecimal.' }),
    executionProvider: literals(['cpu', 'cuda']),
  },
  { $id: 'Model', title: 'Model', description: 'The network that made this result.' },
);

const Image = Type.Object(
  {
    index: Type.Integer({ minimum: 0, description: 'Place in the request, from 0.' }),
    filename: Type.String(),
    contentType: Type.String({ description: 'What the file is, by its content.' }),
    byteLength: Type.Integer({ minimum: 1 }),
    sha256: Type.String({ description: 'SHA-256 of the posted bytes, hexadecimal.' }),
    duplicateOf: Type.Optional(
      nullable(
        Type.Object(
          { analysisId: Type.String({ format: 'uuid' }), index: Type.Integer({ minimum: 0 }) },
          {
            description:
              'The image with the same bytes that came first in this laboratory, in this order or an earlier one. It may have been removed since.',
          },
        ),
      ),
    ),
    repeatOf: Type.Optional(
      nullable(
        Type.Integer({
          minimum: 0,
          description:
            'Index of the image of this order with the same bytes. Its cells are counted, those of this image are not, and the review says `image_repeated`.',
        }),
      ),
    ),
    width: nullable(Type.Integer({ minimum: 1, description: 'Pixels, after the EXIF orientation.' })),
    height: nullable(Type.Integer({ minimum: 1 })),
    status,
    micronsPerPixel: nullable(Type.Number({ description: 'µm per pixel of the posted image; null when unknown.' })),
    scaleSource: nullable(
      literals(['given', 'estimated', 'unknown'], { description: 'Where `micronsPerPixel` came from.' }),
    ),
    scaleConfidence: nullable(share('How sure the scale is; 1 when it was given.')),
    quality: nullable(Type.Ref('ImageQuality')),
    saliencyConsistency: nullable(share('Mean over the cells of this image; null without cells.')),
    cellCount: nullable(Type.Integer({ minimum: 0, description: 'Found cells of every class.' })),
    model: Type.Optional(nullable(Type.Ref('Model'))),
    timingsMs: nullable(Type.Record(Type.String(), Type.Number(), { description: 'Stage durations in milliseconds.' })),
    problem: nullable(Type.Ref('StoredProblem')),
    links: Type.Object({
      original: link('The posted bytes.'),
      mask: link('Label mask, PNG: 0 background, 128 cytoplasm, 255 nucleus.'),
      overlay: link('The posted image with its cells outlined and named, PNG.'),
      saliency: link('Saliency map, PNG.'),
      cells: link('The cells of this image.'),
    }),
  },
  { $id: 'Image', title: 'Image' },
);

const percent = (description: string) => Type.Number({ minimum: 0, maximum: 100, description });

const Differential = Type.Object(
  {
    totalWbc: Type.Integer({ minimum: 0, description: 'Counted white cells: the sum over `classes`.' }),
    targetCells: Type.Integer({ minimum: 1, description: 'White cells that the order asked for.' }),
    targetReached: Type.Boolean(),
    denominator: literals(['totalWbc'], { description: 'What every `percent` is a share of.' }),
    classes: Type.Array(
      Type.Object({
        class: literals(WBC_CLASSES),
        count: Type.Integer({ minimum: 0 }),
        percent: nullable(percent('Share of `totalWbc` in percent; null without white cells.')),
        ci95: nullable(
          Type.Object(
            { low: percent('Lower bound.'), high: percent('Upper bound.') },
            { description: '95 % Clopper–Pearson interval of `percent`.' },
          ),
        ),
        absoluteCount: nullable(
          Type.Number({ minimum: 0, description: '10*9/L; null where no WBC count came with the order.' }),
        ),
      }),
      { description: 'Every white cell class, also those that were not seen.' },
    ),
    others: Type.Array(Type.Object({ class: literals(OTHER_CLASSES), count: Type.Integer({ minimum: 0 }) }), {
      description: 'What was found beside white cells; in no percentage.',
    }),
    notCounted: Type.Integer({ minimum: 0, description: 'Cells that the border rule left out.' }),
    countingRule: Type.String({ description: 'The border rule in words.' }),
    nrbcPer100Wbc: nullable(Type.Number({ minimum: 0, description: 'Erythroblasts per 100 white cells.' })),
    wbcCount: nullable(Type.Number({ minimum: 0, description: 'As it came with the order, 10*9/L.' })),
    wbcCountCorrected: nullable(Type.Number({ minimum: 0, description: 'Without erythroblasts, 10*9/L.' })),
  },
  { $id: 'Differential', title: 'Differential' },
);

const Review = Type.Object(
  {
    required: Type.Boolean({ description: 'Whether a person must look before the result is used.' }),
    reasons: Type.Array(
      Type.Object({
        code: literals(REVIEW_CODES, { description: 'Stable name of the reason; more may be added.' }),
        message: Type.String({ description: 'What was seen and what to do.' }),
        value: nullable(Type.Number({ description: 'What was measured, in the unit that the message names.' })),
        threshold: nullable(Type.Number({ description: 'The limit that it was held against.' })),
        images: Type.Array(Type.Integer({ minimum: 0 }), {
          description: 'Indexes of the images concerned; empty where it concerns the analysis as a whole.',
        }),
      }),
    ),
  },
  { $id: 'Review', title: 'Review', description: 'Why a person must look at the result.' },
);

const reportStatus = literals(REPORT_STATUSES, {
  description:
    '`preliminary`: nobody has signed. `final`: signed. `amended`: changed after that. `corrected`: the change is signed too.',
});

const Verification = Type.Object(
  {
    status: reportStatus,
    revision: Type.Integer({ minimum: 1, description: 'Rises with every change of a cell and every signature.' }),
    changedAt: dateTime('When this revision came about.'),
    signedAt: nullable(dateTime('Of the last signature.')),
    signedBy: nullable(Type.String()),
    cellsToReview: Type.Integer({ minimum: 0, description: 'Cells that a person must look at before a signature.' }),
    cellsLeft: Type.Integer({ minimum: 0, description: 'How many of them nobody has looked at.' }),
    before: nullable(
      Type.Object(
        { differential: Type.Ref('Differential'), review: Type.Ref('Review') },
        { description: 'What the service had found, beside what stands now; null while nobody has looked at a cell.' },
      ),
    ),
  },
  { $id: 'Verification', title: 'Verification', description: 'What people did to the result.' },
);

const ReviewChange = Type.Object(
  {
    revision: Type.Integer({ minimum: 2, description: 'The revision of the result that it made.' }),
    kind: literals(['cell', 'signature']),
    reviewer: Type.String(),
    at: dateTime('When.'),
    comment: nullable(Type.String()),
    cell: nullable(Type.String({ description: 'Id of the cell that was looked at; null for a signature.' })),
    classBefore: nullable(literals(CELL_TYPES)),
    classAfter: nullable(literals(CELL_TYPES)),
    statusBefore: reportStatus,
    statusAfter: reportStatus,
    differential: nullable(Type.Ref('Differential')),
  },
  { $id: 'ReviewChange', title: 'ReviewChange' },
);

const ReviewChangeList = Type.Object(
  { items: Type.Array(Type.Ref('ReviewChange')) },
  { $id: 'ReviewChangeList', title: 'ReviewChangeList', description: 'The oldest first.' },
);

const optionalText = (description: string) => nullable(Type.String({ description }));

const Analysis = Type.Object(
  {
    id,
    status,
    createdAt: dateTime('When the request was accepted.'),
    startedAt: nullable(dateTime('When the first image was begun.')),
    completedAt: nullable(dateTime('When the result was stored.')),
    accessionNumber: optionalText('As posted.'),
    specimenId: optionalText('As posted.'),
    orderId: optionalText('As posted.'),
    subjectId: optionalText('As posted.'),
    site: optionalText('As posted.'),
    collectedAt: nullable(dateTime('As posted, in UTC.')),
    callbackUrl: optionalText('As posted.'),
    priority: literals(PRIORITIES),
    targetCells: Type.Integer({ minimum: 1 }),
    wbcCount: nullable(Type.Number({ minimum: 0, description: 'As posted, 10*9/L.' })),
    metadata: nullable(Type.Record(Type.String(), Type.Unknown(), { description: 'As posted.' })),
    model: nullable(Type.Ref('Model')),
    images: Type.Array(Type.Ref('Image')),
    differential: nullable(Type.Ref('Differential')),
    review: nullable(Type.Ref('Review')),
    verification: nullable(Type.Ref('Verification')),
    problem: nullable(Type.Ref('StoredProblem')),
    links: Type.Ref('AnalysisLinks'),
  },
  { $id: 'Analysis', title: 'Analysis' },
);

const AcceptedAnalysis = Type.Object(
  { id, status, links: Type.Ref('AnalysisLinks') },
  { $id: 'AcceptedAnalysis', title: 'AcceptedAnalysis' },
);

const AnalysisSummary = Type.Object(
  {
    id,
    status,
    accessionNumber: optionalText('As posted.'),
    specimenId: optionalText('As posted.'),
    orderId: optionalText('As posted.'),
    priority: literals(PRIORITIES),
    createdAt: dateTime('When the request was accepted.'),
    completedAt: nullable(dateTime('When the result was stored.')),
    imageCount: Type.Integer({ minimum: 1 }),
    totalWbc: nullable(Type.Integer({ minimum: 0, description: 'Null until completed.' })),
    reviewRequired: nullable(Type.Boolean({ description: 'Null until completed.' })),
    verificationStatus: nullable(
      literals(REPORT_STATUSES, { description: '`verification.status` of the analysis; null until completed.' }),
    ),
    links: Type.Ref('AnalysisLinks'),
  },
  { $id: 'AnalysisSummary', title: 'AnalysisSummary' },
);

const PageLinks = Type.Object(
  { next: nullable(link('The next page; null on the last.')) },
  { $id: 'PageLinks', title: 'PageLinks' },
);
const nextCursor = nullable(Type.String({ description: 'For the query parameter `cursor`; null on the last page.' }));

const AnalysisList = Type.Object(
  { items: Type.Array(Type.Ref('AnalysisSummary')), nextCursor, links: Type.Ref('PageLinks') },
  { $id: 'AnalysisList', title: 'AnalysisList', description: 'Newest first.' },
);

const Graded = Type.Object(
  { value: Type.String(), probability: share('Probability of the value among those that the attribute has.') },
  { $id: 'Graded', title: 'Graded', description: 'A value and how sure the model is of it.' },
);

const Morphology = Type.Object(
  {
    attributes: Type.Record(Type.String(), Type.Ref('Graded'), {
      description:
        'By name, as WBCAtt (arXiv:2306.13531) describes white cells: `cellSize`, `cellShape`, `nucleusShape`, `nuclearCytoplasmicRatio`, `chromatinDensity`, `cytoplasmVacuole`, `cytoplasmTexture`, `cytoplasmColour`, `granuleType`, `granuleColour`, `granularity`. The model card says how often each is right.',
    }),
    nuclearAreaRatio: share('Area of the nucleus to that of the cell, measured on the mask.'),
  },
  {
    $id: 'Morphology',
    title: 'Morphology',
    description:
      'What is seen of a nucleated cell; null for platelets, smudge cells, artefacts and unidentified cells.',
  },
);

const Cell = Type.Object(
  {
    id: Type.String({ description: 'Index of the image, hyphen, number; stable.', examples: ['0-1'] }),
    image: Type.Integer({ minimum: 0, description: 'Index of its image.' }),
    box: Type.Object(
      {
        x: Type.Integer(),
        y: Type.Integer(),
        width: Type.Integer({ minimum: 1 }),
        height: Type.Integer({ minimum: 1 }),
      },
      { description: 'Pixels of the posted image after its EXIF orientation; origin top left.' },
    ),
    areaUm2: nullable(Type.Number({ minimum: 0, description: 'µm²; null where the scale is unknown.' })),
    class: literals(CELL_TYPES, { description: 'As the model named it; `unidentified` where it declines.' }),
    reviewedClass: nullable(
      literals(CELL_TYPES, { description: 'The name that a person gave or confirmed, which then counts.' }),
    ),
    reviewedBy: nullable(Type.String()),
    reviewedAt: nullable(dateTime('When a person last looked at it.')),
    confidence: share(
      'Calibrated probability of the most probable class; less where the cell is `out_of_distribution`.',
    ),
    probabilities: Type.Record(Type.String(), share('Probability of the class.'), {
      description: 'One entry for each class of the model; they sum to 1.',
    }),
    // Finer class: band or segmented neutrophils; promyelocyte, myelocyte or metamyelocyte. Null where the class has none.
    subtype: nullable(Type.Ref('Graded')),
    morphology: nullable(Type.Ref('Morphology')),
    saliencyConsistency: share(
      'Agreement of class evidence, saliency, outline and the answer for the cell alone; low finds wrong predictions.',
    ),
    rejectScore: nullable(
      share('How unlike the pictures that the model learnt from; null for cells that an earlier model found.'),
    ),
    flags: Type.Array(Type.String(), { examples: [['border', 'low_confidence']] }),
    counted: Type.Boolean({
      description:
        'Whether it is in the differential: the border rule lets it in, and its image does not repeat another.',
    }),
    links: Type.Object({
      crop: link('What the network saw, PNG.'),
      mask: link('Label mask of `box`, PNG: 0 background, 128 cytoplasm, 255 nucleus.'),
      cam: link('Grad-CAM of the class over the crop, PNG.'),
    }),
  },
  { $id: 'Cell', title: 'Cell' },
);

const CellList = Type.Object(
  {
    items: Type.Array(Type.Ref('Cell')),
    total: Type.Integer({ minimum: 0, description: 'Cells that fit the filters, on all pages.' }),
    nextCursor,
    links: Type.Ref('PageLinks'),
  },
  { $id: 'CellList', title: 'CellList' },
);

/** Every shared schema, in an order in which each is known before it is referred to. */
export const analysisSchemas = [
  AnalysisLinks,
  StoredProblem,
  ImageQuality,
  Model,
  Image,
  Differential,
  Review,
  Verification,
  ReviewChange,
  ReviewChangeList,
  Analysis,
  AcceptedAnalysis,
  AnalysisSummary,
  PageLinks,
  AnalysisList,
  Graded,
  Morphology,
  Cell,
  CellList,
];
