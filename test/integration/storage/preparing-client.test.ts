import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PreparingClient } from '../../../src/storage/preparing-client.js';
import { openTestDatabase, type TestDatabase } from '../../support/database.js';

let test: TestDatabase;
let client: pg.PoolClient;
let pool: pg.Pool;
beforeAll(async () => {
  test = await openTestDatabase();
  pool = new pg.Pool({ Client: PreparingClient, connectionString: test.database.url, max: 1 });
  client = await pool.connect();
});
afterAll(async () => {
  client.release();
  await pool.end();
  await test.close();
});

async function prepared(like: string): Promise<number> {
  const { rows } = await client.query(
    `SELECT count(*)::int AS n FROM pg_prepared_statements WHERE statement LIKE '${like}'`,
  );
  return rows[0].n;
}

describe('a connection that prepares', () => {
  it('has a statement with parameters planned once, however it is sent', async () => {
    const text = 'SELECT $1::int + $2::int AS sum';
    expect((await client.query(text, [1, 2])).rows).toEqual([{ sum: 3 }]);
    expect((await client.query({ text, values: [3, 4] })).rows).toEqual([{ sum: 7 }]);
    const byCallback = await new Promise((resolve, reject) =>
      client.query(text, [5, 6], (error, result) => (error ? reject(error) : resolve(result.rows))),
    );
    expect(byCallback).toEqual([{ sum: 11 }]);
    expect(await prepared('SELECT $1::int + $2%')).toBe(1);
  });

  it('sends what has no parameters, or a name of its own, as it is', async () => {
    await client.query('SELECT 41 AS bare');
    await client.query({ name: 'mine', text: 'SELECT $1::int AS named', values: [1] });
    expect(await prepared('SELECT 41 AS bare')).toBe(0);
    const { rows } = await client.query(`SELECT name FROM pg_prepared_statements WHERE statement LIKE '%AS named'`);
    expect(rows).toEqual([{ name: 'mine' }]);
  });

  it('rejects as pg does, and goes on', async () => {
    await expect(client.query('SELECT 1 / $1::int', [0])).rejects.toMatchObject({ code: '22012' });
    await expect(client.query('SELECT nothing FROM nowhere WHERE $1', [true])).rejects.toMatchObject({ code: '42P01' });
    expect((await client.query('SELECT $1::text AS said', ['on'])).rows).toEqual([{ said: 'on' }]);
  });

  it('prepares nothing any longer after a newer version changed a table under it: the second try succeeds', async () => {
    await client.query('CREATE TEMPORARY TABLE grown (a int)');
    const read = () => client.query('SELECT * FROM grown WHERE a > $1', [0]);
    await read();
    await client.query('ALTER TABLE grown ADD COLUMN b int');
    await expect(read()).rejects.toMatchObject({ code: '0A000' });
    expect((await read()).fields.map((field) => field.name)).toEqual(['a', 'b']);
  });
});
