/**
 * An error whose message is meant for the person at the terminal: what happened and what to do. The command line
 * prints the message alone; every other error keeps its stack, because it is a defect.
 */
export class ExpectedError extends Error {
  override readonly name = 'ExpectedError';
}
