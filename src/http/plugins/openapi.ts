/** The contract: an OpenAPI 3.1 document made from the schemas of the routes, and the pages that show it. */
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { FastifySchema } from 'fastify';
import type { OpenAPIV3_1 } from 'openapi-types';
import type { WebhookEventType } from '../../reporting/webhook-event.js';
import type { HttpDeps } from '../deps.js';
import { PROBLEM_TYPE_BASE, PROBLEMS, type ProblemSlug } from '../problems.js';
import { healthSchemas } from '../routes/health.js';
import { homeSchema } from '../routes/home.js';
import { analysisSchemas } from '../schemas/analysis.js';
import { auditSchemas } from '../schemas/audit.js';
import { BODY_EXAMPLES, EXAMPLES } from '../schemas/examples.js';
import { keySchemas } from '../schemas/keys.js';
import { analyzeFormSchema } from '../schemas/order.js';
import { ProblemSchema } from '../schemas/problem.js';
import { reportSchemas } from '../schemas/reports.js';
import { reviewSchemas } from '../schemas/review.js';
import { webhookSchemas } from '../schemas/webhook.js';
import type { App } from '../types.js';
import type { Access } from './access.js';

/** What any address may answer, because it can happen before the address is looked at. */
const EVERYWHERE: readonly ProblemSlug[] = [
  'malformed-request',
  'not-acceptable',
  'header-too-large',
  'internal-error',
  'shutting-down',
  'database-unavailable',
];

/** What an address that asks for a key may answer besides. */
const SECURED: readonly ProblemSlug[] = [
  'unauthenticated',
  'insufficient-scope',
  'rate-limited',
  'identity-provider-unavailable',
];

const RATE_LIMIT_HEADERS: Record<string, OpenAPIV3_1.HeaderObject> = {
  'RateLimit-Policy': {
    description: 'Requests (`q`) in a window of seconds (`w`) that one key may send.',
    schema: { type: 'string' },
    example: '"caller";q=6000;w=60',
  },
  RateLimit: {
    description: 'Requests that are left (`r`), and the seconds until all are back (`t`).',
    schema: { type: 'string' },
    example: '"caller";r=5999;t=1',
  },
};

const DESCRIPTION = [
  'Finds every white blood cell in photographs of blood smears, outlines and classifies it with the SG-CLDFF network, and answers with a differential count that says how sure it is and when a person must look.',
  "Send an API key with every request: `Authorization: Bearer lk_…`. The first start of the service makes one; `leukodiff keys` and `/keys` make others. A key belongs to a laboratory, and what is another laboratory's is answered 404.",
  'Post images to `/analyze`; read the result under the address in `Location`. Results are preliminary until a person has reviewed them. Every error is an RFC 9457 problem document whose `type` is stable and whose `detail` says what to do.',
].join('\n\n');

export async function registerOpenApi(app: App, deps: HttpDeps): Promise<void> {
  const schemas = [
    ProblemSchema,
    analyzeFormSchema(deps.config.maxImages),
    ...analysisSchemas,
    ...reviewSchemas,
    ...reportSchemas,
    ...keySchemas,
    ...auditSchemas,
    ...healthSchemas,
    homeSchema,
    ...webhookSchemas,
  ];
  for (const schema of schemas) app.addSchema(schema);

  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Leukodiff',
        version: deps.version,
        description: DESCRIPTION,
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } as OpenAPIV3_1.LicenseObject,
      },
      servers: [{ url: deps.config.publicUrl ?? '/' }],
      components: {
        securitySchemes: {
          bearer: {
            type: 'http',
            scheme: 'bearer',
            description:
              'An API key (`lk_…`), or an access token of the identity provider that the site has configured (OIDC_ISSUER). `leukodiff keys create` or `POST /keys` makes keys.',
          },
          apiKey: {
            type: 'apiKey',
            in: 'header',
            name: 'X-Api-Key',
            description: 'An API key, for clients that cannot set Authorization.',
          },
        },
      },
      tags: [
        { name: 'Analyses', description: 'Orders with their images, and what was found.' },
        { name: 'Images', description: 'The posted images and pictures of their results.' },
        { name: 'Cells', description: 'The found cells, one by one.' },
        { name: 'Webhooks', description: 'Who is told about events, and what became of it. See docs/webhooks.md.' },
        { name: 'Review', description: 'What people do to a result before it is final.' },
        { name: 'Reports', description: 'Results in the languages of laboratory systems.' },
        { name: 'Keys', description: 'API keys of the own laboratory.' },
        { name: 'Audit', description: 'Who did what.' },
        { name: 'Operation', description: 'For those who run the service.' },
      ],
    },
    refResolver: { buildLocalReference: (json, _baseUri, _fragment, i) => String(json['$id'] ?? `schema-${i}`) },
    transform: ({ schema, url, route }) => ({ schema: secured(schema as DescribedSchema, route.config?.access), url }),
    transformObject: (parts) => {
      if (!('openapiObject' in parts)) return parts.swaggerObject;
      return complete(parts.openapiObject as OpenAPIV3_1.Document, deps) as typeof parts.openapiObject;
    },
  });

  await app.register(swaggerUi, {
    routePrefix: '/docs',
    staticCSP: true,
    // The page sets style attributes from its own script; other hosts, which the default allows, it never asks.
    transformStaticCSP: (header) => header.replace("style-src 'self' https:", "style-src 'self' 'unsafe-inline'"),
    theme: { title: 'Leukodiff' },
    uiConfig: { displayRequestDuration: true, tryItOutEnabled: true },
  });

  let document: string | undefined;
  app.get(
    '/openapi.json',
    { schema: { hide: true }, config: { access: 'open', produces: 'application/json' } },
    (_request, reply) => {
      document ??= JSON.stringify(app.swagger());
      return reply.type('application/json').send(document);
    },
  );
}

