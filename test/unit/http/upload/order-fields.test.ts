import { describe, expect, it } from 'vitest';
import {
  type FieldPart,
  ORDER_LIMITS,
  parseOrder,
  printable,
  unknownField,
} from '../../../../src/http/upload/order-fields.js';
import { MICRONS_PER_PIXEL_RANGE } from '../../../../src/vision/index.js';

function part(name: string, value: string, truncated = false): FieldPart {
  return { name, value, truncated };
}

function parse(fields: Record<string, string>) {
  return parseOrder(
    Object.entries(fields).map(([name, value]) => part(name, value)),
    65_536,
  );
}

describe('parseOrder', () => {
  it('has defaults for a form without fields', () => {
    expect(parseOrder([], 100)).toEqual({
      causes: [],
      order: {
        accessionNumber: null,
        specimenId: null,
        orderId: null,
        subjectId: null,
        site: null,
        collectedAt: null,
        callbackUrl: null,
        micronsPerPixel: null,
        targetCells: 100,
        wbcCount: null,
        priority: 'routine',
        metadata: null,
      },
    });
  });

  it('reads every field', () => {
    const { order, causes } = parse({
      accessionNumber: 'H-26-001',
      specimenId: 'S 1',
      orderId: 'Ö/7',
      subjectId: '😀',
      site: 'Basel',
      collectedAt: '2026-11-20T08:15:00+01:00',
      callbackUrl: 'https://lis.example/hooks?x=1',
      micronsPerPixel: '0.16',
      targetCells: '200',
      wbcCount: '7.2',
      priority: 'stat',
      metadata: '{"bench":3,"tags":["a",null,true]}',
    });
    expect(causes).toEqual([]);
    expect(order).toEqual({
      accessionNumber: 'H-26-001',
      specimenId: 'S 1',
      orderId: 'Ö/7',
      subjectId: '😀',
      site: 'Basel',
      collectedAt: '2026-11-20T07:15:00.000Z',
      callbackUrl: 'https://lis.example/hooks?x=1',
      micronsPerPixel: 0.16,
      targetCells: 200,
      wbcCount: 7.2,
      priority: 'stat',
      metadata: { bench: 3, tags: ['a', null, true] },
    });
  });

  it('takes an empty field as not sent', () => {
    const { order, causes } = parse({ accessionNumber: '', targetCells: '', metadata: '' });
    expect(causes).toEqual([]);
    expect(order.accessionNumber).toBeNull();
    expect(order.targetCells).toBe(100);
  });

  it('names everything that is wrong at once, and never repeats a value', () => {
    const secret = 'SECRET\u0000VALUE';
    const { causes } = parse({ accessionNumber: secret, targetCells: 'many', wbcCount: '-1', priorty: 'stat' });
    expect(causes.map((cause) => cause.field).sort()).toEqual([
      'accessionNumber',
      'priorty',
      'targetCells',
      'wbcCount',
    ]);
    expect(JSON.stringify(causes)).not.toContain('SECRET');
    expect(JSON.stringify(causes)).not.toContain('many');
  });

  it('refuses a field that was sent twice', () => {
    const { causes } = parseOrder([part('orderId', 'A'), part('orderId', 'B')], 100);
    expect(causes).toEqual([expect.objectContaining({ field: 'orderId', detail: expect.stringContaining('once') })]);
  });

  it('refuses a value that was cut', () => {
    const { causes } = parseOrder([part('metadata', '{"a":', true)], 100);
    expect(causes).toEqual([
      expect.objectContaining({ field: 'metadata', detail: expect.stringContaining('100 bytes') }),
    ]);
  });

  it.each([
    ['accessionNumber', 'a\u0000b'],
    ['accessionNumber', 'a\nb'],
    ['specimenId', 'a\u0085b'],
    ['site', 'a\u2028b'],
    ['orderId', '\uD800'],
    ['orderId', 'caf\uFFFD'],
    ['subjectId', '   '],
    ['accessionNumber', 'x'.repeat(200)],
    ['collectedAt', '2026-11-20'],
    ['collectedAt', '2026-11-20T08:15:00'],
    ['collectedAt', '2026-02-30T08:15:00Z'],
    ['collectedAt', '2026-13-01T08:15:00Z'],
    ['collectedAt', '2026-11-20T24:00:00Z'],
    ['collectedAt', '2026-11-20T08:15:60Z'],
    ['collectedAt', '0000-01-01T00:00:00Z'],
    ['collectedAt', 'yesterday'],
    ['callbackUrl', '/hooks'],
    ['callbackUrl', 'lis.example/hooks'],
    ['callbackUrl', 'http:lis.example'],
    ['callbackUrl', 'http:///hooks'],
    ['callbackUrl', 'ftp://lis.example/hooks'],
    ['callbackUrl', 'file:///etc/passwd'],
    ['callbackUrl', 'javascript:alert(1)'],
    ['callbackUrl', 'https://user:secret@lis.example/'],
    ['callbackUrl', 'https://user@lis.example/'],
    ['callbackUrl', 'https://lis.example/a\tb'],
    ['callbackUrl', ' https://lis.example/'],
    ['callbackUrl', 'https://lis example/'],
    ['callbackUrl', 'https://[::1'],
    ['callbackUrl', `https://lis.example/${'x'.repeat(2048)}`],
    ['micronsPerPixel', '0'],
    ['micronsPerPixel', '-0.16'],
    ['micronsPerPixel', '160'],
    ['micronsPerPixel', '0,16'],
    ['micronsPerPixel', 'NaN'],
    ['micronsPerPixel', 'Infinity'],
    ['micronsPerPixel', '0x1'],
    ['targetCells', '0'],
    ['targetCells', '99.5'],
    ['targetCells', '10001'],
    ['targetCells', '1e9'],
    ['targetCells', 'true'],
    ['wbcCount', '7200'],
    ['wbcCount', '-0.1'],
    ['wbcCount', '7.2 10*9/L'],
    ['priority', 'STAT'],
    ['priority', 'urgent'],
    ['metadata', 'not json'],
    ['metadata', '[]'],
    ['metadata', 'null'],
    ['metadata', '"text"'],
    ['metadata', '{"a":"\\u0000"}'],
    ['metadata', '{"\\u0000":1}'],
    ['metadata', '{"a":["\\ud800"]}'],
    ['metadata', '{"a":1e999}'],
    ['metadata', `${'{"a":'.repeat(17)}1${'}'.repeat(17)}`],
  ])('refuses %s = %j', (field, value) => {
    const { causes } = parse({ [field]: value });
    expect(causes).toHaveLength(1);
    expect(causes[0]).toMatchObject({ field, code: 'invalid-field' });
    expect(causes[0]?.detail).toMatch(/\w/);
  });

  it.each([
    ['accessionNumber', 'x'.repeat(199), 'x'.repeat(199)],
    ['accessionNumber', '😀'.repeat(199), '😀'.repeat(199)],
    ['accessionNumber', ' 0012 ', ' 0012 '],
    ['micronsPerPixel', '.25', 0.25],
    ['micronsPerPixel', ' 1.6e-1 ', 0.16],
    ['targetCells', '1e2', 100],
    ['targetCells', '10000', 10_000],
    ['wbcCount', '0', 0],
    ['wbcCount', '1000', 1000],
    ['collectedAt', '2024-02-29T00:00:00Z', '2024-02-29T00:00:00.000Z'],
    ['collectedAt', '2026-11-20 08:15:00.123456-05:30', '2026-11-20T13:45:00.123Z'],
    ['callbackUrl', 'HTTP://10.0.0.5:8080', 'http://10.0.0.5:8080/'],
    ['metadata', '{}', {}],
    ['metadata', '{"__proto__":{"a":1}}', JSON.parse('{"__proto__":{"a":1}}')],
    ['metadata', `${'{"a":'.repeat(15)}{}${'}'.repeat(15)}`, JSON.parse(`${'{"a":'.repeat(15)}{}${'}'.repeat(15)}`)],
  ])('accepts %s = %j', (field, value, expected) => {
    const { order, causes } = parse({ [field]: value });
    expect(causes).toEqual([]);
    expect(order[field as keyof typeof order]).toEqual(expected);
  });

  it('accepts exactly the scales that the networks accept', () => {
    expect(ORDER_LIMITS.micronsPerPixel).toEqual(MICRONS_PER_PIXEL_RANGE);
  });
});

describe('unknownField', () => {
  it.each([
    ['image', 'images'],
    ['images[]', 'images'],
    ['file', 'images'],
    ['accession_number', 'accessionNumber'],
    ['AccessionNumber', 'accessionNumber'],
    ['micronPerPixel', 'micronsPerPixel'],
    ['priorty', 'priority'],
    ['call-back-url', 'callbackUrl'],
  ])('guesses that %s meant %s', (name, meant) => {
    expect(unknownField(name).detail).toContain(`\`${meant}\``);
  });

  it('lists the fields where nothing is close', () => {
    expect(unknownField('patientName').detail).toContain('accessionNumber, specimenId');
  });

  it('shows a hostile name harmlessly', () => {
    expect(unknownField(`a\u0000${'x'.repeat(5000)}`).field).toBe(`a\uFFFD${'x'.repeat(62)}…`);
  });
});

describe('printable', () => {
  it('replaces control characters and cuts', () => {
    expect(printable('a\r\nb\u0000c.jpg', 255)).toBe('a\uFFFD\uFFFDb\uFFFDc.jpg');
    expect(printable('abcdef', 3)).toBe('abc…');
  });
});
