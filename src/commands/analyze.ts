/**
 * `leukodiff analyze FILES…`: images straight through the networks, without server or database. Prints a table and
 * writes masks, overlays and the result as JSON to a folder.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, extname, join } from 'node:path';
import type { Config } from '../config.js';
import { ExpectedError } from '../errors.js';
import { CELL_TYPES, type CellType } from '../hematology/cell-types.js';
import { isCounted } from '../hematology/counting-frame.js';
import { type Differential, differential } from '../hematology/differential.js';
import { cellsOnce, repeatedImages } from '../hematology/repeated-images.js';
import { type Review, reviewRules } from '../hematology/review-rules.js';
import { createLogger } from '../observability/logger.js';
import {
  type CellFinding,
  type ImageAnalysis,
  MICRONS_PER_PIXEL_RANGE,
  type ModelInfo,
  renderMask,
  renderOverlay,
  renderSaliency,
  UndecodableImageError,
  type Vision,
} from '../vision/index.js';
import { openVision } from './runtime.js';

export interface AnalyzeCommandOptions {
  /** Undefined: nothing is written. */
  readonly out?: string | undefined;
  readonly micronsPerPixel?: number | undefined;
  readonly targetCells: number;
  /** Prints the result as JSON instead of the table. */
  readonly json: boolean;
}

interface FileCell extends Omit<CellFinding, 'mask' | 'crop' | 'cam'> {
  readonly id: string;
  readonly image: number;
  readonly counted: boolean;
}

interface FileResult {
  readonly index: number;
  readonly file: string;
  readonly status: 'completed' | 'failed';
  readonly error: string | null;
  /** Of the file's bytes, hexadecimal; null where it cannot be read. */
  readonly sha256: string | null;
  /** Index of the file with the same bytes whose cells are counted in its stead; null: none. */
  readonly repeatOf: number | null;
  readonly width: number | null;
  readonly height: number | null;
  readonly micronsPerPixel: number | null;
  readonly scaleSource: string | null;
  readonly quality: ImageAnalysis['quality'] | null;
  readonly saliencyConsistency: number | null;
  readonly timingsMs: Readonly<Record<string, number>> | null;
  readonly cells: readonly FileCell[];
}

export interface AnalyzeReport {
  readonly model: ModelInfo;
  readonly images: readonly FileResult[];
  readonly differential: Differential;
  readonly review: Review;
}

/** Returns whether every file could be analysed. */
export async function analyze(
  files: readonly string[],
  options: AnalyzeCommandOptions,
  config: Config,
): Promise<boolean> {
  const { micronsPerPixel, out } = options;
  const { min, max } = MICRONS_PER_PIXEL_RANGE;
  if (micronsPerPixel !== undefined && !(micronsPerPixel >= min && micronsPerPixel <= max)) {
    throw new ExpectedError(`--microns-per-pixel must be a number from ${min} to ${max}.`);
  }
  const log = createLogger({
    // The table is what a person asked for; why a GPU is not used is not, unless LOG_LEVEL asks for it.
    level: config.logLevel === 'info' ? 'error' : config.logLevel,
    format: config.logFormat,
    stream: 'stderr',
  });
  if (out !== undefined) await makeFolder(out);
  const vision = await openVision(config, log);
  const progress = createProgress(files.length);
  const names = folderNames(files);
  const images: FileResult[] = [];
  try {
    for (const [index, file] of files.entries()) {
      progress.show(index, basename(file));
      images.push(
        await analyzeFile(
          vision,
          file,
          index,
          options,
          out === undefined ? null : join(out, names[index] ?? String(index)),
        ),
      );
    }
  } finally {
    progress.clear();
    await vision.close();
  }
  const report = toReport(vision.model, images, options.targetCells);
  if (out !== undefined) await writeFile(join(out, 'result.json'), `${JSON.stringify(report, null, 2)}\n`);
  process.stdout.write(options.json ? `${JSON.stringify(report, null, 2)}\n` : `${table(report)}\n`);
  if (!options.json && out !== undefined) process.stdout.write(`Masks, overlays and result.json are in ${out}\n`);
  return images.every((image) => image.status === 'completed');
}

async function analyzeFile(
  vision: Vision,
  file: string,
  index: number,
  { micronsPerPixel }: AnalyzeCommandOptions,
  folder: string | null,
): Promise<FileResult> {
  const nothing = {
    sha256: null,
    repeatOf: null,
    width: null,
    height: null,
    micronsPerPixel: null,
    scaleSource: null,
    quality: null,
    saliencyConsistency: null,
    timingsMs: null,
    cells: [],
  };
  try {
    const bytes = await readFile(file);
    const analysis = await vision.analyze(bytes, micronsPerPixel === undefined ? {} : { micronsPerPixel });
    if (folder !== null) await writePictures(folder, bytes, analysis);
    return {
      index,
      file,
      status: 'completed',
      error: null,
      sha256: createHash('sha256').update(bytes).digest('hex'),
      repeatOf: null,
      width: analysis.width,
      height: analysis.height,
      micronsPerPixel: analysis.scale.micronsPerPixel,
      scaleSource: analysis.scale.source,
      quality: analysis.quality,
      saliencyConsistency: analysis.saliencyConsistency,
      timingsMs: analysis.timingsMs,
      cells: analysis.cells.map(({ mask: _mask, crop: _crop, cam: _cam, ...cell }, number) => ({
        id: `${index}-${number}`,
        image: index,
        ...cell,
        counted: isCounted(cell, analysis),
      })),
    };
  } catch (error) {
    const message = fileError(error);
    process.stderr.write(`${file}: ${message}\n`);
    return { index, file, status: 'failed', error: message, ...nothing };
  }
}

