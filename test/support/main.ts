/** The built program and the flags of V8 that it is started with everywhere: in the image, by `npm start`, and as a command (docs/decisions/0071). */
import { fileURLToPath } from 'node:url';

export const MAIN = fileURLToPath(new URL('../../dist/start.cjs', import.meta.url));
export const NODE_FLAGS = ['--max-semi-space-size=16'] as const;
