/**
 * Where posted files lie while their request is read and stored: small ones in memory, which spares a dozen trips to the disk
 * while the client waits; the others in a folder of their request. Both are bounded, whatever comes.
 */
import { type FileHandle, mkdir, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';

/** A camera frame is some hundred kilobytes. */
const KEPT_OF_A_FILE = 1024 * 1024;
/** Of all requests of the process together; what comes when so much is kept goes to the disk. */
const KEPT_IN_ALL = 64 * 1024 * 1024;

export interface SpoolLimits {
  readonly ofAFile: number;
  readonly inAll: number;
}

export class Spool {
  private kept = 0;

  /** @param dir A folder of this process; each request that needs one gets a folder of its own in it. */
  constructor(
    private readonly dir: string,
    private readonly limits: SpoolLimits = { ofAFile: KEPT_OF_A_FILE, inAll: KEPT_IN_ALL },
  ) {}

  /** For the files of one request. */
  open(): RequestSpool {
    return new RequestSpool(this);
  }

  /** Room for so much more of a file that has `had` bytes in memory? Then it counts as taken. */
  keep(bytes: number, had: number): boolean {
    if (had + bytes > this.limits.ofAFile || this.kept + bytes > this.limits.inAll) return false;
    this.kept += bytes;
    return true;
  }

  release(bytes: number): void {
    this.kept -= bytes;
  }

  async folder(): Promise<string> {
    // It is there, unless somebody has tidied up.
    await mkdir(this.dir, { recursive: true, mode: 0o700 });
    return mkdtemp(join(this.dir, 'upload-'));
  }
}

export class RequestSpool {
  private readonly files: SpooledBytes[] = [];
  private made: Promise<string> | undefined;

  constructor(private readonly spool: Spool) {}

  file(): SpooledBytes {
    const path = async (): Promise<string> => {
      this.made ??= this.spool.folder();
      return join(await this.made, String(this.files.indexOf(file)));
    };
    const file = new SpooledBytes(this.spool, path);
    this.files.push(file);
    return file;
  }

  /** Removes the files. Must be called, whatever happened. */
  async dispose(): Promise<void> {
    for (const file of this.files) await file.close();
    const folder = await this.made?.catch(() => undefined);
    // A file that was being opened when its upload broke off may appear while the folder is emptied.
    if (folder !== undefined) await rm(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 20 });
  }
}

/** One file: in memory until it is too large for that, from then on all of it on the disk. */
export class SpooledBytes {
  private chunks: Buffer[] = [];
  private kept = 0;
  private handle: Promise<FileHandle> | undefined;

  constructor(
    private readonly spool: Spool,
    private readonly path: () => Promise<string>,
  ) {}

  async add(chunk: Buffer): Promise<void> {
    if (this.handle === undefined && this.spool.keep(chunk.length, this.kept)) {
      this.chunks.push(chunk);
      this.kept += chunk.length;
      return;
    }
    this.handle ??= this.path().then((path) => open(path, 'wx', 0o600));
    const handle = await this.handle;
    for (const earlier of this.forget()) await handle.appendFile(earlier);
    await handle.appendFile(chunk);
  }

  /** All of it; when it has come to its end. */
  async read(): Promise<Buffer> {
    if (this.handle !== undefined) return readFile(await this.path());
    if (this.chunks.length > 1) this.chunks = [Buffer.concat(this.chunks)];
    return this.chunks[0] ?? Buffer.alloc(0);
  }

  /** Nothing is added any more. */
  async end(): Promise<void> {
    await (await this.handle)?.close();
  }

  async close(): Promise<void> {
    this.forget();
    // One that could not be opened, or was ended, needs no closing.
    await this.end().catch(() => undefined);
  }

  private forget(): readonly Buffer[] {
    const { chunks } = this;
    this.spool.release(this.kept);
    this.chunks = [];
    this.kept = 0;
    return chunks;
  }
}
