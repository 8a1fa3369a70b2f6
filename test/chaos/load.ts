/** A LIS that posts orders one after the other, and each again with the same Idempotency-Key until it is answered. */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import type { Random } from '../support/random.js';
import { drawSmear } from '../support/smear.js';
import type { System } from './system.js';

const POSTERS = 3;
const PAUSE_MS = 150;
const ANSWER_TIMEOUT_MS = 20_000;
/** More would only lengthen the wait at the end. */
const MOST_OPEN = 24;

export interface Order {
  readonly accession: string;
  /** Of the analysis, once it was answered 202. */
  id?: string;
  /** How often it was sent. */
  tries: number;
}

export interface Load {
  readonly orders: readonly Order[];
  /** Answers by status; 0: none. */
  readonly answers: ReadonlyMap<number, number>;
  /** Begins no further order, and waits until every begun one is answered. */
  finish(): Promise<void>;
}

/** A dozen small pictures: the same bytes must give the same cells every time. */
export async function drawImages(): Promise<Buffer[]> {
  const images: Buffer[] = [];
  for (let seed = 1; seed <= 12; seed++) {
    // Every sixth is too large to be kept in memory while it is received, and lies on the disk that a fault fills.
    const large = seed % 6 === 0;
    const [width, height] = large ? [720, 540] : [256, 192];
    const { data } = drawSmear({ seed, width, height, micronsPerPixel: 0.2, cells: { neutrophil: 1, lymphocyte: 1 } });
    const image = sharp(data, { raw: { width, height, channels: 3 } });
    images.push(await (large ? image.tiff({ compression: 'none' }) : image.png()).toBuffer());
  }
  return images;
}

export function startLoad(system: System, images: readonly Buffer[], random: Random, ended: () => number): Load {
  const orders: Order[] = [];
  const answers = new Map<number, number>();
  let finishing = false;
  const count = (status: number): void => {
    answers.set(status, (answers.get(status) ?? 0) + 1);
  };

  async function send(order: Order, fields: readonly Buffer[], key: string, urgent: boolean): Promise<string | null> {
    const form = new FormData();
    if (urgent) form.append('priority', 'stat');
    form.append('accessionNumber', order.accession);
    form.append('micronsPerPixel', '0.2');
    form.append('callbackUrl', system.callbackUrl);
    for (const [n, bytes] of fields.entries()) form.append('images', new Blob([new Uint8Array(bytes)]), `${n}.png`);
    order.tries += 1;
    try {
      const response = await fetch(`${system.address}/analyze`, {
        method: 'POST',
        body: form,
        headers: { 'idempotency-key': key },
        signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
      });
      const body = (await response.json()) as { id?: string };
      count(response.status);
      return response.status === 202 ? (body.id ?? null) : null;
    } catch {
      count(0);
      return null;
    }
  }

  async function post(): Promise<void> {
    while (!finishing) {
      const answered = orders.filter((order) => order.id !== undefined).length;
      if (answered - ended() > MOST_OPEN) {
        await sleep(PAUSE_MS);
        continue;
      }
      const order: Order = { accession: `CHAOS-${orders.length + 1}`, tries: 0 };
      orders.push(order);
      const first = random.integer(0, images.length - 1);
      // Every eighth is a whole smear, whose images share jobs while others wait.
      const count = random.integer(1, 8) === 1 ? images.length : random.integer(1, 3);
      // Every fifth of the others is urgent, and such a job gives way to it.
      const urgent = count < images.length && random.integer(1, 5) === 1;
      const fields = [...images, ...images].slice(first, first + count);
      const key = randomUUID();
      for (;;) {
        const id = await send(order, fields, key, urgent);
        if (id !== null) {
          order.id = id;
          break;
        }
        await sleep(PAUSE_MS);
      }
      await sleep(PAUSE_MS);
    }
  }

  const posting = Promise.all(Array.from({ length: POSTERS }, post));
  return {
    orders,
    answers,
    finish: async () => {
      finishing = true;
      await posting;
    },
  };
}
