/** The service under a real Prometheus: whatever dashboards and alerts ask must have an answer, and a possible one. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { measuredBy, RULE_FILE, readAlerts, readPanels } from '../support/monitoring.js';
import { cleanUp, preparedDataDir, type Service, serve } from '../support/program.js';
import { type Prometheus, type Sample, startPrometheus } from '../support/prometheus.js';
import { drawSmear } from '../support/smear.js';
import { type Receiver, startReceiver } from '../support/webhooks.js';

/** Until every rate has seen something happen. */
const PATIENCE_MS = 150_000;
/** There is no GPU where these tests run; test/unit/observability holds the names of its metrics. */
const NEEDS_GPU = /leukodiff_gpu_/;

let service: Service;
let prometheus: Prometheus;
let receiver: Receiver;
let smear: Buffer;

beforeAll(async () => {
  const drawn = drawSmear({
    seed: 7,
    width: 480,
    height: 360,
    micronsPerPixel: 0.2,
    cells: { neutrophil: 3, lymphocyte: 2 },
  });
  smear = await sharp(Buffer.from(drawn.data.buffer), { raw: { width: 480, height: 360, channels: 3 } })
    .png()
    .toBuffer();
  // It is gone for good: the delivery fails at once, without the days of retries.
  receiver = await startReceiver([410]);
  service = await serve({
    DATA_DIR: await preparedDataDir(),
    METRICS_SITES: 'default/north',
    DRIFT_REFRESH_SECONDS: '1',
    WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8',
    WEBHOOK_SECRET: `whsec_${randomBytes(32).toString('base64')}`,
    // Nobody listens there: reports fail and are tried again.
    HL7_DESTINATION: 'mllp://127.0.0.1:1',
  });
  prometheus = await startPrometheus({ targets: { leukodiff: new URL(service.address).host }, ruleFile: RULE_FILE });
});
afterAll(async () => {
  await prometheus?.stop();
  await receiver?.close();
  await cleanUp();
});

/** An order with an image that can be read and one that is cut off, and a request that is refused. */
async function work(site: string): Promise<void> {
  const form = new FormData();
  for (const [name, value] of Object.entries({ site, micronsPerPixel: '0.2', callbackUrl: receiver.url }))
    form.append(name, value);
  for (const bytes of [smear, smear.subarray(0, smear.length >> 1)]) {
    form.append('images', new Blob([new Uint8Array(bytes)]), 'field.png');
  }
  const headers = { ...service.headers, prefer: 'wait=60' };
  const answer = await fetch(`${service.address}/analyze`, { method: 'POST', body: form, headers });
  expect(answer.status).toBe(200);
  expect((await fetch(`${service.address}/nowhere`, { headers: service.headers })).status).toBe(404);
}

/** What is wrong with an answer; null: nothing. */
function fault(samples: readonly Sample[], unit: string): string | null {
  if (samples.length === 0) return 'empty';
  const wrong = samples.find(
    ({ value }) => !Number.isFinite(value) || (unit === 'percentunit' && (value < 0 || value > 1.001)),
  );
  return wrong === undefined ? null : `${JSON.stringify(wrong.labels)} is ${wrong.value}`;
}

/** Asks until every expression has a good answer, while the service works; returns what is still wrong at the end. */
async function faults(
  asked: readonly { readonly name: string; readonly expr: string; readonly unit: string }[],
): Promise<string[]> {
  const deadline = Date.now() + PATIENCE_MS;
  for (let round = 0; ; round++) {
    const wrong: string[] = [];
    for (const { name, expr, unit } of asked) {
      const found = fault(await prometheus.query(expr), unit);
      if (found !== null) wrong.push(`${name}: ${found}: ${expr}`);
    }
    if (wrong.length === 0 || Date.now() > deadline) return wrong;
    await work(round % 2 === 0 ? 'north' : 'elsewhere');
    await sleep(1_500);
  }
}

describe('a real Prometheus', () => {
  it('answers every panel of the dashboards', async () => {
    const variables = { __rate_interval: '30s', window: '5m', site: '.*' };
    const panels = [...readPanels('service', variables), ...readPanels('laboratory', variables)];
    expect(panels.length).toBeGreaterThan(40);
    const asked = panels
      .filter(({ expr }) => !NEEDS_GPU.test(expr))
      .map(({ panel, ...rest }) => ({ name: panel, ...rest }));
    expect(await faults(asked)).toEqual([]);
    // Those without an answer here are at least expressions.
    for (const { expr } of panels.filter((one) => NEEDS_GPU.test(one.expr)))
      expect(await prometheus.query(expr)).toEqual([]);
  });

  it('tells what happened', async () => {
    const value = async (expr: string): Promise<number | undefined> => (await prometheus.query(expr))[0]?.value;
    await expect
      .poll(() => value('leukodiff_images_total{outcome="failed",reason="image-truncated"}'), { timeout: 20_000 })
      .toBeGreaterThan(0);
    expect(await value('sum(leukodiff_cells_total{site="default/north"})')).toBeGreaterThan(0);
    expect(await value('leukodiff_http_problems_total{type="not-found"}')).toBeGreaterThan(0);
    // The label by which LeukodiffServerErrors counts; no request of these fails by a fault of the service.
    expect(await value('sum(leukodiff_http_request_duration_seconds_count{status=~"4.."})')).toBeGreaterThan(0);
    expect(await value('leukodiff_model_info{provider="cpu"}')).toBe(1);
    const sites = await prometheus.query('count by (site) (leukodiff_cells_total)');
    expect(sites.map(({ labels }) => labels['site']).sort()).toEqual(['default/north', 'other']);
  });

  it('measures what every alert compares, takes every rule, and fires for the webhook that nobody takes', async () => {
    const asked = readAlerts().flatMap((alert) =>
      measuredBy(alert).map((expr) => ({ name: alert.alert, expr, unit: '' })),
    );
    expect(await faults(asked)).toEqual([]);
    type Rules = { groups: readonly { rules: readonly { name: string; health: string; lastError?: string }[] }[] };
    const rules = (await prometheus.get<Rules>('/api/v1/rules')).groups.flatMap((group) => group.rules);
    expect(rules.filter(({ health }) => health !== 'ok')).toEqual([]);
    // Prometheus sorts the groups by their names.
    expect(rules.map(({ name }) => name).sort()).toEqual(
      readAlerts()
        .map(({ alert }) => alert)
        .sort(),
    );
    const firing = async (): Promise<(string | undefined)[]> =>
      (await prometheus.query('ALERTS{alertstate="firing"}')).map(({ labels }) => labels['alertname']);
    await expect.poll(firing, { timeout: 30_000 }).toContain('LeukodiffWebhooksLost');
  });
});
