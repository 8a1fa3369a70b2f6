/** Orders for the built program: posts them, reads them, waits for their end. */
import { setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import type { AnalysisDocument } from '../../src/storage/documents.js';
import type { Service } from './program.js';
import { drawSmear } from './smear.js';

const PATIENCE_MS = 240_000;

/** A small field with two white cells. */
export async function smallSmear(seed: number): Promise<Buffer> {
  const [width, height] = [320, 240];
  const { data } = drawSmear({ seed, width, height, micronsPerPixel: 0.2, cells: { neutrophil: 1, lymphocyte: 1 } });
  return sharp(data, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

type Reachable = Pick<Service, 'address' | 'headers'>;

/** Returns the id of the analysis. */
export async function post({ address, headers }: Reachable, images: readonly Buffer[]): Promise<string> {
  const form = new FormData();
  form.append('micronsPerPixel', '0.2');
  for (const [n, image] of images.entries()) form.append('images', new Blob([new Uint8Array(image)]), `field-${n}.png`);
  const response = await fetch(`${address}/analyze`, { method: 'POST', body: form, headers });
  if (response.status !== 202) throw new Error(`answered ${response.status}: ${await response.text()}`);
  return ((await response.json()) as { id: string }).id;
}

export async function read({ address, headers }: Reachable, id: string): Promise<AnalysisDocument> {
  const response = await fetch(`${address}/analyses/${id}`, { headers });
  if (response.status !== 200) throw new Error(`answered ${response.status}: ${await response.text()}`);
  return (await response.json()) as AnalysisDocument;
}

export async function ended(service: Reachable, id: string): Promise<AnalysisDocument> {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const analysis = await read(service, id);
    if (analysis.status === 'completed' || analysis.status === 'failed') return analysis;
    if (Date.now() > deadline) throw new Error(`still ${analysis.status}`);
    await sleep(100);
  }
}