interface DescribedSchema extends FastifySchema {
  readonly 'x-problems'?: readonly ProblemSlug[];
}

/** What the route asks for, as the contract says it: a scheme, and the scope that the key or token must have. */
function secured(schema: DescribedSchema, access: Access | undefined): DescribedSchema {
  if (schema === undefined || access === undefined) return schema;
  if (access === 'open') return { ...schema, security: [] };
  const scopes = [access === 'metrics' ? 'admin' : access];
  return {
    ...schema,
    security: [{ bearer: scopes }, { apiKey: scopes }, ...(access === 'metrics' ? [{}] : [])],
    'x-problems': [...(schema['x-problems'] ?? []), ...SECURED],
  };
}

type Operation = OpenAPIV3_1.OperationObject & { 'x-problems'?: readonly ProblemSlug[] };

/** Adds what route schemas cannot say: the problems with their examples, and the encoding of the multipart form. */
function complete(document: OpenAPIV3_1.Document, deps: HttpDeps): OpenAPIV3_1.Document {
  const used = new Set<ProblemSlug>();
  for (const item of Object.values(document.paths ?? {})) {
    for (const operation of [item?.get, item?.post, item?.patch, item?.delete] as (Operation | undefined)[]) {
      if (operation === undefined) continue;
      for (const answer of Object.values(operation.responses ?? {})) addExample(answer as OpenAPIV3_1.ResponseObject);
      addBodyExample(operation);
      const slugs = [...(operation['x-problems'] ?? []), ...EVERYWHERE];
      operation.responses = { ...operation.responses, ...problemResponses(slugs) };
      delete operation['x-problems'];
      for (const slug of slugs) used.add(slug);
    }
  }
  const slugs = (Object.keys(PROBLEMS) as ProblemSlug[]).filter((slug) => used.has(slug));
  document.components = {
    ...document.components,
    examples: Object.fromEntries(slugs.map((slug) => [slug, example(slug)])),
  };
  completeForm(document, deps);
  document.webhooks = WEBHOOKS;
  return document;
}

function addExample(answer: OpenAPIV3_1.ResponseObject): void {
  const media = answer.content?.['application/json'] ?? answer.content?.['application/fhir+json'];
  const reference = media?.schema !== undefined && '$ref' in media.schema ? media.schema.$ref : '';
  const example = EXAMPLES[reference.replace('#/components/schemas/', '')];
  if (media !== undefined && example !== undefined) media.example = example;
}

function addBodyExample({ operationId = '', requestBody }: Operation): void {
  const media =
    requestBody !== undefined && 'content' in requestBody ? requestBody.content['application/json'] : undefined;
  const example = BODY_EXAMPLES[operationId];
  if (media !== undefined && example !== undefined) media.example = example;
}

const webhookHeader = (name: string, description: string): OpenAPIV3_1.ParameterObject => ({
  name,
  in: 'header',
  required: true,
  description,
  schema: { type: 'string' },
});

/** One event that receivers are told. Which of them an endpoint receives is its own choice. */
function webhook(operationId: string, summary: string, description: string, schema: string, example: unknown) {
  return {
    post: {
      operationId,
      // The signature is the proof; receivers ask for no key.
      security: [],
      tags: ['Webhooks'],
      summary,
      description: `${description} Sent as a Standard Webhook, and sent again with growing pauses until it is answered with 2xx.`,
      parameters: [
        webhookHeader('webhook-id', 'The same over all attempts and replays: what came before can be dropped.'),
        webhookHeader(
          'webhook-timestamp',
          'Of this attempt, seconds since 1970. Refuse what is older than five minutes.',
        ),
        webhookHeader(
          'webhook-signature',
          '`v1,` and the HMAC-SHA256 over `id.timestamp.body` in base64. While a secret is changed there are two, separated by a space; one that fits is enough.',
        ),
      ],
      requestBody: {
        required: true,
        content: { 'application/json': { schema: { $ref: `#/components/schemas/${schema}` }, example } },
      },
      responses: {
        '2XX': { description: 'Received.' },
        '410': { description: 'Nothing more is wanted: the endpoint is disabled, the delivery given up.' },
        '429': { description: 'Not now. `Retry-After` is honoured, up to a day.' },
        '4XX': { description: 'Refused; it will be sent again.' },
        '5XX': { description: 'Not received; it will be sent again.' },
      },
    },
  } as OpenAPIV3_1.PathItemObject;
}

