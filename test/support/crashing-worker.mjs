// The real inference worker, except that a field whose first pixel is (1, 2, 3) crashes the thread, as a defect in the
// native library would end it.
import { parentPort } from 'node:worker_threads';

parentPort?.on('message', ({ input }) => {
  if (input?.kind === 'field' && input.rgb[0] === 1 && input.rgb[1] === 2 && input.rgb[2] === 3) {
    throw new Error('crashed on purpose');
  }
});

await import('../../dist/vision/infer-worker.js');
