import { describe, expect, it } from 'vitest';
import { formatCellId, isUuid, parseCellId, uuidv7 } from '../../../src/storage/ids.js';

describe('uuidv7', () => {
  it('has the layout of RFC 9562', () => {
    // The time of the RFC's own example.
    expect(uuidv7(0x017f22e279b0)).toMatch(/^017f22e2-79b0-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });

  it('sorts by time and does not repeat', () => {
    const ids = Array.from({ length: 1000 }, (_, ms) => uuidv7(1_700_000_000_000 + ms));
    expect(ids.toSorted()).toEqual(ids);
    expect(new Set(Array.from({ length: 1000 }, () => uuidv7(0))).size).toBe(1000);
  });

  it('is a UUID; much else is not', () => {
    expect(isUuid(uuidv7())).toBe(true);
    for (const text of ['', 'x', `${uuidv7()} `, `{${uuidv7()}}`, uuidv7().replaceAll('-', '')]) {
      expect(isUuid(text), text).toBe(false);
    }
  });
});

describe('cell ids', () => {
  it('go there and back', () => {
    expect(formatCellId({ imageIndex: 3, number: 41 })).toBe('3-41');
    expect(parseCellId('3-41')).toEqual({ imageIndex: 3, number: 41 });
  });

  it.each(['', '3', '3-', '-1', '3-4-5', 'a-1', '1-a', '1.5-2', '3-99999999999', ' 3-4'])('%j is none', (text) => {
    expect(parseCellId(text)).toBeNull();
  });
});
