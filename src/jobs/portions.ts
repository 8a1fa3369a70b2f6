/**
 * How many images of an order share a job. Each step of a job costs the queue as much as a third of what storage does for an image, so while
 * many images wait, jobs take several (docs/decisions/0089).
 */
import type { QueueLoad } from '../storage/analyses.js';
import type { Priority } from '../storage/documents.js';

/** A job holds its worker's place for as long as its images take: at most this many, and no more pixels than ten camera frames have. */
export const MAX_IMAGES_PER_JOB = 10;
const MAX_PIXELS_PER_JOB = MAX_IMAGES_PER_JOB * 640 * 480;

/**
 * 1 while nothing waits, so that every idle worker gets something to do. An order whose images share jobs may end later than it could, for
 * one waits in its job while a place is free; but what runs now says how many places there are, and with as many images a job as each of
 * them has to do before, that is no longer than the order had to wait anyway.
 * `pixels` are those of the order's largest image.
 */
export function imagesPerJob(
  priority: Priority,
  { load: { waiting, running }, pixels }: { readonly load: QueueLoad; readonly pixels: number },
): number {
  if (priority === 'stat') return 1;
  const each = Math.floor(waiting / Math.max(1, running));
  return Math.max(1, Math.min(MAX_IMAGES_PER_JOB, each, Math.floor(MAX_PIXELS_PER_JOB / Math.max(1, pixels))));
}

/** In their order, in as few portions of at most `size` as it takes, which differ in length by one at most. */
export function inPortions(indexes: readonly number[], size: number): readonly (readonly number[])[] {
  const count = Math.ceil(indexes.length / size);
  return Array.from({ length: count }, (_, i) =>
    indexes.slice(Math.floor((i * indexes.length) / count), Math.floor(((i + 1) * indexes.length) / count)),
  );
}
