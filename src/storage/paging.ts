/** Lists in pages: one row more than the page is asked for, and the last id of the page is its cursor. */
import { isUuid } from './ids.js';

/** The cursor is none that a page of this list gave out. */
export class InvalidCursorError extends Error {
  override readonly name = 'InvalidCursorError';

  constructor() {
    super('not a cursor of this list');
  }
}

export interface Page<T> {
  readonly items: T[];
  /** Null on the last page. */
  readonly nextCursor: string | null;
}

/** The last id of the page before, if there was one. Throws `InvalidCursorError` where it is no id. */
export function lastId(cursor: string | undefined): string | undefined {
  if (cursor !== undefined && !isUuid(cursor)) throw new InvalidCursorError();
  return cursor;
}

/** The part of a filter that leaves out what earlier pages showed, newest first. Ids carry the time, so their order is that of arrival. */
export function olderThan(cursor: string | undefined): { id?: { lt: string } } {
  const last = lastId(cursor);
  return last === undefined ? {} : { id: { lt: last } };
}

/** @param rows At most `limit` + 1, in the list's order. */
export function pageOf<Row, Item extends { readonly id: string }>(
  rows: readonly Row[],
  limit: number,
  toItem: (row: Row) => Item,
): Page<Item> {
  const items = rows.slice(0, limit).map(toItem);
  return { items, nextCursor: rows.length > limit ? (items.at(-1)?.id ?? null) : null };
}
