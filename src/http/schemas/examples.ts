/** Examples for the contract. `redocly lint` holds them against the schemas. */
import { auditBundle } from '../../reporting/audit-event.js';
import { homeDocument } from '../routes/home.js';

const ID = '0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e';
const SELF = `/analyses/${ID}`;
const LINKS = {
  self: SELF,
  cells: `${SELF}/cells`,
  changes: `${SELF}/changes`,
  fhir: `${SELF}/fhir`,
  hl7: `${SELF}/hl7`,
};
const IMAGE = `/analyses/${ID}/images/0`;

const ACCEPTED = { id: ID, status: 'queued', links: LINKS };

const COUNTS = [
  ['neutrophil', 66, 63.46, 53.45, 72.68],
  ['lymphocyte', 27, 25.96, 17.86, 35.47],
  ['monocyte', 7, 6.73, 2.75, 13.38],
  ['eosinophil', 3, 2.88, 0.6, 8.2],
  ['basophil', 1, 0.96, 0.02, 5.24],
  ['immature_granulocyte', 0, 0, 0, 3.48],
  ['blast', 0, 0, 0, 3.48],
] as const;

const ANALYSIS = {
  id: ID,
  status: 'completed',
  accessionNumber: 'H-26-001234',
  specimenId: null,
  orderId: null,
  subjectId: null,
  site: null,
  collectedAt: '2026-11-20T07:15:00.000Z',
  callbackUrl: null,
  priority: 'routine',
  targetCells: 100,
  wbcCount: 7.2,
  metadata: { instrument: 'bench 3' },
  createdAt: '2026-11-20T08:00:00.000Z',
  startedAt: '2026-11-20T08:00:00.040Z',
  completedAt: '2026-11-20T08:00:01.120Z',
  model: { name: 'sg-cldff', version: '1.3.1', sha256: '5f'.repeat(32), executionProvider: 'cpu' },
  images: [
    {
      index: 0,
      filename: 'smear.jpg',
      contentType: 'image/jpeg',
      byteLength: 1_482_113,
      sha256: 'a3'.repeat(32),
      duplicateOf: null,
      repeatOf: null,
      width: 2592,
      height: 1944,
      status: 'completed',
      micronsPerPixel: 0.162,
      scaleSource: 'estimated',
      scaleConfidence: 0.93,
      quality: {
        sharpness: 214.5,
        brightness: 0.78,
        clipped: 0.001,
        background: 0.46,
        stain: { density: 0.31, balance: 0.62 },
        flags: [],
      },
      saliencyConsistency: 0.87,
      cellCount: 112,
      model: { name: 'sg-cldff', version: '1.2.0', sha256: '5f'.repeat(32), executionProvider: 'cpu' },
      timingsMs: { decode: 61, scale: 38, locate: 210, infer: 690, postprocess: 44 },
      problem: null,
      links: {
        original: `${IMAGE}/original`,
        mask: `${IMAGE}/mask.png`,
        overlay: `${IMAGE}/overlay.png`,
        saliency: `${IMAGE}/saliency.png`,
        cells: `/analyses/${ID}/cells?image=0`,
      },
    },
  ],
  differential: {
    totalWbc: 104,
    targetCells: 100,
    targetReached: true,
    denominator: 'totalWbc',
    classes: COUNTS.map(([name, count, percent, low, high]) => ({
      class: name,
      count,
      percent,
      ci95: { low, high },
      absoluteCount: Math.round((7200 * count) / 104) / 1000,
    })),
    others: [
      { class: 'erythroblast', count: 0 },
      { class: 'platelet', count: 4 },
      { class: 'smudge', count: 0 },
      { class: 'artefact', count: 1 },
      { class: 'unidentified', count: 0 },
    ],
    notCounted: 3,
    countingRule: 'Cells that the right or bottom border cuts are not counted; those that the left or top cuts are.',
    nrbcPer100Wbc: 0,
    wbcCount: 7.2,
    wbcCountCorrected: 7.2,
  },
  review: { required: false, reasons: [] },
  verification: {
    status: 'preliminary',
    revision: 1,
    changedAt: '2026-11-20T08:00:01.120Z',
    signedAt: null,
    signedBy: null,
    cellsToReview: 0,
    cellsLeft: 0,
    before: null,
  },
  problem: null,
  links: LINKS,
};

