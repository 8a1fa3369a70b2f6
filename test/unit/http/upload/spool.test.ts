import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Spool } from '../../../../src/http/upload/spool.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'leukodiff-spool-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const bytes = (length: number, value: number): Buffer => Buffer.alloc(length, value);

describe('the spool', () => {
  it('keeps a small file in memory and gives it back whole, as often as asked', async () => {
    const request = new Spool(dir).open();
    const file = request.file();
    await file.add(bytes(300, 1));
    await file.add(bytes(200, 2));
    await file.end();
    for (let time = 0; time < 2; time++) {
      expect((await file.read()).equals(Buffer.concat([bytes(300, 1), bytes(200, 2)]))).toBe(true);
    }
    expect(readdirSync(dir)).toEqual([]);
    await request.dispose();
  });

  it('has all of a file on the disk as soon as it is too large, and none of it after', async () => {
    const request = new Spool(dir, { ofAFile: 100, inAll: 1000 }).open();
    const files = [request.file(), request.file()];
    for (const [n, file] of files.entries()) {
      for (let chunk = 0; chunk < 4; chunk++) await file.add(bytes(40, 10 * n + chunk));
      await file.end();
    }
    expect(readdirSync(dir)).toHaveLength(1);
    const second = await files[1]?.read();
    expect(second?.equals(Buffer.concat([10, 11, 12, 13].map((value) => bytes(40, value))))).toBe(true);
    await request.dispose();
    expect(readdirSync(dir)).toEqual([]);
  });

  it('keeps only so much of all requests, and has the room again when they are done', async () => {
    const spool = new Spool(dir, { ofAFile: 100, inAll: 150 });
    const first = spool.open();
    await first.file().add(bytes(100, 1));
    const second = spool.open();
    await second.file().add(bytes(100, 2));
    expect(readdirSync(dir)).toHaveLength(1);
    await Promise.all([first.dispose(), second.dispose()]);
    const third = spool.open();
    await third.file().add(bytes(100, 3));
    expect(readdirSync(dir)).toEqual([]);
    await third.dispose();
  });

  it('says when the disk takes nothing, and is tidy all the same', async () => {
    const request = new Spool(join(dir, 'file', 'below')).open();
    writeFileSync(join(dir, 'file'), 'no folder');
    const file = request.file();
    await expect(file.add(bytes(2_000_000, 1))).rejects.toThrow(/ENOTDIR|EEXIST/);
    await request.dispose();
  });

  it('is an empty file where nothing came', async () => {
    const request = new Spool(dir).open();
    const file = request.file();
    await file.end();
    expect(await file.read()).toHaveLength(0);
    await request.dispose();
  });
});
