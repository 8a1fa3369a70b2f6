/** Pages of lists as HTTP gives them out. */
import { InvalidCursorError } from '../storage/paging.js';
import { ProblemError } from './problems.js';

/** A page, or the problem of a cursor that no page gave out. */
export async function withCursor<T>(page: () => Promise<T>): Promise<T> {
  try {
    return await page();
  } catch (error) {
    if (!(error instanceof InvalidCursorError)) throw error;
    throw new ProblemError('invalid-parameters', {
      errors: [{ field: 'cursor', detail: 'Use `nextCursor` of the page before, with the same filters.' }],
      cause: error,
    });
  }
}
