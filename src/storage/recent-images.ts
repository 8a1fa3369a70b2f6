/**
 * Small images that this process has just stored, for its own worker: they need not be read again. A short cut only: what is not here,
 * because there was no room or it waited for too long, is read from where it is stored.
 */

/** Some hundred camera frames. */
const MOST_BYTES = 16 * 1024 * 1024;
/** What the worker of another process took is never asked for here. */
const KEPT_MS = 60_000;

interface Kept {
  readonly bytes: Buffer;
  readonly since: number;
}

export class RecentImages {
  private readonly images = new Map<string, Kept>();
  private size = 0;

  /** Keeps it if there is room: those that came first are asked for first, so the latest has to do without. */
  put(analysisId: string, index: number, bytes: Buffer): void {
    this.forgetOld();
    if (this.size + room(bytes) > MOST_BYTES) return;
    this.forget(analysisId, index);
    this.images.set(keyOf(analysisId, index), { bytes, since: performance.now() });
    this.size += room(bytes);
  }

  /** Null: it is not here. */
  get(analysisId: string, index: number): Buffer | null {
    return this.images.get(keyOf(analysisId, index))?.bytes ?? null;
  }

  /** When its run has begun: another one, if there is any, reads what is stored. */
  forget(analysisId: string, index: number): void {
    this.remove(keyOf(analysisId, index));
  }

  private forgetOld(): void {
    const until = performance.now() - KEPT_MS;
    for (const [key, { since }] of this.images) {
      if (since > until) return;
      this.remove(key);
    }
  }

  private remove(key: string): void {
    const kept = this.images.get(key);
    if (kept === undefined) return;
    this.images.delete(key);
    this.size -= room(kept.bytes);
  }
}

const keyOf = (analysisId: string, index: number): string => `${analysisId}/${index}`;

/** What it keeps from being freed: it may be a piece of what came from the network together. */
const room = (bytes: Buffer): number => bytes.buffer.byteLength;
