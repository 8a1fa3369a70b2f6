import { describe, expect, test } from 'vitest';
import {
  CELL_TYPE_INFO,
  CELL_TYPES,
  DIFFERENTIAL_LOINC,
  isCellType,
  isWbcClass,
  OTHER_CLASSES,
  WBC_CLASSES,
} from '../../../src/hematology/cell-types.js';

test('every type is either a WBC class or listed beside them', () => {
  expect([...WBC_CLASSES, ...OTHER_CLASSES]).toEqual([...CELL_TYPES]);
  for (const type of CELL_TYPES) {
    expect(isWbcClass(type)).toBe((WBC_CLASSES as readonly string[]).includes(type));
  }
});

test('what a result can name is the list that the API promises', () => {
  expect(CELL_TYPES.join(' ')).toBe(
    'neutrophil lymphocyte monocyte eosinophil basophil immature_granulocyte blast erythroblast platelet smudge ' +
      'artefact unidentified',
  );
});

test('names for people exist, short ones are unique and at most four characters', () => {
  const shortNames = CELL_TYPES.map((type) => CELL_TYPE_INFO[type].shortName);
  expect(new Set(shortNames).size).toBe(CELL_TYPES.length);
  for (const name of shortNames) expect(name.length).toBeLessThanOrEqual(4);
  for (const type of CELL_TYPES) expect(CELL_TYPE_INFO[type].displayName).toMatch(/^[A-Z]/);
});

/** The last digit of a LOINC code is a check digit (mod 10, every other digit doubled, from the right). */
function loincCheckDigit(code: string): number {
  const digits = [...(code.split('-')[0] ?? '')].reverse().map(Number);
  const sum = digits.reduce((total, digit, index) => {
    const value = index % 2 === 0 ? digit * 2 : digit;
    return total + (value > 9 ? value - 9 : value);
  }, 0);
  return (10 - (sum % 10)) % 10;
}

describe('LOINC codes', () => {
  const codes = [
    ...CELL_TYPES.flatMap((type) => Object.values(CELL_TYPE_INFO[type].loinc)),
    ...Object.values(DIFFERENTIAL_LOINC),
  ].filter((code) => code !== null);

  test('carry their check digit', () => {
    expect(codes).toHaveLength(24);
    for (const code of codes) expect(code, code).toMatch(new RegExp(`^\\d{3,5}-${loincCheckDigit(code)}$`));
  });

  // As looked up: class, % method unspecified, % automated, % manual, # automated. 26508-2 is bands, not neutrophils.
  test.each([
    ['neutrophil', '26511-6', '770-8', '23761-0', '751-8'],
    ['lymphocyte', '26478-8', '736-9', '737-7', '731-0'],
    ['monocyte', '26485-3', '5905-5', '744-3', '742-7'],
    ['eosinophil', '26450-7', '713-8', '714-6', '711-2'],
    ['basophil', '30180-4', '706-2', '707-0', '704-7'],
    ['blast', null, null, '709-6', null],
    ['immature_granulocyte', null, null, null, null],
  ] as const)('of %s', (type, percent, percentAutomated, percentManual, absoluteAutomated) => {
    expect(CELL_TYPE_INFO[type].loinc).toEqual({ percent, percentAutomated, percentManual, absoluteAutomated });
  });

  test('stand for one thing each', () => {
    expect(new Set(codes).size).toBe(codes.length);
  });
});

test('isCellType', () => {
  for (const type of CELL_TYPES) expect(isCellType(type)).toBe(true);
  for (const other of ['', 'Neutrophil', 'band', 'toString']) expect(isCellType(other)).toBe(false);
});
