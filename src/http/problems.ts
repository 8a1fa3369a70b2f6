/**
 * Every problem that the service answers with, in one table (RFC 9457). `type` is `https://leukodiff.dev/problems/` and
 * the slug; a slug is never renamed or given another meaning, because integrators branch on it.
 */

export const PROBLEM_TYPE_BASE = 'https://leukodiff.dev/problems/';

interface ProblemKind {
  readonly title: string;
  readonly status: number;
  /** What the caller can do: the `detail` where the place that throws knows nothing better. */
  readonly advice: string;
}

export const PROBLEMS = {
  'malformed-request': {
    title: 'The request is not well-formed HTTP',
    status: 400,
    advice: 'Check the request line, the headers and the transfer encoding that the client writes.',
  },
  'malformed-json': {
    title: 'The body is not JSON',
    status: 400,
    advice: 'Send one JSON object in UTF-8, as the reference at GET /docs shows it.',
  },
  'malformed-multipart': {
    title: 'The multipart body cannot be read',
    status: 400,
    advice:
      'Send multipart/form-data whose Content-Type header names the boundary that the body uses, complete to its closing boundary. Let the HTTP library set the header. Example: curl -F images=@smear.jpg http://127.0.0.1:3000/analyze',
  },
  'unknown-field': {
    title: 'The form has a field that does not exist',
    status: 400,
    advice: 'Correct or remove the fields named in `errors`; nothing was stored.',
  },
  'invalid-parameters': {
    title: 'A path or query parameter is not valid',
    status: 400,
    advice: 'Correct the parameters named in `errors`.',
  },
  unauthenticated: {
    title: 'The request says not who asks, or not in a way that is known here',
    status: 401,
    advice:
      'Send an API key: `Authorization: Bearer lk_…`, or `X-Api-Key: lk_…`. The first key lies in DATA_DIR/first-key; `leukodiff keys create` makes others.',
  },
  'insufficient-scope': {
    title: 'The key or token may not do this',
    status: 403,
    advice: 'Use a key with the scope that the detail names, or ask an administrator of your laboratory for one.',
  },
  'not-found': {
    title: 'Nothing is found at this address',
    status: 404,
    advice: 'Check the address; GET /docs lists every address of this service.',
  },
  'analysis-not-found': {
    title: 'There is no such analysis',
    status: 404,
    advice: 'Check the id. It may have been deleted, on request or by the retention period.',
  },
  'image-not-found': {
    title: 'The analysis has no such image',
    status: 404,
    advice: 'GET /analyses/{id} lists the images with their indexes.',
  },
  'cell-not-found': {
    title: 'The analysis has no such cell',
    status: 404,
    advice: 'GET /analyses/{id}/cells lists the cells with their ids.',
  },
  'webhook-endpoint-not-found': {
    title: 'There is no such webhook endpoint',
    status: 404,
    advice: 'GET /webhook-endpoints lists the endpoints with their ids.',
  },
  'delivery-not-found': {
    title: 'There is no such delivery',
    status: 404,
    advice:
      'GET /webhook-endpoints/{id}/deliveries lists them. They are removed with their analysis or their endpoint.',
  },
  'key-not-found': {
    title: 'The laboratory has no such key',
    status: 404,
    advice: 'GET /keys lists the keys of your laboratory with their ids.',
  },
  'method-not-allowed': {
    title: 'This address does not take this method',
    status: 405,
    advice: 'Use one of the methods in the Allow header.',
  },
  'not-acceptable': {
    title: 'The answer does not exist in a media type that the request accepts',
    status: 406,
    advice: 'Leave the Accept header out, or accept the media type that the detail names.',
  },
  'upload-timeout': {
    title: 'The upload took too long',
    status: 408,
    advice: 'Nothing was stored. Send fewer or smaller images in one request, or raise UPLOAD_TIMEOUT_SECONDS.',
  },
  'analysis-failed': {
    title: 'The analysis came to no result',
    status: 409,
    advice: 'There is nothing to report or to sign. GET /analyses/{id} states why under problem.',
  },
  'review-incomplete': {
    title: 'The result cannot be signed yet',
    status: 409,
    advice:
      'Look at the cells named in `errors` first: PATCH /analyses/{id}/cells/{cellId} with the class that you see.',
  },
  'own-work': {
    title: 'Somebody else has to sign the result',
    status: 409,
    advice:
      'The site asks for four eyes (SIGNATURES=four-eyes): let somebody sign who has looked at none of its cells since the last signature.',
  },
  'already-signed': {
    title: 'The result is signed already',
    status: 409,
    advice: 'Nothing has changed since it was signed. Change a cell first if the result has to be corrected.',
  },
  'analysis-not-finished': {
    title: 'The analysis is not finished',
    status: 409,
    advice: 'Ask again after the seconds in Retry-After.',
  },
  'image-failed': {
    title: 'The image could not be analysed',
    status: 409,
    advice: 'There is nothing to draw for this image. GET /analyses/{id} states why under images[].problem.',
  },
  'endpoint-disabled': {
    title: 'The webhook endpoint is disabled',
    status: 409,
    advice: 'Enable it first: PATCH /webhook-endpoints/{id} with {"enabled": true}. `disabledReason` says why it is.',
  },
  'too-many-endpoints': {
    title: 'The laboratory has too many webhook endpoints',
    status: 409,
    advice: 'Delete an endpoint that is not used any more.',
  },
  'precondition-failed': {
    title: 'The result has changed since it was read',
    status: 412,
    advice:
      'Nothing was changed. Read GET /analyses/{id} again, look at what changed, and send its new ETag in If-Match.',
  },
  'precondition-required': {
    title: 'The request does not say which state of the result it means',
    status: 428,
    advice: 'Nothing was changed. Send the ETag of GET /analyses/{id} in If-Match.',
  },
  'idempotency-key-in-flight': {
    title: 'An order with this Idempotency-Key is being stored right now',
    status: 409,
    advice: 'Send the same request again after the seconds in Retry-After; it is then answered as the first one was.',
  },
  'key-not-valid': {
    title: 'The key is not valid any more',
    status: 409,
    advice: 'It was revoked or rotated, or has expired. Make a new one with POST /keys.',
  },
  'image-removed': {
    title: 'The posted image was removed',
    status: 410,
    advice: 'It was removed on request or by its retention period (RETENTION_IMAGES_DAYS); the result stays.',
  },
  'masks-removed': {
    title: 'The pictures of the result were removed',
    status: 410,
    advice: 'They were removed on request or by their retention period (RETENTION_MASKS_DAYS); the numbers stay.',
  },
  'too-many-images': {
    title: 'The request has too many images',
    status: 413,
    advice: 'Nothing was stored. Send the images in several requests, or raise MAX_IMAGES.',
  },
  'too-many-fields': {
    title: 'The form has too many parts',
    status: 413,
    advice: 'Nothing was stored. Send every field once.',
  },
  'request-too-large': {
    title: 'The request is too large',
    status: 413,
    advice: 'Nothing was stored. Send the images in several requests, or raise MAX_REQUEST_BYTES.',
  },
  'image-too-large': {
    title: 'An image is too large',
    status: 413,
    advice:
      'Nothing was stored. Send the field in tiles or at a lower resolution, or raise MAX_IMAGE_BYTES or MAX_IMAGE_PIXELS.',
  },
  'unsupported-media-type': {
    title: 'The body is not in a media type that this address takes',
    status: 415,
    advice:
      'Send JSON as application/json, and images as multipart/form-data in the field `images`. Example: curl -F images=@smear.jpg http://127.0.0.1:3000/analyze',
  },
  'unsupported-image-format': {
    title: 'A file is not an image in a supported format',
    status: 415,
    advice: 'Nothing was stored. Send JPEG, PNG, TIFF, WebP or BMP; the content decides, not the file name.',
  },
  'invalid-fields': {
    title: 'Form fields are missing or have values that cannot be used',
    status: 422,
    advice: 'Nothing was stored. Correct the fields named in `errors` and send the request again.',
  },
  'idempotency-key-reused': {
    title: 'This Idempotency-Key came with another order before',
    status: 422,
    advice:
      'Nothing was stored. Use a new key for every order, and the same key only to send exactly the same fields and images again.',
  },
  'invalid-image': {
    title: 'A file is an image that cannot be read',
    status: 422,
    advice: 'Nothing was stored. Export the files named in `errors` again and send the request again.',
  },
  'queue-full': {
    title: 'Too many images are waiting',
    status: 429,
    advice: 'Nothing was stored. Send the request again after the seconds in Retry-After.',
  },
  'rate-limited': {
    title: 'Too many requests came in a short time',
    status: 429,
    advice: 'Send the request again after the seconds in Retry-After; RateLimit-Policy states the limit.',
  },
  'header-too-large': {
    title: 'The request headers are too large',
    status: 431,
    advice: 'Send fewer or shorter headers and cookies.',
  },
  'internal-error': {
    title: 'The service failed',
    status: 500,
    advice: 'This is a defect of the service. Report it with the `requestId`, which the log carries too.',
  },
  'storage-full': {
    title: 'The service has no room left',
    status: 507,
    advice:
      'Nothing was stored. Free space on the disk of the service or of its database, then send the request again.',
  },
  'identity-provider-unavailable': {
    title: 'The identity provider cannot be reached',
    status: 503,
    advice:
      'The token could not be checked. Send the request again after the seconds in Retry-After, or use an API key.',
  },
  'not-ready': {
    title: 'The service is not ready',
    status: 503,
    advice: 'What is missing is named in `errors`. Send no orders here until GET /health/ready answers 200.',
  },
  'shutting-down': {
    title: 'The service is shutting down',
    status: 503,
    advice: 'Nothing was stored. Send the request again after the seconds in Retry-After.',
  },
  'database-unavailable': {
    title: 'The database cannot be reached',
    status: 503,
    advice:
      'Nothing was stored. Send the request again after the seconds in Retry-After; GET /health/ready tells when the database is back.',
  },
  'image-storage-unavailable': {
    title: 'The storage of the images cannot be reached',
    status: 503,
    advice:
      'Nothing was stored. Send the request again after the seconds in Retry-After; GET /health/ready tells when the storage is back.',
  },
} as const satisfies Record<string, ProblemKind>;

