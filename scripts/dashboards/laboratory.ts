/** The laboratory: what is found, how sure the model is, and whether stain, focus or the model drift. By site (METRICS_SITES). */
import { IntervalVariableBuilder, QueryVariableBuilder } from '@grafana/grafana-foundation-sdk/dashboard';
import type { DashboardSpec, PanelSpec, Query } from './panels.js';

const WINDOW = '$window';
const SITE = 'site=~"$site"';

const share = (part: string, whole: string, by: string): string =>
  `sum by (${by}) (increase(${part}[${WINDOW}])) / on (site) group_left sum by (site) (increase(${whole}[${WINDOW}]))`;

/** Mean and spread of a measure of cells or images, for each site. */
function drifting(title: string, about: string, metric: string, unit: string): PanelSpec {
  const rate = (part: string): string => `sum by (site) (rate(${metric}_${part}{${SITE}}[${WINDOW}]))`;
  const tenth = `histogram_quantile(0.1, sum by (site, le) (rate(${metric}_bucket{${SITE}}[${WINDOW}])))`;
  return {
    title,
    about,
    unit,
    queries: [
      { expr: `${rate('sum')} / ${rate('count')}`, legend: '{{site}} mean' },
      { expr: tenth, legend: '{{site}} lowest tenth' },
    ],
  };
}

const driftOf = (measures: string): Query => ({
  expr: `max by (site, measure, reference) (leukodiff_drift_psi{${SITE},measure=~"${measures}"})`,
  legend: '{{site}} {{measure}} ({{reference}})',
});

export const LABORATORY: DashboardSpec = {
  uid: 'leukodiff-laboratory',
  title: 'Leukodiff: laboratory',
  about:
    'Cells by class, review, certainty of the model, and quality of the images, by site. Looking back over the chosen window.',
  from: 'now-14d',
  variables: [
    new IntervalVariableBuilder('window').label('Window').values('1h,6h,1d,7d').current({ text: '1d', value: '1d' }),
    new QueryVariableBuilder('site')
      .label('Site')
      .datasource({ type: 'prometheus', uid: `\${datasource}` })
      .query('label_values(leukodiff_results_total, site)')
      .multi(true)
      .includeAll(true)
      .allValue('.*')
      .current({ text: 'All', value: '$__all' })
      .refresh(2),
  ],
  rows: [
    {
      title: 'Drift',
      panels: [
        {
          title: 'Drift of the model’s certainty',
          about:
            'Stability index of confidence and saliency consistency over DRIFT_WINDOW_DAYS. From 0.25 on it has changed.',
          queries: [driftOf('confidence|consistency')],
          unit: 'short',
        },
        {
          title: 'Drift of focus, light and stain',
          about: 'Stability index. Against the model’s validation images it is high by nature; set DRIFT_REFERENCE.',
          queries: [driftOf('sharpness|brightness|background|stain_.*')],
          unit: 'short',
        },
        {
          title: 'Drift of the classes',
          about: 'Stability index. Patients differ from the validation images; set DRIFT_REFERENCE.',
          queries: [driftOf('class')],
          unit: 'short',
        },
        {
          title: 'Cells and images behind it',
          about: 'Below 200 cells or 50 images an index says little, and none is alarmed at.',
          queries: [
            {
              expr: `max by (site, measure) (leukodiff_drift_observations{${SITE},measure=~"confidence|brightness"})`,
              legend: '{{site}} {{measure}}',
            },
          ],
          unit: 'short',
        },
      ],
    },
    {
      title: 'Cells and review',
      panels: [
        {
          title: 'Cells by class',
          about:
            'Share of all cells found. A class that grows everywhere at once is the model or the stain, not the patients.',
          queries: [
            {
              expr: `sum by (class) (increase(leukodiff_cells_total{${SITE}}[${WINDOW}])) / on () group_left sum(increase(leukodiff_cells_total{${SITE}}[${WINDOW}]))`,
              legend: '{{class}}',
            },
          ],
          unit: 'percentunit',
          as: 'stacked',
          max: 1,
        },
        {
          title: 'Cells that the model declines to name',
          about: 'Share of unidentified cells.',
          queries: [
            {
              expr: share(
                `leukodiff_cells_total{class="unidentified",${SITE}}`,
                `leukodiff_cells_total{${SITE}}`,
                'site',
              ),
              legend: '{{site}}',
            },
          ],
          unit: 'percentunit',
        },
        {
          title: 'Results that need attention',
          about: 'Share of results whose review is required.',
          queries: [
            {
              expr: share(
                `leukodiff_results_total{review="required",${SITE}}`,
                `leukodiff_results_total{${SITE}}`,
                'site',
              ),
              legend: '{{site}}',
            },
          ],
          unit: 'percentunit',
          max: 1,
        },
        {
          title: 'Why',
          about: 'Reasons for a review, as a share of the results; a result may have several.',
          queries: [
            {
              expr: `sum by (reason) (increase(leukodiff_review_reasons_total{${SITE}}[${WINDOW}])) / on () group_left sum(increase(leukodiff_results_total{${SITE}}[${WINDOW}]))`,
              legend: '{{reason}}',
            },
          ],
          unit: 'percentunit',
        },
        {
          title: 'Results',
          about: 'How many each site has in the window: shares of few say little.',
          queries: [
            { expr: `sum by (site) (increase(leukodiff_results_total{${SITE}}[${WINDOW}]))`, legend: '{{site}}' },
          ],
          unit: 'short',
        },
      ],
    },
    {
      title: 'Certainty',
      panels: [
        drifting(
          'Confidence',
          'Calibrated probability of the class.',
          'leukodiff_cell_confidence_ratio',
          'percentunit',
        ),
        drifting(
          'Saliency consistency',
          'Agreement of what the model looked at with the cell that it outlined: it falls where the model is led astray.',
          'leukodiff_cell_saliency_consistency_ratio',
          'percentunit',
        ),
      ],
    },
    {
      title: 'Images',
      panels: [
        drifting('Focus', 'Below 0.8 % an image is out of focus.', 'leukodiff_image_sharpness_percent', 'percent'),
        drifting('Brightness', 'Mean luminance.', 'leukodiff_image_brightness_ratio', 'percentunit'),
        drifting(
          'Clear ground',
          'Share of background: thin or thick parts of the smear.',
          'leukodiff_image_background_ratio',
          'percentunit',
        ),
        drifting(
          'Stain: strength',
          'Optical density. Batches of stain, and time in it.',
          'leukodiff_image_stain_density',
          'short',
        ),
        drifting(
          'Stain: tint',
          'Low is pink, high is blue. The pH of the buffer.',
          'leukodiff_image_stain_balance_ratio',
          'short',
        ),
        {
          title: 'Flags of images',
          about: 'Share of images with each flag.',
          queries: [
            {
              expr: `sum by (flag) (increase(leukodiff_image_flags_total{${SITE}}[${WINDOW}])) / on () group_left sum(increase(leukodiff_image_sharpness_percent_count{${SITE}}[${WINDOW}]))`,
              legend: '{{flag}}',
            },
          ],
          unit: 'percentunit',
        },
      ],
    },
  ],
};