const CELL = {
  id: '0-0',
  image: 0,
  box: { x: 1204, y: 388, width: 84, height: 79 },
  areaUm2: 128.4,
  class: 'neutrophil',
  reviewedClass: null,
  reviewedBy: null,
  reviewedAt: null,
  confidence: 0.981,
  probabilities: {
    neutrophil: 0.981,
    lymphocyte: 0.002,
    monocyte: 0.006,
    eosinophil: 0.004,
    basophil: 0.001,
    immature_granulocyte: 0.005,
    blast: 0.001,
    erythroblast: 0,
    platelet: 0,
    artefact: 0,
  },
  subtype: { value: 'segmented', probability: 0.94 },
  morphology: {
    attributes: {
      nucleusShape: { value: 'segmented-multilobed', probability: 0.93 },
      chromatinDensity: { value: 'densely', probability: 0.99 },
      granuleType: { value: 'small', probability: 0.97 },
      cytoplasmVacuole: { value: 'no', probability: 0.98 },
    },
    nuclearAreaRatio: 0.37,
  },
  saliencyConsistency: 0.91,
  rejectScore: 0.01,
  flags: [],
  counted: true,
  links: {
    crop: `/analyses/${ID}/cells/0-0/crop.png`,
    mask: `/analyses/${ID}/cells/0-0/mask.png`,
    cam: `/analyses/${ID}/cells/0-0/cam.png`,
  },
};

const ENDPOINT_ID = '0193a5b0-11d2-7a60-8f4e-6f1a2b3c4d5e';
const ENDPOINT = {
  id: ENDPOINT_ID,
  url: 'https://lis.example/hooks/leukodiff',
  description: 'LIS of the central laboratory',
  eventTypes: ['analysis.completed', 'analysis.failed', 'analysis.signed'],
  enabled: true,
  disabledAt: null,
  disabledReason: null,
  failingSince: null,
  lastDeliveredAt: '2026-11-20T08:00:06.410Z',
  previousSecretUntil: null,
  createdAt: '2026-11-19T14:00:00.000Z',
  updatedAt: '2026-11-19T14:00:00.000Z',
  links: {
    self: `/webhook-endpoints/${ENDPOINT_ID}`,
    deliveries: `/webhook-endpoints/${ENDPOINT_ID}/deliveries`,
  },
};

const DELIVERY_ID = '0193a5b2-7001-7b1c-a1d2-93c4e5f60718';
const DELIVERY = {
  id: DELIVERY_ID,
  messageId: `msg_${DELIVERY_ID}`,
  eventType: 'analysis.completed',
  analysisId: ID,
  endpointId: ENDPOINT_ID,
  url: ENDPOINT.url,
  status: 'delivered',
  attempts: 2,
  nextAttemptAt: null,
  lastStatus: 204,
  lastError: null,
  createdAt: '2026-11-20T08:00:01.120Z',
  deliveredAt: '2026-11-20T08:00:06.410Z',
  links: { self: `/webhook-deliveries/${DELIVERY_ID}` },
};

const KEY = {
  id: 'k3v9x0q2m7ab',
  laboratory: 'default',
  name: 'LIS, production',
  scopes: ['submit', 'read'],
  createdAt: '2026-11-19T14:00:00.000Z',
  createdBy: null,
  expiresAt: null,
  revokedAt: null,
  lastUsedAt: '2026-11-20T08:00:00.000Z',
  replacedBy: null,
};

const AUDIT_ID = '0193a5b2-6a90-7f11-8a2b-1c2d3e4f5a6b';
const AUDIT_ENTRY = {
  id: AUDIT_ID,
  at: '2026-11-20T08:00:00.000Z',
  laboratory: 'default',
  actorKind: 'key',
  actorId: KEY.id,
  operation: 'analyze',
  method: 'POST',
  route: '/analyze',
  subjectId: ID,
  status: 202,
  outcome: 'success',
  remote: '10.20.0.7',
  requestId: 'b8f7a1de-6a0e-4a35-8a6e-5d4f2c1b0a99',
} as const;

const SIGNATURE = { reviewer: 'mlopez', comment: 'two fields looked at again' };

