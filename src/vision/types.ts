/**
 * What `vision` hands to the rest of the program. Plain data: no HTTP, no queue, no table.
 * All coordinates are pixels of the posted image after its EXIF orientation was applied; origin top left, x right, y down.
 */
import type { CellType } from '../hematology/cell-types.js';

/** An image ready for the networks: 8-bit RGB, interleaved, orientation applied, alpha flattened on white. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  /** `width * height * 3` bytes. */
  readonly data: Uint8Array;
}

/** An 8-bit single-channel raster. */
export interface GreyImage {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

export interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Where the physical scale came from. `unknown`: cells are found at a guessed scale, areas in µm² are not given. */
export type ScaleSource = 'given' | 'estimated' | 'unknown';

export interface ImageScale {
  /** µm per pixel of the posted image; null when unknown. */
  readonly micronsPerPixel: number | null;
  readonly source: ScaleSource;
  /** µm per pixel that the networks worked with, also when it could only be guessed. */
  readonly workingMicronsPerPixel: number;
  /** Probability mass of the scale estimate around its maximum, 0–1; 1 when given. */
  readonly confidence: number;
}

export interface Stain {
  /** Mean optical density of what is stained, in green. */
  readonly density: number;
  /** Its optical density in red to that in green: low is pink, high is blue. */
  readonly balance: number;
}

export interface ImageQuality {
  /**
   * Variance of the Laplacian of the (smoothed) green channel at the saliency network's scale, in percent of the variance
   * of green: fields in focus have 2 and more, below 0.8 they are flagged.
   */
  readonly sharpness: number;
  /** Mean luminance, 0–1. */
  readonly brightness: number;
  /** Share of pixels at 0 or 255 in any channel, 0–1. */
  readonly clipped: number;
  /** Share of the field that is clear background, 0–1. */
  readonly background: number;
  /** Null: nothing stained is to be seen. Absent in results of versions that did not measure it. */
  readonly stain?: Stain | null;
  /**
   * `blank`, `too_dark`, `too_bright`, `clipped`, `out_of_focus`, `scale_unknown`, `low_bits_scaled` (a 16-bit image used
   * only its low bits), `first_page_only` (the file holds more pages).
   */
  readonly flags: readonly string[];
}

/** A value with the probability that the model gives it, 0–1. */
export interface Graded {
  readonly value: string;
  readonly probability: number;
}

/** What a technologist would describe of a nucleated cell. */
export interface Morphology {
  /** By the manifest's attribute names: `nucleusShape`, `chromatinDensity`, `cytoplasmVacuole`, … */
  readonly attributes: Readonly<Record<string, Graded>>;
  /** Area of the nucleus to that of the cell, measured on the mask, 0–1. */
  readonly nuclearAreaRatio: number;
}

/** `out_of_distribution`: unlike anything that the model learnt from; such a cell is never named. */
export type CellFlag =
  | 'border'
  | 'low_confidence'
  | 'low_consistency'
  | 'out_of_distribution'
  | 'touching'
  | 'scale_unknown';

export interface CellFinding {
  readonly box: Box;
  readonly areaPx: number;
  readonly areaUm2: number | null;
  readonly class: CellType;
  /** Calibrated probability of the most probable model class, 0–1. */
  readonly confidence: number;
  /** One entry for each class of the manifest; sums to 1. */
  readonly probabilities: Readonly<Record<string, number>>;
  /** Finer class (band, segmented, …) where the class has one. */
  readonly subtype: Graded | null;
  /** Null for what is no nucleated cell, or declined. */
  readonly morphology: Morphology | null;
  /** Agreement of Grad-CAM, saliency prior, segmented cell and counterfactual, 0–1. */
  readonly saliencyConsistency: number;
  /** How unlike the pictures that the model learnt from this one is, 0–1. */
  readonly rejectScore: number;
  readonly flags: readonly CellFlag[];
  /** Label map of `box`: 0 background, 128 cytoplasm, 255 nucleus. */
  readonly mask: GreyImage;
  /** The window of the posted image that the network saw (a square; may reach past the border). */
  readonly window: Box;
  /** The network's input of that window, at its working scale. */
  readonly crop: RgbImage;
  /** Grad-CAM of the winning class over `window`, 0–255. */
  readonly cam: GreyImage;
}

export interface ImageAnalysis {
  readonly width: number;
  readonly height: number;
  readonly scale: ImageScale;
  readonly quality: ImageQuality;
  /** Mean over the image's cells; null without cells. */
  readonly saliencyConsistency: number | null;
  readonly cells: readonly CellFinding[];
  /** The saliency map of the whole field, at the saliency network's resolution. */
  readonly saliency: GreyImage;
  /** Stage durations in milliseconds: decode, scale, locate, infer, postprocess. */
  readonly timingsMs: Readonly<Record<string, number>>;
}

export interface ModelInfo {
  readonly name: string;
  readonly version: string;
  /** SHA-256 over the model files' checksums in manifest order. */
  readonly sha256: string;
  readonly executionProvider: 'cpu' | 'cuda';
}
