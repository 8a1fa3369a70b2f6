import { setTimeout as sleep } from 'node:timers/promises';
import type { PgPoolClient } from 'bullmq';
import type pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createPool } from '../../../src/storage/pool.js';
import { SharedListener } from '../../../src/storage/shared-listener.js';
import { openTestDatabase, SILENT, type TestDatabase } from '../../support/database.js';
import { type Network, openNetwork } from '../../support/network.js';

let test: TestDatabase;
let network: Network;
let pool: pg.Pool;
let shared: SharedListener;
beforeEach(async () => {
  test = await openTestDatabase();
  const url = new URL(test.url);
  network = await openNetwork(Number(url.port));
  url.port = String(network.port);
  pool = createPool({ connectionString: url.href, max: 2 }, SILENT, 'lost');
  shared = new SharedListener(pool);
});
afterEach(async () => {
  await shared.end();
  await pool.end();
  await network.close();
  await test.close();
});

interface Borrower {
  readonly client: PgPoolClient;
  readonly heard: string[];
  readonly errors: Error[];
}

/** As a worker of BullMQ does it. */
async function borrow(): Promise<Borrower> {
  const client = await shared.connect();
  const heard: string[] = [];
  const errors: Error[] = [];
  client.on('notification', ({ payload }) => heard.push(payload ?? ''));
  client.on('error', (error) => errors.push(error));
  await client.query('LISTEN jobs');
  return { client, heard, errors };
}

async function notify(payload: string): Promise<void> {
  await test.database.pool.query('SELECT pg_notify($1, $2)', ['jobs', payload]);
  await sleep(100);
}

const pidOf = async ({ client }: Borrower): Promise<number> =>
  (await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]?.pid ?? 0;

describe('a shared listener', () => {
  it('is one connection, on which all hear, and the pool keeps the rest', async () => {
    const [first, second, third] = [await borrow(), await borrow(), await borrow()];
    expect(new Set([await pidOf(first), await pidOf(second), await pidOf(third)]).size).toBe(1);
    expect(await shared.query('SELECT $1::int AS sum', [3])).toMatchObject({ rows: [{ sum: 3 }] });
    second.client.removeAllListeners('notification');
    third.client.release();
    await notify('a');
    expect([first.heard, second.heard, third.heard]).toEqual([['a'], [], []]);
    expect(pool.totalCount).toBe(2);
  });

  it('has its statements wait for each other, whoever sends them', async () => {
    const warned = new Promise<string>((settle) => process.once('warning', ({ message }) => settle(message)));
    const [first, second] = [await borrow(), await borrow()];
    const failing = first.client.query('SELECT 1 / 0');
    const sums = [first, second, first].map(({ client }, n) => client.query<{ n: number }>('SELECT $1::int AS n', [n]));
    await expect(failing).rejects.toMatchObject({ code: '22012' });
    expect((await Promise.all(sums)).map(({ rows }) => rows[0]?.n)).toEqual([0, 1, 2]);
    expect(await Promise.race([warned, sleep(50)])).toBeUndefined();
  });

  it('tells each of a lost connection once, and opens one anew for all', async () => {
    const before = [await borrow(), await borrow()] as const;
    const silent = await shared.connect();
    silent.release();
    await shared.connect();
    await test.database.pool.query('SELECT pg_terminate_backend($1)', [await pidOf(before[0])]);
    await expect.poll(() => before.map(({ errors }) => errors.length)).toEqual([1, 1]);
    const after = await Promise.all([borrow(), borrow()]);
    expect(await pidOf(after[0])).toBe(await pidOf(after[1]));
    await notify('b');
    expect([...before, ...after].map(({ heard }) => heard)).toEqual([[], [], ['b'], ['b']]);
  });

  it('is asked for anew after it could not be opened', async () => {
    network.sever();
    await expect(Promise.all([shared.connect(), shared.connect()])).rejects.toThrow();
    network.heal();
    const borrower = await borrow();
    await notify('c');
    expect(borrower.heard).toEqual(['c']);
  });
});
