/** Bars with their spread, as SVG that any browser shows. */
import { figure, type Spread } from './statistics.js';

export interface Bar {
  readonly name: string;
  readonly spread: Spread;
  readonly ours: boolean;
}

const WIDTH = 820;
const ROW = 34;
const LEFT = 310;
const RIGHT = 130;
const TOP = 54;

export const escaped = (text: string): string =>
  text.replace(/[&<>"]/g, (sign) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[sign] ?? sign);

export function barChart(title: string, unit: string, bars: readonly Bar[]): string {
  const most = Math.max(...bars.map(({ spread }) => spread.high));
  const height = TOP + bars.length * ROW + 16;
  const x = (value: number): number => LEFT + (value / most) * (WIDTH - LEFT - RIGHT);
  const rows = bars.map(({ name, spread, ours }, i) => {
    const y = TOP + i * ROW;
    const middle = y + ROW / 2 - 3;
    return [
      `<text x="${LEFT - 10}" y="${middle + 5}" text-anchor="end">${escaped(name)}</text>`,
      `<rect x="${LEFT}" y="${y + 3}" width="${(x(spread.median) - LEFT).toFixed(1)}" height="${ROW - 12}" rx="2" fill="${ours ? '#6d3fa0' : '#b9b3c4'}"/>`,
      `<path d="M${x(spread.low).toFixed(1)} ${middle}H${x(spread.high).toFixed(1)}" stroke="#1d1726" stroke-width="2"/>`,
      `<text x="${(x(spread.high) + 8).toFixed(1)}" y="${middle + 5}">${figure(spread.median)} ${escaped(unit)}</text>`,
    ].join('\n');
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="14" fill="#1d1726">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="16" y="30" font-size="17" font-weight="600">${escaped(title)}</text>`,
    ...rows,
    '</svg>',
    '',
  ].join('\n');
}
