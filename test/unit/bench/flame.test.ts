import { describe, expect, it } from 'vitest';
import { type CpuProfile, callTree, flameGraph, selfTimes } from '../../../bench/flame.js';

const frame = (functionName: string, url = 'file:///a/b.js') => ({ functionName, url, lineNumber: 0 });
/** (root) calls work twice, from two places that are the same function; work calls inner. */
const profile: CpuProfile = {
  nodes: [
    { id: 1, callFrame: frame('(root)', ''), children: [2, 3, 4] },
    { id: 2, callFrame: frame('(idle)', '') },
    { id: 3, callFrame: frame('work'), children: [5] },
    { id: 4, callFrame: frame('work') },
    { id: 5, callFrame: frame('<inner>') },
  ],
  samples: [2, 3, 5, 4],
  timeDeltas: [1000, 10, 30, 60],
};

describe('a profile', () => {
  it('becomes a tree of time, the same function under the same caller once', () => {
    const root = callTree(profile);
    expect(root.total).toBe(1100);
    expect([...root.children.keys()]).toEqual(['(idle)', 'work b.js:1']);
    expect(root.children.get('work b.js:1')).toMatchObject({ total: 100, self: 70 });
    expect(selfTimes(root).map(({ name, us }) => [name, us])).toEqual([
      ['(idle)', 1000],
      ['work b.js:1', 70],
      ['<inner> b.js:1', 30],
      ['all', 0],
    ]);
  });

  it('is drawn without the waiting, each box as wide as its share', () => {
    const svg = flameGraph('a & b', callTree(profile));
    expect(svg).toContain('a &amp; b: 0.00 s of work');
    expect(svg).not.toContain('idle');
    expect(svg).toContain('<title>work b.js:1: 100.0 %</title><rect x="0.0" y="36" width="1200.0"');
    expect(svg).toContain('<title>&lt;inner&gt; b.js:1: 30.0 %</title><rect x="0.0" y="54" width="360.0"');
  });

  it('is cut where calls go down without end', () => {
    const deep = Array.from({ length: 100 }, (_, i) => ({ id: i + 1, callFrame: frame(`f${i}`), children: [i + 2] }));
    const svg = flameGraph(
      'deep',
      callTree({ nodes: [...deep, { id: 101, callFrame: frame('last') }], samples: [101], timeDeltas: [10] }),
    );
    expect(svg.match(/<g>/g)).toHaveLength(40);
    expect(svg).toContain('viewBox="0 0 1200 768"');
  });
});
