import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { inTransaction } from '../../../src/storage/database.js';
import { openTestDatabase, type TestDatabase } from '../../support/database.js';

let test: TestDatabase;
beforeAll(async () => {
  test = await openTestDatabase();
  await test.database.pool.query('CREATE TABLE notes (at serial PRIMARY KEY, text text NOT NULL)');
});
afterAll(() => test.close());
beforeEach(() => test.database.pool.query('TRUNCATE notes RESTART IDENTITY'));

const INSERT = 'INSERT INTO notes (text) VALUES ($1)';

async function notes(): Promise<string[]> {
  const { rows } = await test.database.pool.query<{ text: string }>('SELECT text FROM notes ORDER BY at');
  return rows.map(({ text }) => text);
}

describe('a transaction', () => {
  it('runs statements that leave together in their order, those of one text too', async () => {
    const found = await inTransaction(test.database.pool, async (client) => {
      const [, , { rows }] = await Promise.all([
        client.query(INSERT, ['first']),
        client.query(INSERT, ['second']),
        client.query('SELECT count(*)::int AS n FROM notes WHERE text <> $1', ['']),
      ]);
      return rows[0].n;
    });
    expect(found).toBe(2);
    expect(await notes()).toEqual(['first', 'second']);
  });

  it('keeps nothing where one of them fails, and says what failed rather than what was refused because of it', async () => {
    const tried = inTransaction(test.database.pool, (client) =>
      Promise.all([client.query(INSERT, ['before']), client.query(INSERT, [null]), client.query(INSERT, ['behind'])]),
    );
    await expect(tried).rejects.toMatchObject({ code: '23502' });
    expect(await notes()).toEqual([]);
    await inTransaction(test.database.pool, (client) => client.query(INSERT, ['after']));
    expect(await notes()).toEqual(['after']);
  });

  it('keeps nothing where the work gives up before the first answer', async () => {
    const tried = inTransaction(test.database.pool, async (client) => {
      client.query(INSERT, ['on its way']).catch(() => undefined);
      throw new Error('no more');
    });
    await expect(tried).rejects.toThrow('no more');
    expect(await notes()).toEqual([]);
  });

  it('rejects all that is on its way when the connection is lost, and the next one works', async () => {
    const answers: string[] = [];
    const tried = inTransaction(test.database.pool, async (client) => {
      const sent = [
        client.query(INSERT, ['lost']),
        client.query('SELECT pg_terminate_backend(pg_backend_pid())'),
        client.query(INSERT, ['behind']),
      ];
      const settled = await Promise.allSettled(sent);
      answers.push(...settled.map(({ status }) => status));
      await Promise.all(sent);
    });
    await expect(tried).rejects.toThrow();
    expect(answers).toEqual(['fulfilled', 'rejected', 'rejected']);
    expect(await notes()).toEqual([]);
  });
});
