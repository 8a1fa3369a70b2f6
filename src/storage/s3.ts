/** Objects in S3-compatible storage. Loaded only where it is configured: the SDK is large. */
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadBucketCommand,
  NoSuchKey,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';

import { type ObjectStore, ObjectStoreError } from './object-store.js';

export interface S3Options {
  readonly bucket: string;
  /** Undefined: that of AWS for the region. */
  readonly endpoint: string | undefined;
  readonly region: string;
  /** Undefined: as the AWS SDK finds them (environment, role of the machine). */
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string } | undefined;
}

const CONNECTION_TIMEOUT_MS = 5_000;
/** Of silence, not of the whole transfer. */
const SOCKET_TIMEOUT_MS = 30_000;

export function openS3({ bucket, endpoint, region, credentials }: S3Options): ObjectStore {
  const client = new S3Client({
    region,
    ...(credentials === undefined ? {} : { credentials }),
    // Servers other than that of AWS seldom have a host name for each bucket.
    ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
    // Checksums that only some servers know; TLS and the hash in PostgreSQL tell what came.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: CONNECTION_TIMEOUT_MS, socketTimeout: SOCKET_TIMEOUT_MS },
  });
  return {
    put: async (key, bytes) => {
      await asked('PutObject', () => client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: bytes })));
    },
    get: (key) =>
      asked('GetObject', async () => {
        try {
          const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
          return Body === undefined ? null : Buffer.from(await Body.transformToByteArray());
        } catch (error) {
          if (error instanceof NoSuchKey) return null;
          throw error;
        }
      }),
    remove: async (keys) => {
      if (keys.length === 0) return;
      const Objects = keys.map((Key) => ({ Key }));
      const { Errors = [] } = await asked('DeleteObjects', () =>
        client.send(new DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects, Quiet: true } })),
      );
      const [first] = Errors;
      if (first !== undefined) throw new ObjectStoreError(`DeleteObjects: ${first.Code ?? 'refused'}`);
    },
    ping: async () => {
      await asked('HeadBucket', () => client.send(new HeadBucketCommand({ Bucket: bucket })));
    },
    close: () => client.destroy(),
  };
}

/** Runs `work`, which may be run twice: to do it again changes nothing. */
async function asked<T>(operation: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work().catch((error: unknown) => {
      // The SDK notes how far the clock is off the server's, from every answer. When a wrong clock is set right, that note
      // is wrong for one request, which the SDK gives up on (it asks again only while the clock is off).
      if (error instanceof Error && error.name === 'RequestTimeTooSkewed') return work();
      throw error;
    });
  } catch (error) {
    // The SDK's own messages may name hosts and keys; its names for what happened do not.
    const reason = error instanceof Error ? ('code' in error ? String(error.code) : '') || error.name : 'unknown';
    throw new ObjectStoreError(`${operation}: ${reason}`, { cause: error });
  }
}
