import { describe, expect, it } from 'vitest';
import { DIAMETER_UM, type DrawnCell, drawSmear, NEUTRAL_STAIN, type Smear } from '../../support/smear.js';

const ALL: Record<DrawnCell, number> = { neutrophil: 2, lymphocyte: 2, monocyte: 1, eosinophil: 1, basophil: 1 };
const draw = (over: object = {}): Smear =>
  drawSmear({ seed: 7, width: 480, height: 360, micronsPerPixel: 0.2, cells: ALL, ...over });

/** Mean colour where the truth has a label. */
function meanColour(smear: Smear, cell: Smear['cells'][number], label: number): number[] {
  const sum = [0, 0, 0];
  let count = 0;
  cell.mask.forEach((value, i) => {
    if (value !== label) return;
    const p = (cell.box.y + Math.floor(i / cell.box.width)) * smear.width + cell.box.x + (i % cell.box.width);
    for (let c = 0; c < 3; c++) sum[c] = (sum[c] ?? 0) + (smear.data[p * 3 + c] ?? 0);
    count++;
  });
  return sum.map((value) => value / count);
}

describe('drawSmear', () => {
  const smear = draw();

  it('draws exactly the cells it was asked for, apart and inside the field', () => {
    const counts = new Map<string, number>();
    for (const cell of smear.cells) counts.set(cell.class, (counts.get(cell.class) ?? 0) + 1);
    expect(Object.fromEntries(counts)).toEqual(ALL);
    for (const [i, a] of smear.cells.entries()) {
      expect(a.box.x >= 0 && a.box.x + a.box.width <= 480 && a.box.y >= 0 && a.box.y + a.box.height <= 360).toBe(true);
      for (const b of smear.cells.slice(i + 1)) {
        expect(Math.hypot(a.x - b.x, a.y - b.y)).toBeGreaterThan((a.radius + b.radius) * 0.95);
      }
    }
    expect(smear.redCells).toBeGreaterThan(40);
  });

  it('has the sizes of the field’s books', () => {
    for (const { class: type, radius, mask } of smear.cells) {
      const diameter = 2 * radius * 0.2;
      expect(Math.abs(diameter - DIAMETER_UM[type]) / DIAMETER_UM[type]).toBeLessThan(0.15);
      const areaUm2 = mask.filter((label) => label !== 0).length * 0.04;
      expect(Math.abs(areaUm2 - (Math.PI * diameter ** 2) / 4) / areaUm2).toBeLessThan(0.2);
      expect(mask.includes(255)).toBe(true);
    }
  });

  it('is stained: nuclei dark violet, eosinophil cytoplasm orange, lymphocyte cytoplasm blue', () => {
    for (const cell of smear.cells) {
      const [r = 0, g = 0, b = 0] = meanColour(smear, cell, 255);
      expect(r + g + b).toBeLessThan(330);
      expect(b).toBeGreaterThan(g + 15);
      const [cr = 0, , cb = 0] = meanColour(smear, cell, 128);
      if (cell.class === 'eosinophil') expect(cr - cb).toBeGreaterThan(40);
      if (cell.class === 'lymphocyte') expect(cb - cr).toBeGreaterThan(20);
    }
  });

  it('repeats itself for the same seed and not for another', () => {
    expect(Buffer.compare(draw().data, smear.data)).toBe(0);
    expect(Buffer.compare(draw({ seed: 8 }).data, smear.data)).not.toBe(0);
  });

  it('is the same scene at another magnification', () => {
    const fine = draw({ width: 960, height: 720, micronsPerPixel: 0.1 });
    expect(fine.redCells).toBe(smear.redCells);
    for (const [i, cell] of fine.cells.entries()) {
      expect(cell.class).toBe(smear.cells[i]?.class);
      expect(Math.abs(cell.x / 2 - (smear.cells[i]?.x ?? 0))).toBeLessThan(0.01);
      const share =
        cell.mask.filter((v) => v !== 0).length / 4 / (smear.cells[i]?.mask.filter((v) => v !== 0).length ?? 1);
      expect(share).toBeGreaterThan(0.95);
      expect(share).toBeLessThan(1.05);
    }
  });

  it('takes another stain, places cells where it is told, and can leave the cells out', () => {
    const corner = (image: Smear): number[] => [...image.data.subarray(0, 3)];
    const empty = { cells: {}, redCellCover: 0, platelets: 0, noise: 0, vignette: 0 };
    const [cream = [], neutral = []] = [corner(draw(empty)), corner(draw({ ...empty, stain: NEUTRAL_STAIN }))];
    expect((cream[0] ?? 0) - (cream[2] ?? 0)).toBeGreaterThan(30);
    expect(Math.abs((neutral[0] ?? 0) - (neutral[2] ?? 0))).toBeLessThan(8);
    const placed = draw({ cells: {}, placed: [{ class: 'monocyte', xUm: 0, yUm: 30 }] });
    expect(placed.cells).toHaveLength(1);
    expect(placed.cells[0]?.box.x).toBe(0);
  });

  it('says so when there is no room', () => {
    expect(() => draw({ width: 60, height: 60, cells: { monocyte: 5 } })).toThrow(/No room/);
  });
});
