/**
 * Draws `samples/smear.png`, the synthetic smear of the README's first request, and with the shipped model the pictures of its
 * answers: `docs/images/overlay.png`, and the model card's `examples.png`, four drawn smears from easy to hard, in which a red frame
 * says that a cell was named other than it was drawn, a yellow one that it was not found, a blue one that nothing was drawn there.
 *
 *     npm run build && npm run samples
 */
import { mkdir, writeFile } from 'node:fs/promises';
import sharp from 'sharp';
import { loadConfig } from '../src/config.js';
import { CREAM_STAIN, drawSmear, NEUTRAL_STAIN, PINK_STAIN, type Smear } from '../test/support/smear.js';

const [RED, YELLOW, BLUE] = [
  [227, 23, 10],
  [255, 212, 0],
  [29, 78, 216],
] as const;

const { modelDir } = loadConfig({});

const smear = drawSmear({
  seed: 20261123,
  width: 1280,
  height: 960,
  micronsPerPixel: 0.11,
  // No monocyte: none that was drawn so far resembles a real one enough to be named.
  cells: { neutrophil: 7, lymphocyte: 3, eosinophil: 1, basophil: 1 },
  stain: CREAM_STAIN,
});
const png = await pngOf(smear);
await mkdir('samples', { recursive: true });
await writeFile('samples/smear.png', png);
console.log(`samples/smear.png: ${smear.cells.length} white cells, ${smear.redCells} red cells`);

// From dist/, where the inference worker is plain JavaScript.
const { createVision, renderOverlay } = await import('../src/vision/index.js');
const vision = await createVision({ modelDir, executionProvider: 'cpu', threads: 2 });
try {
  await mkdir('docs/images', { recursive: true });
  const { overlay, cells, scale } = await answer(png);
  await writeFile('docs/images/overlay.png', overlay);
  console.log(
    `docs/images/overlay.png: ${cells.length} cells found, ${scale.micronsPerPixel?.toFixed(3)} µm per pixel`,
  );
  for (const cell of cells) console.log(`  ${cell.class} ${(100 * cell.confidence).toFixed(0)} %`);
  await examples();
} finally {
  await vision.close();
}

async function pngOf({ width, height, data }: Smear): Promise<Buffer> {
  return await sharp(data, { raw: { width, height, channels: 3 } })
    .png({ compressionLevel: 9 })
    .toBuffer();
}

async function answer(bytes: Buffer) {
  const { cells, scale } = await vision.analyze(bytes);
  const overlay = await renderOverlay(
    bytes,
    cells.map(({ box, class: name, confidence, mask }) => ({ box, class: name, confidence, mask })),
  );
  return { overlay: await sharp(overlay).png({ compressionLevel: 9 }).toBuffer(), cells, scale };
}

/** Easy, touching, badly lit and out of focus, and monocytes, which the drawing does badly. */
async function examples(): Promise<void> {
  const size = { width: 760, height: 570 };
  const field = { ...size, micronsPerPixel: 0.11 };
  const touching = (['neutrophil', 'neutrophil', 'lymphocyte', 'eosinophil'] as const).map((name, i) => ({
    class: name,
    xUm: 22 + 10.5 * i,
    yUm: 26 + 5 * (i % 2),
  }));
  const drawn = [
    drawSmear({ ...field, seed: 1, cells: { neutrophil: 3, lymphocyte: 2, eosinophil: 1 }, stain: PINK_STAIN }),
    drawSmear({ ...field, seed: 2, placed: touching, redCellCover: 0.5, stain: NEUTRAL_STAIN }),
    drawSmear({ ...field, seed: 3, cells: { neutrophil: 3, lymphocyte: 2, basophil: 1 }, vignette: 0.5, blurUm: 0.5 }),
    drawSmear({ ...field, seed: 4, cells: { monocyte: 4, lymphocyte: 1 }, stain: CREAM_STAIN }),
  ];
  const panels = [];
  for (const [i, smear] of drawn.entries()) {
    const { overlay, cells } = await answer(await pngOf(smear));
    const { data, info } = await sharp(overlay).removeAlpha().raw().toBuffer({ resolveWithObject: true });
    frameErrors(data, smear, cells);
    const raw = { width: info.width, height: info.height, channels: 3 as const };
    const input = await sharp(data, { raw }).png().toBuffer();
    panels.push({ input, left: (i % 2) * (size.width + 8), top: Math.floor(i / 2) * (size.height + 8) });
  }
  const sheet = { width: 2 * size.width + 8, height: 2 * size.height + 8, channels: 3 as const, background: '#ffffff' };
  await sharp({ create: sheet })
    .composite(panels)
    .png({ compressionLevel: 9, palette: true })
    .toFile(`${modelDir}/examples.png`);
}

/** Frames what went wrong, and prints a line of counts for whoever runs this. */
function frameErrors(rgb: Buffer, smear: Smear, cells: Awaited<ReturnType<typeof answer>>['cells']): void {
  const open = new Set(cells.filter((cell) => cell.class !== 'platelet' && cell.class !== 'artefact'));
  let right = 0;
  const frame = (box: { x: number; y: number; width: number; height: number }, colour: readonly number[]): void => {
    const [left, top, right, bottom] = [box.x - 6, box.y - 6, box.x + box.width + 6, box.y + box.height + 6];
    for (let y = Math.max(0, top); y < Math.min(smear.height, bottom); y++) {
      for (let x = Math.max(0, left); x < Math.min(smear.width, right); x++) {
        const inside = Math.min(x - left, right - 1 - x, y - top, bottom - 1 - y);
        if (inside < 3) rgb.set(colour, (y * smear.width + x) * 3);
      }
    }
  };
  for (const truth of smear.cells) {
    const found = [...open].find(({ box }) => {
      const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
      return Math.hypot(x - truth.x, y - truth.y) < truth.radius / 2;
    });
    if (found === undefined) frame(truth.box, YELLOW);
    else {
      open.delete(found);
      if (found.class === truth.class) right++;
      else frame(found.box, RED);
    }
  }
  for (const { box } of open) frame(box, BLUE);
  console.log(
    `examples.png: ${right} of ${smear.cells.length} named as drawn, ${open.size} found where nothing was drawn`,
  );
}
