/** A bounded amount of something (pixels in memory) that work takes a part of and gives back. */

export interface Room {
  /**
   * Waits until so much is free, in the order of asking: small parts do not pass by a large one for ever. More than there is
   * counts as all of it. Resolves with what gives it back; rejects with the signal's reason.
   */
  take(amount: number, signal?: AbortSignal): Promise<() => void>;
}

interface Waiting {
  readonly amount: number;
  readonly enter: () => void;
}

export function createRoom(size: number): Room {
  let free = size;
  const waiting: Waiting[] = [];
  const letIn = (): void => {
    for (let next = waiting[0]; next !== undefined && next.amount <= free; next = waiting[0]) {
      waiting.shift();
      free -= next.amount;
      next.enter();
    }
  };
  return {
    take: (wanted, signal) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason);
        const amount = Math.min(wanted, size);
        const giveBack = (): void => {
          free += amount;
          letIn();
        };
        const place: Waiting = {
          amount,
          enter: () => {
            signal?.removeEventListener('abort', onAbort);
            resolve(giveBack);
          },
        };
        const onAbort = (): void => {
          waiting.splice(waiting.indexOf(place), 1);
          reject(signal?.reason);
          // It may have stood in the way of smaller ones.
          letIn();
        };
        signal?.addEventListener('abort', onAbort, { once: true });
        waiting.push(place);
        letIn();
      }),
  };
}