async function writePictures(folder: string, bytes: Uint8Array, analysis: ImageAnalysis): Promise<void> {
  const { width, height, cells, saliency } = analysis;
  const [mask, overlay, heat] = await Promise.all([
    renderMask(width, height, cells),
    renderOverlay(bytes, cells),
    renderSaliency(saliency, width, height),
  ]);
  await mkdir(folder, { recursive: true });
  await Promise.all([
    writeFile(join(folder, 'mask.png'), mask),
    writeFile(join(folder, 'overlay.png'), overlay),
    writeFile(join(folder, 'saliency.png'), heat),
  ]);
}

export function toReport(model: ModelInfo, files: readonly FileResult[], targetCells: number): AnalyzeReport {
  const repeated = repeatedImages(files.map((file) => ({ ...file, failed: file.status === 'failed' })));
  const images = files.map((file) => {
    const repeatOf = repeated.get(file.index) ?? null;
    return repeatOf === null
      ? file
      : { ...file, repeatOf, cells: file.cells.map((cell) => ({ ...cell, counted: false })) };
  });
  const cells = cellsOnce(
    images.flatMap((image) => image.cells),
    images,
  );
  const counted = differential(cells, { targetCells });
  const review = reviewRules({
    differential: counted,
    cells,
    images: images.map(({ index, status, quality, repeatOf }) => ({
      index,
      failed: status === 'failed',
      qualityFlags: quality?.flags ?? [],
      repeatOf,
    })),
  });
  return { model, images, differential: counted, review };
}

/** One folder a file, named after it; files of the same name are told apart by a number. */
export function folderNames(files: readonly string[]): string[] {
  const used = new Set<string>();
  return files.map((file) => {
    const stem = basename(file, extname(file)) || 'image';
    let name = stem;
    for (let n = 2; used.has(name.toLowerCase()); n++) name = `${stem}-${n}`;
    used.add(name.toLowerCase());
    return name;
  });
}

/** The differential as a person reads it: files above, classes below. */
export function table({ images, differential: result, review }: AnalyzeReport): string {
  const lines: string[] = [];
  const width = Math.max(4, ...images.map((image) => image.file.length));
  lines.push(`${'file'.padEnd(width)}  ${'cells'.padStart(5)}  ${'µm/px'.padStart(7)}  classes`);
  for (const image of images) {
    const scale = image.micronsPerPixel === null ? '-' : image.micronsPerPixel.toFixed(3);
    const classes = image.status === 'failed' ? `failed: ${image.error}` : classCounts(image.cells);
    lines.push(
      `${image.file.padEnd(width)}  ${String(image.cells.length).padStart(5)}  ${scale.padStart(7)}  ${classes}`,
    );
  }
  lines.push('', `${'class'.padEnd(22)}${'count'.padStart(6)}${'%'.padStart(8)}   95 % interval`);
  for (const row of result.classes) {
    const percent = row.percent === null ? '-' : row.percent.toFixed(1);
    const interval = row.ci95 === null ? '' : `${row.ci95.low.toFixed(1)} to ${row.ci95.high.toFixed(1)}`;
    lines.push(`${row.class.padEnd(22)}${String(row.count).padStart(6)}${percent.padStart(8)}   ${interval}`);
  }
  lines.push(`${'white cells counted'.padEnd(22)}${String(result.totalWbc).padStart(6)}`);
  for (const row of result.others.filter(({ count }) => count > 0)) {
    lines.push(`${row.class.padEnd(22)}${String(row.count).padStart(6)}${'-'.padStart(8)}   outside the white cells`);
  }
  if (review.required) lines.push('', 'A person must look:', ...review.reasons.map(({ message }) => `  - ${message}`));
  lines.push('');
  return lines.join('\n');
}

function classCounts(cells: readonly { readonly class: CellType }[]): string {
  return CELL_TYPES.map((type) => [type, cells.filter((cell) => cell.class === type).length] as const)
    .filter(([, count]) => count > 0)
    .map(([type, count]) => `${count} ${type}`)
    .join(', ');
}

/** A bar on standard error, where it is a terminal. */
function createProgress(total: number): { show(done: number, name: string): void; clear(): void } {
  const { stderr } = process;
  if (stderr.isTTY !== true) return { show: () => undefined, clear: () => undefined };
  const clear = (): void => {
    stderr.write('\r\u001b[2K');
  };
  return {
    show: (done, name) => {
      const cells = 24;
      const full = Math.round((cells * done) / total);
      const bar = `${'█'.repeat(full)}${'░'.repeat(cells - full)}`;
      clear();
      stderr.write(`${bar} ${done}/${total} ${name}`.slice(0, (stderr.columns ?? 80) - 1));
    },
    clear,
  };
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw new ExpectedError(
      `The folder ${folder} cannot be made: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}

function fileError(error: unknown): string {
  if (error instanceof UndecodableImageError) return error.message;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT') return 'There is no such file.';
  if (code === 'EISDIR') return 'This is a folder; name the files in it.';
  if (code === 'EACCES') return 'The file may not be read.';
  return error instanceof Error ? error.message : String(error);
}
