// The real inference worker, except that a field whose first pixel is (1, 2, 3), or a run with a crop whose first pixel is
// (1, 1, 1), crashes the thread, as a defect in the native library would end it, and a field that begins with (1, 2, 4) never
// comes to an end.
import { parentPort } from 'node:worker_threads';

const begins = (values, ...first) => first.every((value, i) => values[i] === value);

parentPort?.on('message', ({ input }) => {
  // Not every message carries an input.
  const isField = input?.kind === 'field';
  if (isField && begins(input.rgb, 1, 2, 4)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  const deadly = isField ? begins(input.rgb, 1, 2, 3) : input?.inputs.some(({ crops }) => begins(crops, 1, 1, 1));
  if (deadly) throw new Error('crashed on purpose');
});

await import('../../dist/vision/infer-worker.js');
