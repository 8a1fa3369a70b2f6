/** The object store of this run's tests: a bucket on the S3 server that the run started. */
import type { ImageObjects } from '../../src/storage/database.js';
import type { ObjectStore } from '../../src/storage/object-store.js';
import { openS3 } from '../../src/storage/s3.js';
import { S3_BUCKET, S3_CREDENTIALS } from './s3-server.js';

export function openTestObjectStore(endpoint: string): ObjectStore {
  return openS3({ bucket: S3_BUCKET, endpoint, region: 'us-east-1', credentials: S3_CREDENTIALS });
}

/** Where this run keeps posted images (TEST_IMAGES): every test of storage, jobs and images passes with both. Null: in PostgreSQL. */
export function objectsAt(s3Url: string): ImageObjects | null {
  return process.env['TEST_IMAGES'] === 's3' ? { store: openTestObjectStore(s3Url), writable: true } : null;
}
