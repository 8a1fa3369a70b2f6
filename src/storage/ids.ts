import { randomBytes } from 'node:crypto';

/** A UUID version 7 (RFC 9562): 48 bits of milliseconds, then random, so that ids sort by the time they were made. */
export function uuidv7(nowMs: number = Date.now()): string {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(nowMs, 0, 6);
  bytes.writeUInt8(0x70 | (bytes.readUInt8(6) & 0x0f), 6);
  bytes.writeUInt8(0x80 | (bytes.readUInt8(8) & 0x3f), 8);
  const hex = bytes.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
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
