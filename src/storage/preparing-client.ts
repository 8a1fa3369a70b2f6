/**
 * A connection that has the server parse and plan each statement once. The service sends the same few dozen statements with every
 * image; planning them anew took the server longer than running them (docs/decisions/0086).
 */
import { createHash } from 'node:crypto';
import pg from 'pg';

/** Statements of changing length (lists of keys) would otherwise fill the server's memory one by one. */
const MOST_STATEMENTS = 300;
const names = new Map<string, string>();

/** The name under which a statement is prepared; undefined: it is sent as it is. */
function nameOf(text: string): string | undefined {
  const known = names.get(text);
  if (known !== undefined || names.size >= MOST_STATEMENTS) return known;
  const name = createHash('sha256').update(text).digest('base64url').slice(0, 32);
  names.set(text, name);
  return name;
}

interface Statement {
  readonly text: string;
  readonly values?: readonly unknown[];
  readonly name?: string;
}

type Callback = (error: Error, result: unknown) => void;
type Query = (statement: unknown, values?: unknown, callback?: unknown) => unknown;

/** For pools: takes the place of pg's own client. Statements without parameters are sent as they are. */
export class PreparingClient extends pg.Client {
  /** A migration of a newer version changed what a prepared statement returns: from then on this connection prepares nothing. */
  private outdated = false;

  constructor(config?: pg.ClientConfig) {
    super(config);
    const query = this.query.bind(this) as Query;
    const preparing: Query = (statement, values, callback) => {
      const prepared = this.outdated ? statement : named(statement, values);
      if (typeof values === 'function') return query(prepared, this.watched(values as Callback));
      if (typeof callback === 'function') return query(prepared, values, this.watched(callback as Callback));
      const answer = query(prepared, values);
      if (answer instanceof Promise) answer.catch((error: unknown) => this.notice(error));
      return answer;
    };
    this.query = preparing as typeof this.query;
  }

  private watched(callback: Callback): Callback {
    return (error, result) => {
      this.notice(error);
      callback(error, result);
    };
  }

  private notice(error: unknown): void {
    // feature_not_supported: "cached plan must not change result type". Whoever asked tries again, as after any lost connection.
    if (error instanceof pg.DatabaseError && error.code === '0A000') this.outdated = true;
  }
}

function named(statement: unknown, values: unknown): unknown {
  const given: Statement | undefined = typeof statement === 'string' ? { text: statement } : asStatement(statement);
  if (given === undefined || given.name !== undefined) return statement;
  const parameters = Array.isArray(values) ? values : given.values;
  if (parameters === undefined || parameters.length === 0) return statement;
  const name = nameOf(given.text);
  return name === undefined ? statement : { ...given, name };
}

/** Cursors and the like bring how they are sent themselves. */
function asStatement(value: unknown): Statement | undefined {
  if (typeof value !== 'object' || value === null || 'submit' in value) return undefined;
  return 'text' in value && typeof value.text === 'string' ? (value as Statement) : undefined;
}
