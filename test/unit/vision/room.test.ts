import { describe, expect, it } from 'vitest';
import { createRoom } from '../../../src/vision/room.js';

/** Who has come in so far. */
function visitors(size: number) {
  const room = createRoom(size);
  const inside: string[] = [];
  const leave = new Map<string, () => void>();
  const ask = (name: string, amount: number, signal?: AbortSignal): Promise<void> =>
    room.take(amount, signal).then((giveBack) => {
      inside.push(name);
      leave.set(name, giveBack);
    });
  return { ask, inside, leave: (name: string) => leave.get(name)?.() };
}
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('a room', () => {
  it('lets in what fits, and the rest in its order as places get free', async () => {
    const { ask, inside, leave } = visitors(10);
    void ask('a', 6);
    void ask('b', 6);
    // Would fit beside a, but b was there first.
    void ask('c', 2);
    await settled();
    expect(inside).toEqual(['a']);
    leave('a');
    await settled();
    expect(inside).toEqual(['a', 'b', 'c']);
  });

  it('takes what is larger than itself, alone', async () => {
    const { ask, inside, leave } = visitors(10);
    void ask('giant', 500);
    void ask('small', 1);
    await settled();
    expect(inside).toEqual(['giant']);
    leave('giant');
    await settled();
    expect(inside).toEqual(['giant', 'small']);
  });

  it('forgets who no longer waits, and lets those behind in', async () => {
    const { ask, inside, leave } = visitors(10);
    const gone = new AbortController();
    void ask('a', 6);
    const waits = ask('b', 6, gone.signal);
    void ask('c', 2);
    await settled();
    gone.abort(new Error('changed my mind'));
    await expect(waits).rejects.toThrow('changed my mind');
    await settled();
    expect(inside).toEqual(['a', 'c']);
    leave('a');
    leave('c');
    await ask('all of it', 10);
    await expect(ask('d', 1, AbortSignal.abort(new Error('too late')))).rejects.toThrow('too late');
  });
});
