/** What the laboratory looks at: cells by class, how sure the model is, what the images are like, how often people must look. */
import { Counter, Histogram, type Registry } from 'prom-client';
import { type Origin, OTHER_SITE, siteNames } from './sites.js';

const TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1];

/** An analysed image, as far as it is measured here. */
export interface SeenImage {
  readonly cells: readonly {
    readonly class: string;
    readonly confidence: number;
    readonly saliencyConsistency: number;
  }[];
  readonly quality: {
    readonly sharpness: number;
    readonly brightness: number;
    readonly background: number;
    readonly stain?: { readonly density: number; readonly balance: number } | null;
    readonly flags: readonly string[];
  };
}

/** A result: codes of the reasons why a person has to look; empty where none is given. */
export interface SeenResult {
  readonly reviewReasons: readonly string[];
}

export interface LaboratoryMetrics {
  image(origin: Origin, image: SeenImage): void;
  result(origin: Origin, result: SeenResult): void;
}

/** @param sites Listed ones; see sites.ts. */
export function createLaboratoryMetrics(registry: Registry, sites: readonly string[]): LaboratoryMetrics {
  const siteOf = siteNames(sites);
  const registers = [registry];
  const bySite = (name: string, help: string, buckets: number[]): Histogram<'site'> =>
    new Histogram({ name: `leukodiff_${name}`, help, labelNames: ['site'], buckets, registers });
  const cells = new Counter({
    name: 'leukodiff_cells_total',
    help: 'Cells found, by class.',
    labelNames: ['class', 'site'],
    registers,
  });
  const confidence = bySite('cell_confidence_ratio', 'Calibrated probability of the class of a cell.', TENTHS);
  const consistency = bySite('cell_saliency_consistency_ratio', 'Saliency consistency of a cell.', TENTHS);
  const sharpness = bySite(
    'image_sharpness_percent',
    'Variance of the Laplacian of an image, in percent of its variance; below 0.8 it is out of focus.',
    [0.2, 0.5, 0.8, 1.2, 2, 3, 5, 8, 12, 20, 40],
  );
  const brightness = bySite('image_brightness_ratio', 'Mean luminance of an image.', TENTHS);
  const background = bySite('image_background_ratio', 'Share of an image that is clear background.', TENTHS);
  const stainDensity = bySite(
    'image_stain_density',
    'Mean optical density of what is stained, in green.',
    [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1],
  );
  const stainBalance = bySite(
    'image_stain_balance_ratio',
    'Optical density of the stain in red to that in green: low is pink, high is blue.',
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.25, 1.5],
  );
  const flags = new Counter({
    name: 'leukodiff_image_flags_total',
    help: 'Images with a flag, by flag.',
    labelNames: ['flag', 'site'],
    registers,
  });
  const results = new Counter({
    name: 'leukodiff_results_total',
    help: 'Results, by whether a person has to look (required) or not (not_required).',
    labelNames: ['review', 'site'],
    registers,
  });
  // From 0 on: the first of a kind that alerts look at must show as an increase.
  for (const site of [...sites, OTHER_SITE]) {
    for (const review of ['required', 'not_required']) results.inc({ review, site }, 0);
    cells.inc({ class: 'unidentified', site }, 0);
    flags.inc({ flag: 'out_of_focus', site }, 0);
  }
  const reasons = new Counter({
    name: 'leukodiff_review_reasons_total',
    help: 'Reasons why a person has to look, by code; a result may have several.',
    labelNames: ['reason', 'site'],
    registers,
  });
  return {
    image: (origin, image) => {
      const site = siteOf(origin);
      for (const cell of image.cells) {
        cells.inc({ class: cell.class, site });
        confidence.observe({ site }, cell.confidence);
        consistency.observe({ site }, cell.saliencyConsistency);
      }
      const { quality } = image;
      sharpness.observe({ site }, quality.sharpness);
      brightness.observe({ site }, quality.brightness);
      background.observe({ site }, quality.background);
      if (quality.stain != null) {
        stainDensity.observe({ site }, quality.stain.density);
        stainBalance.observe({ site }, quality.stain.balance);
      }
      for (const flag of quality.flags) flags.inc({ flag, site });
    },
    result: (origin, { reviewReasons }) => {
      const site = siteOf(origin);
      results.inc({ review: reviewReasons.length > 0 ? 'required' : 'not_required', site });
      for (const reason of reviewReasons) reasons.inc({ reason, site });
    },
  };
}
