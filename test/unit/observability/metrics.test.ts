import { describe, expect, it } from 'vitest';
import { parseGpus } from '../../../src/observability/gpu.js';
import { createMetrics } from '../../../src/observability/metrics.js';
import { siteNames } from '../../../src/observability/sites.js';

const BACKLOG = { images: 7, oldestSeconds: 12.5, deliveries: 3, reports: 1 };
const QUALITY = { sharpness: 4, brightness: 0.7, background: 0.5, flags: [] };

describe('sites', () => {
  const siteOf = siteNames(['north', 'south/ward 3']);

  it('are the listed ones, the site of a laboratory before the laboratory', () => {
    expect(siteOf({ laboratory: 'south', site: 'ward 3' })).toBe('south/ward 3');
    expect(siteOf({ laboratory: 'north', site: 'ward 3' })).toBe('north');
    expect(siteOf({ laboratory: 'north', site: null })).toBe('north');
  });

  it('never take a name from an order that nobody listed', () => {
    expect(siteOf({ laboratory: 'south', site: 'A-77' })).toBe('other');
    expect(siteOf({ laboratory: 'east', site: 'north' })).toBe('other');
    expect(siteNames([])({ laboratory: 'default', site: 'x' })).toBe('other');
  });
});

describe('metrics', () => {
  it('count cells, certainty and image quality by site, and results by whether a person has to look', async () => {
    const { laboratory, registry } = createMetrics({ version: '1', sites: ['north'] });
    const cell = { class: 'monocyte', confidence: 0.93, saliencyConsistency: 0.55 };
    const stain = { density: 0.28, balance: 0.65 };
    laboratory.image(
      { laboratory: 'north', site: null },
      { cells: [cell, cell], quality: { ...QUALITY, stain, flags: ['out_of_focus'] } },
    );
    laboratory.image({ laboratory: 'south', site: null }, { cells: [cell], quality: { ...QUALITY, stain: null } });
    laboratory.result({ laboratory: 'north', site: null }, { reviewReasons: ['blasts_present', 'below_target'] });
    laboratory.result({ laboratory: 'south', site: null }, { reviewReasons: [] });
    const text = await registry.metrics();
    for (const line of [
      'leukodiff_cells_total{class="monocyte",site="north"} 2',
      'leukodiff_cells_total{class="monocyte",site="other"} 1',
      'leukodiff_cell_confidence_ratio_bucket{le="0.9",site="north"} 0',
      'leukodiff_cell_confidence_ratio_bucket{le="0.95",site="north"} 2',
      'leukodiff_cell_saliency_consistency_ratio_bucket{le="0.6",site="other"} 1',
      'leukodiff_image_sharpness_percent_count{site="other"} 1',
      'leukodiff_image_stain_density_sum{site="north"} 0.28',
      'leukodiff_image_flags_total{flag="out_of_focus",site="north"} 1',
      'leukodiff_results_total{review="required",site="north"} 1',
      'leukodiff_results_total{review="not_required",site="other"} 1',
      'leukodiff_review_reasons_total{reason="blasts_present",site="north"} 1',
    ]) {
      expect(text).toContain(`${line}\n`);
    }
    expect(text).not.toContain('leukodiff_image_stain_density_sum{site="other"}');
  });

  it('ask for what waits once a scrape, and answer without it while the database does not', async () => {
    let asked = 0;
    let up = true;
    const read = async () => {
      asked += 1;
      if (!up) throw new Error('down');
      return BACKLOG;
    };
    const { registry } = createMetrics({ version: '1', backlog: { read, limit: 2000 } });
    const text = await registry.metrics();
    expect(asked).toBe(1);
    for (const line of [
      'leukodiff_queue_images 7',
      'leukodiff_queue_oldest_seconds 12.5',
      'leukodiff_deliveries_pending 3',
      'leukodiff_reports_pending 1',
      'leukodiff_queue_limit_images 2000',
      'leukodiff_database_up 1',
    ]) {
      expect(text).toContain(`${line}\n`);
    }
    up = false;
    const without = await registry.metrics();
    expect(without).toMatch(/^leukodiff_queue_images nan$/im);
    expect(without).toContain('leukodiff_database_up 0\n');
    expect(asked).toBe(2);
  });

  it('tell how far the clock is from the database, and do without it while that is away', async () => {
    let up = true;
    const clockOffset = async () => {
      if (!up) throw new Error('down');
      return -3.5;
    };
    const { registry } = createMetrics({ version: '1', clockOffset });
    expect(await registry.metrics()).toContain('leukodiff_clock_offset_seconds -3.5\n');
    up = false;
    expect(await registry.metrics()).toMatch(/^leukodiff_clock_offset_seconds nan$/im);
  });

  it('tell the runs of the networks', async () => {
    const { inference, registry } = createMetrics({ version: '1' });
    inference.ran({ network: 'cells', size: 5, inputs: 2, durationMs: 60, outcome: 'completed' });
    inference.ran({ network: 'saliency', size: 1, inputs: 1, durationMs: 7, outcome: 'completed' });
    inference.ran({ network: 'cells', size: 9, inputs: 2, durationMs: 3, outcome: 'out_of_memory' });
    inference.crashed();
    const text = await registry.metrics();
    expect(text).toContain('leukodiff_inference_batch_cells_sum 5\n');
    expect(text).toContain('leukodiff_inference_batch_cells_count 1\n');
    expect(text).toContain('leukodiff_inference_duration_seconds_bucket{le="0.1",network="cells"} 1\n');
    expect(text).toContain('leukodiff_inference_crashes_total 1\n');
    expect(text).toContain('leukodiff_inference_out_of_memory_total 1\n');
  });

  it('start from 0, so that the first failure is an increase', async () => {
    const text = await createMetrics({ version: '1' }).registry.metrics();
    expect(text).toContain('leukodiff_analyses_total{outcome="failed"} 0\n');
    expect(text).toContain('leukodiff_deliveries_total{outcome="failed"} 0\n');
  });
});

describe('the answer of nvidia-smi', () => {
  it('is read for every GPU, in base units', () => {
    expect(parseGpus('0, 37, 4096, 81559\n1, [N/A], 0, 81559\n')).toEqual([
      { gpu: '0', utilization: 0.37, memoryUsedBytes: 4_294_967_296, memoryBytes: 85_520_809_984 },
      { gpu: '1', utilization: Number.NaN, memoryUsedBytes: 0, memoryBytes: 85_520_809_984 },
    ]);
  });
});
