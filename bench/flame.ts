/** A profile of Node (`--cpu-prof`) as a flame graph: time to the right, calls downwards, in SVG. */
import { basename } from 'node:path';
import { escaped } from './chart.js';

/** The part of V8's format that is read here. */
export interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
    readonly children?: readonly number[];
  }[];
  readonly samples: readonly number[];
  /** Microseconds. */
  readonly timeDeltas: readonly number[];
}

export interface Frame {
  readonly name: string;
  /** Microseconds in it and in what it called. */
  total: number;
  self: number;
  readonly children: Map<string, Frame>;
}

/** The call tree with frames of the same name under the same caller put together. */
export function callTree({ nodes, samples, timeDeltas }: CpuProfile): Frame {
  const selfOf = new Map<number, number>();
  for (const [i, id] of samples.entries()) selfOf.set(id, (selfOf.get(id) ?? 0) + (timeDeltas[i] ?? 0));
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const make = (name: string): Frame => ({ name, total: 0, self: 0, children: new Map() });
  const add = (id: number, into: Frame): number => {
    const node = byId.get(id);
    if (node === undefined) return 0;
    let sum = selfOf.get(id) ?? 0;
    into.self += sum;
    for (const child of node.children ?? []) {
      const frame = byId.get(child)?.callFrame;
      if (frame === undefined) continue;
      const place = frame.url === '' ? '' : ` ${basename(frame.url)}:${frame.lineNumber + 1}`;
      const name = `${frame.functionName || '(anonymous)'}${place}`;
      const below = into.children.get(name) ?? make(name);
      into.children.set(name, below);
      sum += add(child, below);
    }
    into.total += sum;
    return sum;
  };
  const root = make('all');
  const [first] = nodes;
  if (first !== undefined) add(first.id, root);
  return root;
}

/** Microseconds in each function itself, wherever it was called; the longest first. */
export function selfTimes(root: Frame): { readonly name: string; readonly us: number }[] {
  const sums = new Map<string, number>();
  const visit = (frame: Frame): void => {
    sums.set(frame.name, (sums.get(frame.name) ?? 0) + frame.self);
    for (const child of frame.children.values()) visit(child);
  };
  visit(root);
  return [...sums].map(([name, us]) => ({ name, us })).sort((a, b) => b.us - a.us);
}

const WIDTH = 1200;
const ROW = 18;
const NARROWEST = 0.6;
const CHARACTER = 6.2;
/** Modules that load each other go down for hundreds of rows at the start. */
const MOST_ROWS = 40;

/** `waiting` frames are left out: a thread that sleeps does no work. */
export function flameGraph(title: string, root: Frame, waiting: readonly string[] = ['(idle)']): string {
  const shown = [...root.children.values()].filter(({ name }) => !waiting.includes(name));
  const all = shown.reduce((sum, { total }) => sum + total, 0);
  const boxes: string[] = [];
  let deepest = 0;
  const draw = (frames: readonly Frame[], left: number, depth: number): void => {
    let x = left;
    for (const frame of [...frames].sort((a, b) => b.total - a.total)) {
      const width = (frame.total / all) * WIDTH;
      if (width >= NARROWEST && depth < MOST_ROWS) {
        deepest = Math.max(deepest, depth);
        boxes.push(box(frame, x, depth, width, all));
        draw([...frame.children.values()], x, depth + 1);
      }
      x += width;
    }
  };
  draw(shown, 0, 0);
  const height = 40 + (deepest + 1) * ROW + 8;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="monospace" font-size="11">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="8" y="24" font-size="15" font-family="system-ui, sans-serif">${escaped(title)}: ${(all / 1e6).toFixed(2)} s of work</text>`,
    ...boxes,
    '</svg>',
    '',
  ].join('\n');
}

function box(frame: Frame, x: number, depth: number, width: number, all: number): string {
  const y = 36 + depth * ROW;
  // A colour for each name, warm as in every flame graph.
  const hash = [...frame.name].reduce((sum, sign) => (sum * 31 + (sign.codePointAt(0) ?? 0)) >>> 0, 7);
  const colour = `hsl(${hash % 50} 80% ${62 + (hash % 17)}%)`;
  const room = Math.floor((width - 6) / CHARACTER);
  const label =
    room < 3 ? '' : `<text x="${(x + 3).toFixed(1)}" y="${y + 13}">${escaped(frame.name.slice(0, room))}</text>`;
  const tip = `${frame.name}: ${((frame.total / all) * 100).toFixed(1)} %`;
  return `<g><title>${escaped(tip)}</title><rect x="${x.toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="${ROW - 1}" fill="${colour}"/>${label}</g>`;
}
