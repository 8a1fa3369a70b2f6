/** Who asks: what a key, a token or the development switch makes of a request. */
import type { Scope } from '../../storage/api-keys.js';

export interface Principal {
  /** Of the key, or the subject of the token. */
  readonly id: string;
  /** The tenant: nothing of another laboratory is seen or changed. */
  readonly laboratory: string;
  readonly scopes: readonly Scope[];
  readonly kind: 'key' | 'token' | 'open' | 'none';
}

/** Of addresses that ask for nobody. Its laboratory is none, so a route that forgot to ask finds nothing. */
export const NOBODY: Principal = Object.freeze({ id: '', laboratory: '', scopes: [], kind: 'none' });
