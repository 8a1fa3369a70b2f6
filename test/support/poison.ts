/** Images that crash the process which decodes them, where that was started with the hook. */
import { fileURLToPath } from 'node:url';

/** For NODE_OPTIONS. */
export const POISON_HOOK = `--import=${fileURLToPath(new URL('./poison-hook.mjs', import.meta.url))}`;

/** The same picture with the mark that the hook looks for. */
export function poisoned(image: Uint8Array): Buffer {
  return Buffer.concat([image, Buffer.from('leukodiff-test-poison', 'latin1')]);
}
