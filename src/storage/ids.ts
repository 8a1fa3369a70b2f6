import { randomUUID } from 'node:crypto';

/** A UUID version 7 (RFC 9562): 48 bits of milliseconds, then random, so that ids sort by the time they were made. */
export function uuidv7(nowMs: number = Date.now()): string {
  const time = nowMs.toString(16).padStart(12, '0');
  // Behind the version both kinds are alike, and of version 4 Node keeps a supply, which spares a call to the system for each id.
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** Ids come from URLs: what is no UUID names nothing, and PostgreSQL would answer it with an error. */
export function isUuid(text: string): boolean {
  return UUID.test(text);
}

export interface CellKey {
  readonly imageIndex: number;
  readonly number: number;
}

export function formatCellId({ imageIndex, number }: CellKey): string {
  return `${imageIndex}-${number}`;
}

/** Null for what is no cell id. */
export function parseCellId(text: string): CellKey | null {
  const match = /^(\d{1,6})-(\d{1,9})$/.exec(text);
  return match === null ? null : { imageIndex: Number(match[1]), number: Number(match[2]) };
}
