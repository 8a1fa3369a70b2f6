/** The few kinds of panels that the dashboards are made of. */
import type { Builder } from '@grafana/grafana-foundation-sdk/cog';
import {
  GraphDrawStyle,
  LegendDisplayMode,
  LegendPlacement,
  ReduceDataOptionsBuilder,
  StackingConfigBuilder,
  StackingMode,
  VizLegendOptionsBuilder,
} from '@grafana/grafana-foundation-sdk/common';
import {
  DashboardBuilder,
  DatasourceVariableBuilder,
  type Panel,
  RowBuilder,
  type VariableModel,
} from '@grafana/grafana-foundation-sdk/dashboard';
import { DataqueryBuilder } from '@grafana/grafana-foundation-sdk/prometheus';
import { PanelBuilder as StatBuilder } from '@grafana/grafana-foundation-sdk/stat';
import { PanelBuilder as TimeseriesBuilder } from '@grafana/grafana-foundation-sdk/timeseries';

const DATASOURCE = { type: 'prometheus', uid: `\${datasource}` };
/** The page is 24 wide. */
const SPAN = 8;
const HEIGHT = 8;

export interface Query {
  readonly expr: string;
  /** `{{label}}` stands for a label's value. */
  readonly legend: string;
}

export interface PanelSpec {
  readonly title: string;
  /** What it tells, and when to worry. */
  readonly about: string;
  readonly queries: readonly Query[];
  /** Grafana's name: s, short, percentunit, bytes, reqps, … */
  readonly unit: string;
  /** Default `lines`. */
  readonly as?: 'lines' | 'stacked' | 'number';
  readonly max?: number;
}

export interface RowSpec {
  readonly title: string;
  readonly panels: readonly PanelSpec[];
}

export interface DashboardSpec {
  readonly uid: string;
  readonly title: string;
  readonly about: string;
  /** How much is shown, e.g. `now-6h`. */
  readonly from: string;
  readonly variables: readonly Builder<VariableModel>[];
  readonly rows: readonly RowSpec[];
}

export function dashboard({ uid, title, about, from, variables, rows }: DashboardSpec): unknown {
  const builder = new DashboardBuilder(title)
    .uid(uid)
    .description(about)
    .tags(['leukodiff'])
    .timezone('browser')
    .time({ from, to: 'now' })
    .refresh('30s')
    .withVariable(new DatasourceVariableBuilder('datasource').label('Data source').type('prometheus'));
  for (const variable of variables) builder.withVariable(variable);
  let id = 0;
  for (const row of rows) {
    builder.withRow(new RowBuilder(row.title).id(++id));
    for (const panel of row.panels) builder.withPanel(panelOf(panel, ++id));
  }
  return builder.build();
}

function panelOf(spec: PanelSpec, id: number): Builder<Panel> {
  const targets = spec.queries.map(({ expr, legend }, i) =>
    new DataqueryBuilder()
      .refId(String.fromCharCode(65 + i))
      .expr(expr)
      .legendFormat(legend)
      .range(),
  );
  if (spec.as === 'number') {
    return new StatBuilder()
      .id(id)
      .title(spec.title)
      .description(spec.about)
      .datasource(DATASOURCE)
      .unit(spec.unit)
      .reduceOptions(new ReduceDataOptionsBuilder().calcs(['lastNotNull']))
      .targets(targets)
      .span(SPAN)
      .height(HEIGHT);
  }
  const builder = new TimeseriesBuilder()
    .id(id)
    .title(spec.title)
    .description(spec.about)
    .datasource(DATASOURCE)
    .unit(spec.unit)
    .min(0)
    .drawStyle(GraphDrawStyle.Line)
    .fillOpacity(spec.as === 'stacked' ? 60 : 5)
    .legend(
      new VizLegendOptionsBuilder()
        .displayMode(LegendDisplayMode.Table)
        .placement(LegendPlacement.Bottom)
        .showLegend(true)
        .calcs(['lastNotNull', 'max']),
    )
    .targets(targets)
    .span(SPAN)
    .height(HEIGHT);
  if (spec.as === 'stacked') builder.stacking(new StackingConfigBuilder().mode(StackingMode.Normal));
  if (spec.max !== undefined) builder.max(spec.max);
  return builder;
}
