/**
 * One connection for all that listen. PostgreSQL wakes every connection of a database that listens to anything for each transaction
 * there that gives a notice, whatever its channel, and each step of a job does. BullMQ would open one for each worker of a queue, most of
 * which have nothing to do (docs/decisions/0086).
 */
import { EventEmitter } from 'node:events';
import type { PgPool, PgPoolClient, PgQueryResult } from 'bullmq';
import type pg from 'pg';

/** A pool to BullMQ: what it lends is the same connection to everyone at once, which therefore only listens and looks. */
export class SharedListener implements PgPool {
  private connection: Promise<InTurn> | undefined;
  private readonly borrowers = new Set<Borrower>();

  constructor(private readonly pool: pg.Pool) {}

  /** BullMQ asks whether connections are kept alive. */
  get options(): pg.PoolOptions {
    return this.pool.options;
  }

  /** Statements of their own run in the pool. */
  query<R>(text: string, values?: readonly unknown[]): Promise<PgQueryResult<R>> {
    return this.pool.query<R & pg.QueryResultRow>(text, values as unknown[]);
  }

  async connect(): Promise<PgPoolClient> {
    this.connection ??= this.open();
    const borrower = new Borrower(await this.connection, () => this.borrowers.delete(borrower));
    this.borrowers.add(borrower);
    return borrower;
  }

  /** Ends the connection; the pool is its owner's to end. */
  async end(): Promise<void> {
    const opened = await this.connection?.catch(() => undefined);
    this.connection = undefined;
    opened?.client.release(true);
  }

  on(event: string, listener: (argument: never) => void): this {
    this.pool.on(event as 'error', listener as (error: Error) => void);
    return this;
  }

  removeAllListeners(event?: string): this {
    this.pool.removeAllListeners(event);
    return this;
  }

  private async open(): Promise<InTurn> {
    const opening = this.pool.connect();
    // Whoever asks after a failure asks anew.
    opening.catch(() => {
      this.connection = undefined;
    });
    const client = await opening;
    client.on('notification', (notice) => {
      for (const borrower of this.borrowers) borrower.emit('notification', notice);
    });
    client.once('error', (error) => {
      this.connection = undefined;
      client.release(true);
      // Each of them asks for a new one, and whoever is first opens it.
      for (const borrower of [...this.borrowers]) borrower.fail(error);
    });
    return new InTurn(client);
  }
}

class Borrower extends EventEmitter implements PgPoolClient {
  constructor(
    private readonly inTurn: InTurn,
    readonly release: () => void,
  ) {
    super();
  }

  query<R>(text: string, values?: readonly unknown[]): Promise<PgQueryResult<R>> {
    return this.inTurn.query<R>(text, values);
  }

  fail(error: Error): void {
    this.release();
    // Without a listener an emitter throws what it is given.
    if (this.listenerCount('error') > 0) this.emit('error', error);
  }
}

/** One statement after the other, whoever asks: pg gives up lining them up itself. */
class InTurn {
  private last: Promise<unknown> = Promise.resolve();

  constructor(readonly client: pg.PoolClient) {}

  query<R>(text: string, values?: readonly unknown[]): Promise<PgQueryResult<R>> {
    const answer = this.last.then(() => this.client.query<R & pg.QueryResultRow>(text, values as unknown[]));
    this.last = answer.catch(() => undefined);
    return answer;
  }
}
