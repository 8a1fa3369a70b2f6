/**
 * Receives the multipart form: text parts into memory (small, bounded), files into the spool. Nothing is read faster than that
 * takes it, so a request costs a bounded amount of memory whatever its size.
 *
 * Faults of single parts are collected, while the rest of the form is still read: one answer names everything, and the
 * client is done sending when it comes. Only what makes reading on pointless (size, number of parts, time) stops at once.
 */
import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { MultipartFile } from '@fastify/multipart';
import type { FastifyRequest } from 'fastify';
import { type ProblemCause, ProblemError } from '../problems.js';
import { FILE_FIELD, type FieldPart, isOrderField, ORDER_FIELDS, printable, unknownField } from './order-fields.js';
import type { RequestSpool, Spool } from './spool.js';

export interface UploadLimits {
  readonly maxImages: number;
  readonly maxImageBytes: number;
  readonly maxFieldBytes: number;
  readonly maxRequestBytes: number;
  readonly uploadTimeoutSeconds: number;
}

/** A posted file that lies in the spool until `Upload.dispose`. */
export interface SpooledFile {
  /** Place among the posted files, from 0. */
  readonly index: number;
  readonly filename: string;
  /** Lower-case hexadecimal. */
  readonly sha256: string;
  readonly read: () => Promise<Buffer>;
}

export interface Upload {
  readonly fields: readonly FieldPart[];
  readonly files: readonly SpooledFile[];
  readonly causes: readonly ProblemCause[];
  /** Removes the files. Must be called, whatever happened. */
  readonly dispose: () => Promise<void>;
}

/** Longest file name that is kept: what file systems allow. */
const FILENAME_MAX_LENGTH = 255;

/** Parts beyond the known fields and files are typing errors; this many are named before reading stops. */
const SPARE_PARTS = 64;

/** Thrown when the client closed the connection before the form was complete; there is nobody left to answer. */
export class ClientGoneError extends Error {
  override readonly name = 'ClientGoneError';
}

/** Called before the first file is read, with the fields that came before it. What it throws ends the upload. */
type BeforeFiles = (fields: readonly FieldPart[]) => void;

/**
 * @throws ProblemError for a form that cannot be read to its end or is too large or too slow.
 * @throws ClientGoneError when the client left.
 */
export async function receiveUpload(
  request: FastifyRequest,
  spool: Spool,
  limits: UploadLimits,
  beforeFiles: BeforeFiles = () => undefined,
): Promise<Upload> {
  assertReadable(request, limits);
  const place = spool.open();
  const dispose = () => place.dispose();
  try {
    return { ...(await receiveWithin(request, place, limits, beforeFiles)), dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** Refuses what the headers alone show to be wrong, before a byte is read. */
function assertReadable(request: FastifyRequest, limits: UploadLimits): void {
  if (!request.isMultipart()) throw new ProblemError('unsupported-media-type');
  if (!/;\s*boundary=(?:"[^"]+"|[^\s";]+)/i.test(request.headers['content-type'] ?? '')) {
    throw new ProblemError('malformed-multipart', {
      detail:
        'The Content-Type header names no boundary. Let the HTTP library set the header: setting it by hand loses the boundary. Example: curl -F images=@smear.jpg http://127.0.0.1:3000/analyze',
    });
  }
  const announced = Number(request.headers['content-length']);
  if (announced > limits.maxRequestBytes) throw requestTooLarge(limits);
}

/** `receive` against the clock and against the connection. */
async function receiveWithin(
  request: FastifyRequest,
  place: RequestSpool,
  limits: UploadLimits,
  beforeFiles: BeforeFiles,
): Promise<Omit<Upload, 'dispose'>> {
  const stop = new AbortController();
  const { raw } = request;
  let timer: NodeJS.Timeout | undefined;
  const onClose = (): void => {
    if (!raw.complete) stop.abort(new ClientGoneError('The client left before its upload was complete.'));
  };
  try {
    return await new Promise<Omit<Upload, 'dispose'>>((resolve, reject) => {
      stop.signal.addEventListener('abort', () => reject(stop.signal.reason), { once: true });
      timer = setTimeout(
        () => stop.abort(uploadTimeout(limits.uploadTimeoutSeconds)),
        limits.uploadTimeoutSeconds * 1000,
      );
      raw.once('close', onClose);
      if (raw.destroyed) onClose();
      receive(request, place, limits, beforeFiles, stop).then(resolve, reject);
    });
  } catch (error) {
    // Ends a file that is being written, and what is still to come goes nowhere instead of into the parser.
    stop.abort(error);
    raw.unpipe();
    raw.resume();
    throw readingError(error);
  } finally {
    clearTimeout(timer);
    raw.removeListener('close', onClose);
  }
}

async function receive(
  request: FastifyRequest,
  place: RequestSpool,
  limits: UploadLimits,
  beforeFiles: BeforeFiles,
  stop: AbortController,
): Promise<Omit<Upload, 'dispose'>> {
  const fields: FieldPart[] = [];
  const files: SpooledFile[] = [];
  const causes: ProblemCause[] = [];
  let fileCount = 0;
  let receivedBytes = 0;

  request.raw.on('data', (chunk: Buffer) => {
    receivedBytes += chunk.length;
    if (receivedBytes > limits.maxRequestBytes) stop.abort(requestTooLarge(limits));
  });

  const parts = request.parts({
    throwFileSizeLimit: false,
    limits: {
      fileSize: limits.maxImageBytes,
      // One byte more than allowed, so that a value of exactly the limit is told from one that was cut.
      fieldSize: limits.maxFieldBytes + 1,
      headerPairs: 32,
      headerSize: 8192,
      parts: limits.maxImages + ORDER_FIELDS.length + SPARE_PARTS,
    },
  } as Parameters<FastifyRequest['parts']>[0]);

  for await (const part of parts) {
    stop.signal.throwIfAborted();
    const name: string | undefined = part.fieldname;
    if (name === undefined || name === '') {
      causes.push({ field: '(no name)', code: 'unknown-field', detail: 'A part of the form has no name.' });
      if (part.type === 'file') await discard(part.file);
    } else if (part.type === 'field') {
      if (name === FILE_FIELD) {
        causes.push({
          field: FILE_FIELD,
          code: 'invalid-field',
          detail: 'Images must be sent as files. With curl an @ makes a file of a path: `-F images=@smear.jpg`.',
        });
      } else {
        fields.push(textPart(name, part.value, part.valueTruncated, limits));
      }
    } else if (name === FILE_FIELD) {
      if (fileCount === 0) beforeFiles(fields);
      fileCount += 1;
      if (fileCount > limits.maxImages) throw tooManyImages(limits);
      const file = await spooled(part, fileCount - 1, place, limits, stop.signal);
      if ('detail' in file) causes.push(file);
      else files.push(file);
    } else if (isOrderField(name)) {
      // Some HTTP libraries send a text as a file (a Blob of type application/json, for instance).
      fields.push(await textFile(part, limits));
    } else {
      causes.push(unknownField(name));
      await discard(part.file);
    }
  }

  if (fileCount === 0 && !causes.some((cause) => cause.field === FILE_FIELD)) {
    causes.push({
      field: FILE_FIELD,
      code: 'invalid-field',
      detail: 'Send at least one image. Example: `curl -F images=@smear.jpg http://127.0.0.1:3000/analyze`.',
    });
  }
  return { fields, files, causes };
}

function textPart(name: string, value: unknown, valueTruncated: boolean, limits: UploadLimits): FieldPart {
  // The multipart plugin parses a part of type application/json; everything is text again for the one parser of fields.
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return { name, value: text, truncated: valueTruncated || Buffer.byteLength(text) > limits.maxFieldBytes };
}

async function textFile(part: MultipartFile, limits: UploadLimits): Promise<FieldPart> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of part.file as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes <= limits.maxFieldBytes) chunks.push(chunk);
  }
  const truncated = bytes > limits.maxFieldBytes;
  return { name: part.fieldname, value: truncated ? '' : Buffer.concat(chunks).toString('utf8'), truncated };
}

