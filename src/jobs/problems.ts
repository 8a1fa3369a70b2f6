/** Why an image or an analysis fails in the jobs. Codes are problem slugs: part of the public API, never renamed. */
import type { StoredProblem } from '../storage/documents.js';

/** Runs of one image that may be cut off (a crash, a kill) before it is given up as the likely cause; all but the first run apart. */
export const MAX_IMAGE_RUNS = 3;

export const IMAGE_INTERRUPTED: StoredProblem = {
  code: 'image-interrupted',
  title: 'The analysis of the image was cut off again and again',
  detail:
    `A thread or process of the worker ended ${MAX_IMAGE_RUNS} times while it analysed this image, perhaps for want of memory. ` +
    'Send it again at a lower resolution or in tiles, and look at the log of the worker.',
};

export const IMAGE_TIMEOUT: StoredProblem = {
  code: 'image-timeout',
  title: 'The analysis of the image took too long',
  detail: 'Send the field in tiles or at a lower resolution.',
};

export const IMAGE_ANALYSIS_ERROR: StoredProblem = {
  code: 'image-analysis-error',
  title: 'The image could not be analysed',
  detail: 'This is a defect of the service, not of the image. Send it again later; the log of the worker says more.',
};

export function undecodable(code: string, message: string): StoredProblem {
  return { code, title: 'The image cannot be read', detail: message };
}

export function tooOld(minutes: number): StoredProblem {
  return {
    code: 'analysis-expired',
    title: 'The analysis was not done in time',
    detail:
      `It had not ended after ${minutes} minutes (MAX_ANALYSIS_AGE_MINUTES). ` +
      'Check that a worker is running, then send the images again.',
  };
}

/** For an analysis of which no image could be analysed. */
export function allImagesFailed(images: readonly { index: number; problem: StoredProblem | null }[]): StoredProblem {
  const [only] = images;
  if (images.length === 1 && only?.problem != null) return only.problem;
  const reasons = [...new Set(images.map((image) => image.problem?.code ?? 'unknown'))].join(', ');
  return {
    code: 'all-images-failed',
    title: 'None of the images could be analysed',
    detail: `All ${images.length} images failed (${reasons}). images[].problem says what to do about each.`,
  };
}
