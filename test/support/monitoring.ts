/** The files that Prometheus and Grafana read, as far as tests look at them. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

const path = (name: string): string => fileURLToPath(new URL(`../../docker/${name}`, import.meta.url));

export const RULE_FILE = path('prometheus/alerts.yml');
export const SCENES_FILE = path('prometheus/alerts.test.yml');

export interface Alert {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: Readonly<Record<string, string>>;
}

export function readAlerts(): Alert[] {
  const { groups } = parse(readFileSync(RULE_FILE, 'utf8')) as { groups: readonly { rules: readonly Alert[] }[] };
  return groups.flatMap(({ rules }) => rules);
}

/** Names of the alerts that some scene expects to fire. */
export function firingScenes(): Set<string> {
  const text = readFileSync(SCENES_FILE, 'utf8');
  const { tests } = parse(text) as {
    tests: readonly {
      promql_expr_test?: readonly { exp_samples: readonly { labels: string }[] }[];
      alert_rule_test?: readonly { alertname: string; exp_alerts: readonly unknown[] }[];
    }[];
  };
  const sampled = tests.flatMap((test) => test.promql_expr_test ?? []).flatMap((one) => one.exp_samples);
  const alerted = tests.flatMap((test) => test.alert_rule_test ?? []).filter((one) => one.exp_alerts.length > 0);
  return new Set([
    ...sampled.flatMap(({ labels }) => /alertname="(\w+)"/.exec(labels)?.[1] ?? []),
    ...alerted.map(({ alertname }) => alertname),
  ]);
}

/** What an alert compares: the left side of each comparison with a number. */
export function measuredBy({ expr }: Alert): string[] {
  return expr.split(/\sand(?: on \([^)]*\))?\s/).map((part) => {
    const measured = part.replace(/\s(==|>|<)\s*[\d.e+]+\s*$/, '');
    if (measured === part) throw new Error(`not a comparison with a number: ${part}`);
    return measured.trim();
  });
}

export interface PanelExpression {
  readonly panel: string;
  readonly expr: string;
  readonly unit: string;
}

/** The expressions of a dashboard's panels, with its variables filled in. */
export function readPanels(
  name: 'service' | 'laboratory',
  variables: Readonly<Record<string, string>>,
): PanelExpression[] {
  interface Panel {
    readonly title: string;
    readonly targets?: readonly { expr: string }[];
    readonly fieldConfig?: { defaults: { unit: string } };
  }
  const { panels } = JSON.parse(readFileSync(path(`grafana/dashboards/${name}.json`), 'utf8')) as { panels: Panel[] };
  return panels.flatMap(({ title, targets = [], fieldConfig }) =>
    targets.map(({ expr }) => ({
      panel: title,
      unit: fieldConfig?.defaults.unit ?? '',
      expr: Object.entries(variables).reduce((text, [key, value]) => text.replaceAll(`$${key}`, value), expr),
    })),
  );
}
