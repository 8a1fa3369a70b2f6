/** An S3 server in this process, with one bucket in a folder of its own. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import S3rver from 's3rver';

export const S3_BUCKET = 'images';
/** The account that s3rver knows. */
export const S3_CREDENTIALS = { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' };

export interface S3Server {
  readonly url: string;
  /** Refuses connections until `start`; what is stored stays. */
  stop(): Promise<void>;
  start(): Promise<void>;
  close(): Promise<void>;
}

export async function startS3Server(): Promise<S3Server> {
  const directory = await mkdtemp(join(tmpdir(), 'leukodiff-s3-'));
  const open = async (port: number): Promise<{ server: S3rver; port: number }> => {
    const options = { address: '127.0.0.1', silent: true, directory, configureBuckets: [{ name: S3_BUCKET }] };
    const server = new S3rver({ ...options, port });
    return { server, port: (await server.run()).port };
  };
  let running: { server: S3rver; port: number } | null = await open(0);
  const { port } = running;
  const stop = async (): Promise<void> => {
    const closed = running?.server.close();
    // Clients keep their connections for the next request; closing waits for them otherwise.
    running?.server.httpServer.closeAllConnections();
    await closed;
    running = null;
  };
  return {
    url: `http://127.0.0.1:${port}`,
    stop,
    start: async () => {
      running ??= await open(port);
    },
    close: async () => {
      await stop();
      await rm(directory, { recursive: true, force: true });
    },
  };
}
