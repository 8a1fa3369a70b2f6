/** Where posted images lie as objects. What refers to them is in PostgreSQL (image-objects.ts); S3 is in s3.ts. */

/** Every method throws `ObjectStoreError`. */
export interface ObjectStore {
  put(key: string, bytes: Uint8Array): Promise<void>;
  /** Null: there is no such object. */
  get(key: string): Promise<Buffer | null>;
  /** At most 1,000 keys; those that are not there are removed already. */
  remove(keys: readonly string[]): Promise<void>;
  /** Rejects when the bucket cannot be used. */
  ping(): Promise<void>;
  close(): void;
}

/** The store is away, or refuses: nothing is known about the object. */
export class ObjectStoreError extends Error {
  override readonly name = 'ObjectStoreError';
}
