/** `--rounds 3 --seconds 10`: how often, and how long each measurement takes. */
import { parseArgs } from 'node:util';

export interface Options {
  readonly rounds: number;
  readonly seconds: number;
}

export function readOptions(defaults: Options): Options {
  const { values } = parseArgs({ options: { rounds: { type: 'string' }, seconds: { type: 'string' } } });
  const positive = (text: string | undefined, otherwise: number, name: string): number => {
    const value = text === undefined ? otherwise : Number(text);
    if (!(value > 0 && value <= 600)) throw new Error(`--${name} must be between 0 and 600`);
    return value;
  };
  return {
    rounds: Math.ceil(positive(values.rounds, defaults.rounds, 'rounds')),
    seconds: positive(values.seconds, defaults.seconds, 'seconds'),
  };
}
