import { describe, expect, it } from 'vitest';
import { fill, needOf } from '../../../bench/reckoning.js';
import { verdict } from '../../../bench/service-report.js';
import { figure, quantile, spread, told } from '../../../bench/statistics.js';

const site = { name: 'a site', smearsADay: 360, imagesASmear: 10, busiestHourShare: 0.5, retentionDays: 10 };
const bytes = { queue: 1_000, pictures: 90_000, numbers: 10_000 };

describe('what a site needs', () => {
  it('follows from the busiest hour, with room to spare', () => {
    const need = needOf(site, 1, bytes);
    expect(need.imagesPerSecond).toBeCloseTo(0.5);
    // Planned for 70 % of a machine's rate.
    expect(need.workers).toBe(1);
    expect(needOf(site, 0.71, bytes).workers).toBe(2);
    expect(needOf(site, 0.72, bytes).workers).toBe(1);
    expect(need.redisMb).toBeCloseTo(1.8);
    expect(need.databaseGb).toBeCloseTo(3.6);
    expect(need.numbersGb).toBeCloseTo(0.36);
  });
});

describe('the page', () => {
  const page = 'before\n<!-- bench:a -->\n\nold\n\n<!-- /bench -->\nbetween\n<!-- bench:b -->\n<!-- /bench -->\n';

  it('gets each block between its own marks, again and again', () => {
    const once = fill(page, { a: 'new', b: 'other' });
    expect(once).toBe(
      'before\n<!-- bench:a -->\n\nnew\n\n<!-- /bench -->\nbetween\n<!-- bench:b -->\n\nother\n\n<!-- /bench -->\n',
    );
    expect(fill(once, { a: 'new', b: 'other' })).toBe(once);
  });

  it('must have the marks', () => {
    expect(() => fill(page, { c: 'text' })).toThrow(/no marks for c/);
  });
});

describe('figures', () => {
  it('are told as a person reads them', () => {
    expect([0.1234, 12.345, 99.96, 1234.5].map(figure)).toEqual(['0.123', '12.3', '100', '1,235']);
    expect(figure(Number.NaN)).toBe('–');
    expect(told(spread([3, 1, 2]))).toBe('2 (1–3)');
    expect(told(spread([2]))).toBe('2');
  });

  it('have quantiles that are among them', () => {
    const values = Array.from({ length: 200 }, (_, i) => i + 1);
    expect([quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1)]).toEqual([100, 198, 200]);
    expect(quantile([], 0.5)).toBeNaN();
  });

  it('say whether a target is met, by how much it is missed, or that nobody measured', () => {
    const target = { name: 'n', wanted: 'w', got: 'g' };
    expect(verdict({ ...target, missedBy: 0 })).toBe('met');
    expect(verdict({ ...target, missedBy: 0.125 })).toBe('**missed by 12.5 %**');
    expect(verdict({ ...target, missedBy: Number.NaN })).toBe('not measured');
  });
});
