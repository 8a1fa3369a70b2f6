/**
 * Draws `samples/smear.png`, the synthetic smear of the README's first request, and with the shipped model the picture of its
 * result, `docs/images/overlay.png`.
 *
 *     npm run build && npm run samples
 */
import { mkdir, writeFile } from 'node:fs/promises';
import sharp from 'sharp';
import { CREAM_STAIN, drawSmear } from '../test/support/smear.js';

const smear = drawSmear({
  seed: 20261123,
  width: 1280,
  height: 960,
  micronsPerPixel: 0.11,
  // No monocyte: none that was drawn so far resembles a real one enough to be named.
  cells: { neutrophil: 7, lymphocyte: 3, eosinophil: 1, basophil: 1 },
  stain: CREAM_STAIN,
});
const raw = { width: smear.width, height: smear.height, channels: 3 as const };
const png = await sharp(smear.data, { raw }).png({ compressionLevel: 9 }).toBuffer();
await mkdir('samples', { recursive: true });
await writeFile('samples/smear.png', png);
console.log(`samples/smear.png: ${smear.cells.length} white cells, ${smear.redCells} red cells`);

// From dist/, where the inference worker is plain JavaScript.
const { createVision, renderOverlay } = await import('../src/vision/index.js');
const vision = await createVision({ modelDir: 'models/sg-cldff/1.1.0', executionProvider: 'cpu', threads: 2 });
try {
  const { cells, scale } = await vision.analyze(png);
  const described = cells.map((cell) => ({
    box: cell.box,
    class: cell.class,
    confidence: cell.confidence,
    mask: cell.mask,
  }));
  await mkdir('docs/images', { recursive: true });
  const overlay = await renderOverlay(png, described);
  await writeFile('docs/images/overlay.png', await sharp(overlay).png({ compressionLevel: 9 }).toBuffer());
  console.log(
    `docs/images/overlay.png: ${cells.length} cells found, ${scale.micronsPerPixel?.toFixed(3)} µm per pixel`,
  );
  for (const cell of cells) console.log(`  ${cell.class} ${(100 * cell.confidence).toFixed(0)} %`);
} finally {
  await vision.close();
}
