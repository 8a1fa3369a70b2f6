/** The process of apart.ts: takes one image, answers, ends. */
import type { ApartAnswer, ApartTask } from './apart.js';
import { UndecodableImageError } from './errors.js';
import { createVision } from './index.js';

// Nobody is left to answer to.
process.once('disconnect', () => process.exit());
process.once('message', (task: ApartTask) => {
  void answer(task).then((result) => process.send?.(result, () => process.disconnect()));
});

async function answer({ vision: options, bytes, micronsPerPixel }: ApartTask): Promise<ApartAnswer> {
  try {
    const vision = await createVision(options);
    const analysis = await vision.analyze(bytes, micronsPerPixel === undefined ? {} : { micronsPerPixel });
    return { type: 'analysis', analysis };
  } catch (error) {
    if (error instanceof UndecodableImageError) {
      return { type: 'undecodable', code: error.code, message: error.message };
    }
    return { type: 'error', message: error instanceof Error ? error.message : String(error) };
  }
}
