/** The service: is it up, fast, keeping up, and what does it fail at. */
import type { DashboardSpec, Query } from './panels.js';

const RATE = '$__rate_interval';
/** Scrapes and probes would drown the rest. */
const API = 'route!~"/metrics|/health/.*"';

const perSecond = (metric: string, by: string): string => `sum by (${by}) (rate(${metric}[${RATE}]))`;

function quantiles(metric: string, by: string, ...wanted: number[]): Query[] {
  const labels = by === '' ? 'le' : `le, ${by}`;
  const bucket = metric.replace(/(\{|$)/, '_bucket$1');
  return wanted.map((q) => ({
    expr: `histogram_quantile(${q}, sum by (${labels}) (rate(${bucket}[${RATE}])))`,
    legend: `${by === '' ? '' : `{{${by}}} `}p${q * 100}`,
  }));
}

function mean(metric: string, by: string): string {
  const grouped = by === '' ? 'sum' : `sum by (${by})`;
  return `${grouped} (rate(${metric}_sum[${RATE}])) / ${grouped} (rate(${metric}_count[${RATE}]))`;
}

export const SERVICE: DashboardSpec = {
  uid: 'leukodiff-service',
  title: 'Leukodiff: service',
  about:
    'Rate, errors, time by stage, the queue, the networks and the machine. What to do about each stands in docs/operations.md.',
  from: 'now-6h',
  variables: [],
  rows: [
    {
      title: 'At a glance',
      panels: [
        {
          title: 'Processes up',
          about: 'API and worker processes that answer Prometheus.',
          queries: [{ expr: 'sum by (job) (up{job=~"leukodiff.*"})', legend: '{{job}}' }],
          unit: 'short',
          as: 'number',
        },
        {
          title: 'Versions',
          about: 'Processes by version of the program. Two of them: an update is under way.',
          queries: [{ expr: 'count by (version) (leukodiff_build_info)', legend: '{{version}}' }],
          unit: 'short',
          as: 'number',
        },
        {
          title: 'Models',
          about: 'Processes by model and by where it runs. Two versions: a change of models is under way.',
          queries: [
            {
              expr: 'count by (name, version, provider) (leukodiff_model_info)',
              legend: '{{name}} {{version}} on {{provider}}',
            },
          ],
          unit: 'short',
          as: 'number',
        },
      ],
    },
    {
      title: 'Requests',
      panels: [
        {
          title: 'Requests by status',
          about: 'Without scrapes and probes. 5xx are faults of the service.',
          queries: [
            {
              expr: perSecond(`leukodiff_http_request_duration_seconds_count{${API}}`, 'status'),
              legend: '{{status}}',
            },
          ],
          unit: 'reqps',
          as: 'stacked',
        },
        {
          title: 'Refusals and errors by problem',
          about: 'Answers with a problem document, by its type: docs/problems.md tells each.',
          queries: [{ expr: perSecond('leukodiff_http_problems_total', 'type'), legend: '{{type}}' }],
          unit: 'reqps',
          as: 'stacked',
        },
        {
          title: 'Time of an answer',
          about: 'Requests with Prefer: wait last as long as their analysis.',
          queries: quantiles(`leukodiff_http_request_duration_seconds{${API}}`, '', 0.5, 0.95, 0.99),
          unit: 's',
        },
      ],
    },
    {
      title: 'Images and analyses',
      panels: [
        {
          title: 'Images by outcome and reason',
          about: 'Images whose analysis ended.',
          queries: [{ expr: perSecond('leukodiff_images_total', 'outcome, reason'), legend: '{{outcome}} {{reason}}' }],
          unit: 'ops',
          as: 'stacked',
        },
        {
          title: 'Share of failed images',
          about:
            'Images that cannot be read are their sender’s; image-analysis-error, -interrupted and -timeout are the service’s.',
          queries: [
            {
              expr: `sum(rate(leukodiff_images_total{outcome="failed"}[${RATE}])) / sum(rate(leukodiff_images_total[${RATE}]))`,
              legend: 'failed',
            },
          ],
          unit: 'percentunit',
          max: 1,
        },
        {
          title: 'From the order to its result',
          about: 'What the LIS waits for: queue and all images of the order.',
          queries: quantiles('leukodiff_analysis_duration_seconds', '', 0.5, 0.95),
          unit: 's',
        },
        {
          title: 'Time of an image, by stage',
          about:
            'Mean. Where it grows tells what is short: queue means workers, load and store the database, infer processor or GPU.',
          queries: [{ expr: mean('leukodiff_stage_duration_seconds', 'stage'), legend: '{{stage}}' }],
          unit: 's',
          as: 'stacked',
        },
        {
          title: 'Slow images, by stage',
          about: 'The time that one image in twenty exceeds.',
          queries: quantiles('leukodiff_stage_duration_seconds', 'stage', 0.95),
          unit: 's',
        },
        {
          title: 'Put back by the sweep',
          about: 'Work that its queue had lost. Some after a crash is as it should be; a steady rate is not.',
          queries: [{ expr: perSecond('leukodiff_sweep_reenqueued_total', 'kind'), legend: '{{kind}}' }],
          unit: 'ops',
        },
      ],
    },
    {
      title: 'Queue',
      panels: [
        {
          title: 'Images that wait',
          about: 'Stored and not finished, against MAX_QUEUE_DEPTH, beyond which orders are refused.',
          queries: [
            { expr: 'max(leukodiff_queue_images)', legend: 'waiting' },
            { expr: 'max(leukodiff_queue_limit_images)', legend: 'limit' },
          ],
          unit: 'short',
        },
        {
          title: 'Age of the oldest order',
          about: 'Since the oldest analysis without a result was posted.',
          queries: [{ expr: 'max(leukodiff_queue_oldest_seconds)', legend: 'oldest' }],
          unit: 's',
        },
        {
          title: 'Workers busy',
          about: 'Images under way, as a share of WORKER_CONCURRENCY of all workers. At 1 the queue grows.',
          queries: [{ expr: 'sum(leukodiff_worker_images) / sum(leukodiff_worker_concurrency)', legend: 'busy' }],
          unit: 'percentunit',
          max: 1,
        },
      ],
    },
    {
      title: 'Networks',
      panels: [
        {
          title: 'Crops in a batch',
          about: 'Mean. Larger batches pay on a GPU.',
          queries: [{ expr: mean('leukodiff_inference_batch_cells', ''), legend: 'crops' }],
          unit: 'short',
        },
        {
          title: 'Runs of the networks',
          about: 'saliency: whole fields; cells: batches of crops.',
          queries: [
            { expr: perSecond('leukodiff_inference_duration_seconds_count', 'network'), legend: '{{network}}' },
          ],
          unit: 'ops',
        },
        {
          title: 'Time of a run',
          about: 'On the inference thread, with the way there and back.',
          queries: quantiles('leukodiff_inference_duration_seconds', 'network', 0.5, 0.95),
          unit: 's',
        },
        {
          title: 'Inference threads that ended, runs out of memory',
          about:
            'A thread that ended was replaced, a run out of memory repeated in halves; no image is lost by either.',
          queries: [
            { expr: `sum(increase(leukodiff_inference_crashes_total[${RATE}]))`, legend: 'ended' },
            { expr: `sum(increase(leukodiff_inference_out_of_memory_total[${RATE}]))`, legend: 'out of memory' },
          ],
          unit: 'short',
        },
        {
          title: 'GPU busy',
          about: 'Share of the time in which each GPU computed; empty without one.',
          queries: [
            { expr: 'max by (instance, gpu) (leukodiff_gpu_utilization_ratio)', legend: '{{instance}} {{gpu}}' },
          ],
          unit: 'percentunit',
          max: 1,
        },
        {
          title: 'GPU memory in use',
          about: 'Share of the memory of each GPU, by all processes; empty without one.',
          queries: [
            {
              expr: 'max by (instance, gpu) (leukodiff_gpu_memory_used_bytes / leukodiff_gpu_memory_bytes)',
              legend: '{{instance}} {{gpu}}',
            },
          ],
          unit: 'percentunit',
          max: 1,
        },
      ],
    },
    {
      title: 'Webhooks and reports',
      panels: [
        {
          title: 'Webhook attempts by outcome',
          about: 'retry comes again by the schedule; failed has used it up.',
          queries: [{ expr: perSecond('leukodiff_deliveries_total', 'outcome'), legend: '{{outcome}}' }],
          unit: 'ops',
          as: 'stacked',
        },
        {
          title: 'Time of a webhook attempt',
          about: 'At 15 s the receiver did not answer.',
          queries: quantiles('leukodiff_delivery_duration_seconds', '', 0.5, 0.95),
          unit: 's',
        },
        {
          title: 'Still to be delivered',
          about: 'Webhooks and reports that are committed and not received.',
          queries: [
            { expr: 'max(leukodiff_deliveries_pending)', legend: 'webhooks' },
            { expr: 'max(leukodiff_reports_pending)', legend: 'reports' },
          ],
          unit: 'short',
        },
        {
          title: 'Reports by channel and outcome',
          about: 'HL7 and FHIR, where they are configured.',
          queries: [
            { expr: perSecond('leukodiff_reports_total', 'channel, outcome'), legend: '{{channel}} {{outcome}}' },
          ],
          unit: 'ops',
          as: 'stacked',
        },
      ],
    },
    {
      title: 'Processes',
      panels: [
        {
          title: 'Processor',
          about: 'Cores in use.',
          queries: [
            { expr: `sum by (instance) (rate(leukodiff_process_cpu_seconds_total[${RATE}]))`, legend: '{{instance}}' },
          ],
          unit: 'short',
        },
        {
          title: 'Memory',
          about: 'Resident.',
          queries: [{ expr: 'max by (instance) (leukodiff_process_resident_memory_bytes)', legend: '{{instance}}' }],
          unit: 'bytes',
        },
        {
          title: 'Event loop',
          about: 'How late its timers are, p99. Beyond half a second locks of jobs are in danger.',
          queries: [{ expr: 'max by (instance) (leukodiff_nodejs_eventloop_lag_p99_seconds)', legend: '{{instance}}' }],
          unit: 's',
        },
        {
          title: 'Clock',
          about: "Ahead of the database's; below 0: behind. Beyond five seconds see that NTP runs.",
          queries: [{ expr: 'max by (instance) (leukodiff_clock_offset_seconds)', legend: '{{instance}}' }],
          unit: 's',
        },
        {
          title: 'Open files',
          about: 'Against the limit of the process.',
          queries: [
            {
              expr: 'max by (instance) (leukodiff_process_open_fds / leukodiff_process_max_fds)',
              legend: '{{instance}}',
            },
          ],
          unit: 'percentunit',
        },
        {
          title: 'Garbage collection',
          about: 'Share of the time spent with it.',
          queries: [
            {
              expr: `sum by (instance) (rate(leukodiff_nodejs_gc_duration_seconds_sum[${RATE}]))`,
              legend: '{{instance}}',
            },
          ],
          unit: 'percentunit',
        },
      ],
    },
  ],
};