async function spooled(
  part: MultipartFile,
  index: number,
  place: RequestSpool,
  limits: UploadLimits,
  signal: AbortSignal,
): Promise<SpooledFile | ProblemCause> {
  const filename = part.filename ? printable(part.filename, FILENAME_MAX_LENGTH) : `image-${index + 1}`;
  const file = place.file();
  const hash = createHash('sha256');
  const keep = async (source: AsyncIterable<Buffer>): Promise<void> => {
    for await (const chunk of source) {
      hash.update(chunk);
      await file.add(chunk);
    }
    await file.end();
  };
  await pipeline(part.file, keep, { signal });
  if (part.file.truncated) {
    return {
      field: `${FILE_FIELD}[${index}]`,
      filename,
      code: 'image-too-large',
      detail: `The file has more than ${limits.maxImageBytes} bytes (MAX_IMAGE_BYTES). Send it compressed, in tiles or at a lower resolution.`,
    };
  }
  return { index, filename, sha256: hash.digest('hex'), read: () => file.read() };
}

async function discard(file: Readable): Promise<void> {
  for await (const _ of file);
}

function requestTooLarge(limits: UploadLimits): ProblemError {
  return new ProblemError('request-too-large', {
    detail: `The request has more than ${limits.maxRequestBytes} bytes (MAX_REQUEST_BYTES); nothing was stored. Send the images in several requests.`,
  });
}

function tooManyImages(limits: UploadLimits): ProblemError {
  return new ProblemError('too-many-images', {
    detail: `The request has more than ${limits.maxImages} images (MAX_IMAGES); nothing was stored. Send them in several requests.`,
  });
}

function uploadTimeout(seconds: number): ProblemError {
  return new ProblemError('upload-timeout', {
    detail: `The upload was not complete after ${seconds} s (UPLOAD_TIMEOUT_SECONDS); nothing was stored. Send fewer or smaller images in one request.`,
    headers: { connection: 'close' },
  });
}

/** What the multipart parser throws, as a problem; everything that is not its own passes through. */
function readingError(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof ProblemError || error instanceof ClientGoneError) return error;
  const code = (error as NodeJS.ErrnoException).code;
  switch (code) {
    case 'FST_MP_PREMATURE_CLOSE':
      return new ClientGoneError('The client left before its upload was complete.', { cause: error });
    case 'FST_PARTS_LIMIT':
    case 'FST_FIELDS_LIMIT':
      return new ProblemError('too-many-fields', { cause: error });
    case 'FST_PROTO_VIOLATION':
      return new ProblemError('unknown-field', { detail: 'A part has a name that no form may use.', cause: error });
    case 'FST_INVALID_JSON_FIELD_ERROR':
      return new ProblemError('invalid-fields', {
        errors: [{ field: 'metadata', code: 'invalid-field', detail: 'The part says that it is JSON, but it is not.' }],
        cause: error,
      });
    case undefined:
      // The parser's own errors have no code: an unexpected end, a part without headers.
      return new ProblemError('malformed-multipart', { cause: error });
    default:
      return error;
  }
}
