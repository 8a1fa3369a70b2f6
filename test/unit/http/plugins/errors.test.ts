import { expect, it } from 'vitest';
import { loggable } from '../../../../src/http/plugins/errors.js';

it('keeps the place of an error but not the values in the message of a database client', () => {
  class PrismaClientValidationError extends Error {
    override readonly name = 'PrismaClientValidationError';
  }
  const fault = loggable(new PrismaClientValidationError('where: { accessionNumber: "H-26-001" }\n    more'));
  expect(JSON.stringify(fault)).not.toContain('H-26-001');
  expect(fault.name).toBe('PrismaClientValidationError');
  expect(fault.frames[0]).toMatch(/^at /);
});

it('keeps the message of other errors', () => {
  expect(loggable(new TypeError('x is not a function'))).toMatchObject({ message: 'x is not a function' });
});