const eventExample = (type: WebhookEventType, more: object = {}): unknown => {
  const base = EXAMPLES['WebhookEvent'] as { readonly data: object };
  return { ...base, type, data: { ...base.data, ...more } };
};

const WEBHOOKS: Record<WebhookEventType | 'webhook.ping', OpenAPIV3_1.PathItemObject> = {
  'analysis.completed': webhook(
    'onAnalysisCompleted',
    'An analysis has a result',
    'The result is preliminary until a person has reviewed it. Goes to `callbackUrl` and to endpoints.',
    'WebhookEvent',
    eventExample('analysis.completed'),
  ),
  'analysis.failed': webhook(
    'onAnalysisFailed',
    'An analysis has no result',
    '`problem` of the analysis says why. Goes to `callbackUrl` and to endpoints.',
    'WebhookEvent',
    eventExample('analysis.failed', { status: 'failed', totalWbc: null, reviewRequired: null }),
  ),
  'analysis.review_required': webhook(
    'onAnalysisReviewRequired',
    'A person has to look at a result',
    'Beside `analysis.completed`, for those who want nothing else. Goes to endpoints.',
    'WebhookEvent',
    eventExample('analysis.review_required', { reviewRequired: true }),
  ),
  'analysis.signed': webhook(
    'onAnalysisSigned',
    'A person has made a result final',
    'Again for every signature; fetch the analysis anew. Goes to `callbackUrl` and to endpoints.',
    'WebhookEvent',
    eventExample('analysis.signed'),
  ),
  'webhook.ping': webhook(
    'onWebhookPing',
    'A test',
    'When somebody asks for it. Answer 2xx; there is nothing else to do.',
    'PingEvent',
    EXAMPLES['PingEvent'],
  ),
};

/** One response for each status, with an example for each problem. */
function problemResponses(slugs: readonly ProblemSlug[]): OpenAPIV3_1.ResponsesObject {
  const responses: Record<string, OpenAPIV3_1.ResponseObject> = {};
  const statuses = [...new Set(slugs.map((slug) => PROBLEMS[slug].status))].sort((a, b) => a - b);
  for (const status of statuses) {
    const kinds = [...new Set(slugs)].filter((slug) => PROBLEMS[slug].status === status);
    const retries = [409, 429, 503].includes(status);
    responses[status] = {
      description: kinds.map((slug) => `\`${slug}\`: ${PROBLEMS[slug].title}.`).join(' '),
      headers: {
        'X-Request-Id': { description: 'Names the request in the log of the service.', schema: { type: 'string' } },
        ...(retries
          ? { 'Retry-After': { description: 'Seconds after which to try again.', schema: { type: 'integer' } } }
          : {}),
        ...(kinds.includes('rate-limited') ? RATE_LIMIT_HEADERS : {}),
        ...(status === 401 || kinds.includes('insufficient-scope')
          ? { 'WWW-Authenticate': { description: 'What is asked for (RFC 6750).', schema: { type: 'string' } } }
          : {}),
      },
      content: {
        'application/problem+json': {
          schema: { $ref: '#/components/schemas/Problem' },
          examples: Object.fromEntries(kinds.map((slug) => [slug, { $ref: `#/components/examples/${slug}` }])),
        },
      },
    };
  }
  return responses;
}

function example(slug: ProblemSlug): OpenAPIV3_1.ExampleObject {
  const { title, status, advice } = PROBLEMS[slug];
  return {
    summary: title,
    value: {
      type: `${PROBLEM_TYPE_BASE}${slug}`,
      title,
      status,
      detail: advice,
      instance: '/analyses/0193a5b2-6a5c-7c3e-9d53-0f7a3b1c2d4e',
      requestId: 'b8f7a1de-6a0e-4a35-8a6e-5d4f2c1b0a99',
    },
  };
}

function completeForm(document: OpenAPIV3_1.Document, deps: HttpDeps): void {
  const body = document.paths?.['/analyze']?.post?.requestBody;
  const form = body !== undefined && 'content' in body ? body.content['multipart/form-data'] : undefined;
  if (form === undefined) return;
  form.encoding = {
    images: { contentType: 'image/jpeg, image/png, image/tiff, image/webp, image/bmp, application/octet-stream' },
    metadata: { contentType: 'application/json, text/plain' },
  };
  const { maxImages, maxImageBytes, maxRequestBytes, maxFieldBytes } = deps.config;
  (body as OpenAPIV3_1.RequestBodyObject).description =
    `At most ${maxImages} images of at most ${maxImageBytes} bytes, ${maxRequestBytes} bytes together, ${maxFieldBytes} bytes a field.`;
}