export type ProblemSlug = keyof typeof PROBLEMS;

/** One thing that is wrong; a problem with several causes lists them all, so that one round of correction is enough. */
export interface ProblemCause {
  /** The field, parameter or file: `targetCells`, `images[3]`. Never its value. */
  readonly field: string;
  readonly detail: string;
  /** Slug of this cause where it differs between the causes of one problem. */
  readonly code?: string;
  /** The name that a file came with. */
  readonly filename?: string;
}

/** The document itself, as it is sent with `application/problem+json`. */
export interface ProblemDocument {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  /** Path of the request, without its query (which may hold an accession number). */
  readonly instance: string;
  readonly requestId: string;
  readonly errors?: readonly ProblemCause[];
}

export interface ProblemOptions {
  readonly detail?: string;
  readonly errors?: readonly ProblemCause[];
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** Thrown anywhere below a route; the error handler turns it into the answer. */
export class ProblemError extends Error {
  override readonly name = 'ProblemError';
  readonly slug: ProblemSlug;
  readonly statusCode: number;
  readonly detail: string;
  readonly errors: readonly ProblemCause[] | undefined;
  readonly headers: Readonly<Record<string, string>>;

  constructor(slug: ProblemSlug, options: ProblemOptions = {}) {
    const kind = PROBLEMS[slug];
    super(kind.title, options.cause === undefined ? undefined : { cause: options.cause });
    this.slug = slug;
    this.statusCode = kind.status;
    this.detail = options.detail ?? kind.advice;
    this.errors = options.errors;
    this.headers = options.headers ?? {};
  }
}

/** The document of `problem` as the answer to one request. */
export function problemDocument(
  problem: ProblemError,
  request: { readonly path: string; readonly requestId: string },
): ProblemDocument {
  return {
    type: `${PROBLEM_TYPE_BASE}${problem.slug}`,
    title: PROBLEMS[problem.slug].title,
    status: problem.statusCode,
    detail: problem.detail,
    instance: request.path,
    requestId: request.requestId,
    ...(problem.errors === undefined ? {} : { errors: problem.errors }),
  };
}
