import { expect, it } from 'vitest';
import { isDatabaseUnavailable, isStorageFull } from '../../../src/storage/database-errors.js';

function withCode(code: string, cause?: unknown): Error {
  return Object.assign(new Error('x', { cause }), { code });
}

it.each([
  ['refused', withCode('ECONNREFUSED')],
  ['shutting down', withCode('57P01')],
  ['Prisma cannot reach it', withCode('P1001')],
  ['wrapped', new Error('query failed', { cause: withCode('ECONNRESET') })],
  ['several addresses', new AggregateError([withCode('ECONNREFUSED'), withCode('ECONNREFUSED')])],
  [
    'wrapped by Prisma',
    Object.assign(new Error('invocation failed'), {
      code: 'P2039',
      meta: { driverAdapterError: { name: 'DriverAdapterError', cause: { originalCode: '57P03', kind: 'postgres' } } },
    }),
  ],
  ['cut off', new Error('Connection terminated unexpectedly')],
  ['pool exhausted', new Error('timeout exceeded when trying to connect')],
])('takes "%s" for an outage', (_name, error) => {
  expect(isDatabaseUnavailable(error)).toBe(true);
});

it.each([
  ['a unique violation', withCode('23505')],
  ['a bad query', withCode('42601')],
  [
    'a unique violation wrapped by Prisma',
    Object.assign(new Error('x'), {
      code: 'P2002',
      meta: { driverAdapterError: { cause: { originalCode: '23505' } } },
    }),
  ],
  ['a programming error', new TypeError('x is not a function')],
  ['no error at all', 'ECONNREFUSED'],
])('does not take %s for one', (_name, error) => {
  expect(isDatabaseUnavailable(error)).toBe(false);
});

it('tells a full disk from an outage', () => {
  for (const error of [withCode('ENOSPC'), new Error('insert failed', { cause: withCode('53100') })]) {
    expect(isStorageFull(error)).toBe(true);
    expect(isDatabaseUnavailable(error)).toBe(false);
  }
  expect(isStorageFull(withCode('ECONNREFUSED'))).toBe(false);
});

it('ends on causes that go in a circle', () => {
  const error = new Error('a');
  error.cause = error;
  expect(isDatabaseUnavailable(error)).toBe(false);
});