/** Of bodies that are sent, by operation. */
export const BODY_EXAMPLES: Readonly<Record<string, object>> = {
  createKey: { name: KEY.name, scopes: KEY.scopes, expiresInDays: 365 },
  createWebhookEndpoint: {
    url: ENDPOINT.url,
    description: ENDPOINT.description,
    eventTypes: ENDPOINT.eventTypes,
  },
  updateWebhookEndpoint: { enabled: true },
  reviewCell: { class: 'monocyte', reviewer: 'mlopez', comment: 'kidney-shaped nucleus' },
  signAnalysis: SIGNATURE,
};

/** By the name of the schema that an answer has. */
export const EXAMPLES: Readonly<Record<string, object>> = {
  AcceptedAnalysis: ACCEPTED,
  Analysis: ANALYSIS,
  AnalysisList: {
    items: [
      {
        id: ID,
        status: 'completed',
        accessionNumber: 'H-26-001234',
        specimenId: null,
        orderId: null,
        priority: 'routine',
        createdAt: ANALYSIS.createdAt,
        completedAt: ANALYSIS.completedAt,
        imageCount: 1,
        totalWbc: 104,
        reviewRequired: false,
        verificationStatus: 'preliminary',
        links: LINKS,
      },
    ],
    nextCursor: null,
    links: { next: null },
  },
  Home: homeDocument('0.1.0'),
  Alive: { status: 'alive' },
  ApiKey: KEY,
  ApiKeyList: { items: [KEY] },
  CreatedApiKey: { key: { ...KEY, lastUsedAt: null }, token: `lk_${KEY.id}_${'x'.repeat(43)}` },
  AuditList: { items: [AUDIT_ENTRY], nextCursor: null, links: { next: null } },
  AuditBundle: auditBundle([AUDIT_ENTRY], {
    self: '/audit/fhir?limit=1',
    next: `/audit/fhir?limit=1&cursor=${AUDIT_ID}`,
  }),
  FhirBundle: {
    resourceType: 'Bundle',
    type: 'collection',
    timestamp: '2026-11-20T08:12:40.000Z',
    entry: [
      {
        fullUrl: 'urn:uuid:0193a5b2-6a5c-8c3e-9d53-0f7a3b1c2d4f',
        resource: {
          resourceType: 'DiagnosticReport',
          status: 'final',
          code: { text: 'Leukocyte differential by image analysis' },
          issued: '2026-11-20T08:12:40.000Z',
        },
      },
    ],
  },
  Cell: CELL,
  CellList: { items: [CELL], total: 1, nextCursor: null, links: { next: null } },
  ReviewChangeList: {
    items: [
      {
        revision: 2,
        kind: 'cell',
        reviewer: 'mlopez',
        at: '2026-11-20T08:12:40.000Z',
        comment: 'segmented nucleus',
        cell: '0-17',
        classBefore: 'unidentified',
        classAfter: 'neutrophil',
        statusBefore: 'preliminary',
        statusAfter: 'preliminary',
        differential: null,
      },
    ],
  },
  Ready: {
    status: 'ready',
    checks: [
      { name: 'database', ok: true, detail: 'answers in 1 ms' },
      { name: 'queue', ok: true, detail: 'postgres' },
      { name: 'model', ok: true, detail: 'sg-cldff 1.3.1 on cpu' },
    ],
  },
  PingEvent: { type: 'webhook.ping', timestamp: ANALYSIS.completedAt, data: { endpointId: ENDPOINT_ID } },
  WebhookEndpoint: ENDPOINT,
  WebhookEndpointWithSecret: { ...ENDPOINT, secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw' },
  WebhookEndpointList: { items: [ENDPOINT] },
  WebhookDelivery: {
    ...DELIVERY,
    attemptLog: [
      { at: '2026-11-20T08:00:06.410Z', durationMs: 41, httpStatus: 204, error: null },
      { at: '2026-11-20T08:00:01.180Z', durationMs: 12, httpStatus: 503, error: 'the receiver answered 503' },
    ],
  },
  WebhookDeliveryList: { items: [DELIVERY], nextCursor: null, links: { next: null } },
  WebhookReplay: { replayed: 12, more: false },
  WebhookEvent: {
    type: 'analysis.completed',
    timestamp: ANALYSIS.completedAt,
    data: {
      id: ID,
      status: 'completed',
      accessionNumber: 'H-26-001234',
      specimenId: null,
      orderId: null,
      totalWbc: 104,
      reviewRequired: false,
      links: { self: LINKS.self, cells: LINKS.cells },
    },
  },
};
