import { ExpectedError } from '../errors.js';

/** Why a port cannot be listened on, in words where a person can put it right. */
export function listenError(error: unknown, host: string, port: number): unknown {
  if (!(error instanceof Error) || !('code' in error)) return error;
  switch (error.code) {
    case 'EADDRINUSE':
      return new ExpectedError(
        `Port ${port} on ${host} is in use. Stop what listens there, or set PORT to another port (0 takes a free one).`,
      );
    case 'EACCES':
      return new ExpectedError(`Port ${port} on ${host} is not for ordinary users. Set PORT to 1024 or more.`);
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return new ExpectedError(
        `HOST ${host} is not an address of this machine. Use 127.0.0.1, or 0.0.0.0 for all of them.`,
      );
    default:
      return error;
  }
}
