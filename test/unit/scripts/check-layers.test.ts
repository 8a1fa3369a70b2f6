import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { checkLayers } from '../../../scripts/check-layers.js';

/**
 * Holds the real table against a small source folder. Each violation is one file that breaks one rule; the same folder
 * without it passes, so the rule is what fails.
 */
const SOUND: Record<string, string> = {
  'errors.ts': 'export class ExpectedError extends Error {}\n',
  'config.ts': "import { ExpectedError } from './errors.js';\nexport type Config = ExpectedError;\n",
  'hematology/cell-types.ts': 'export type CellType = string;\nexport const CELL_TYPES = [];\n',
  'hematology/differential.ts': "export type { CellType } from './cell-types.js';\n",
  'reporting/event.ts': "export { CELL_TYPES } from '../hematology/cell-types.js';\n",
  'vision/types.ts': "import type { CellType } from '../hematology/cell-types.js';\nexport type T = CellType;\n",
  'vision/infer.ts': "import { readFileSync } from 'node:fs';\nimport 'sharp';\nexport const x = readFileSync;\n",
  'storage/database.ts': "import type { T } from '../vision/types.js';\nimport 'pg';\nexport type D = T;\n",
  'jobs/queues.ts': "import '../storage/database.js';\nimport 'bullmq';\n",
  'jobs/worker.ts': "import './queues.js';\nimport '../vision/infer.js';\n",
  'http/app.ts': "import '../jobs/queues.js';\nimport 'fastify';\n",
  'main.ts': "import './http/app.js';\nimport './jobs/worker.js';\n",
};

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'layers-'));
  for (const [name, text] of Object.entries(SOUND)) write(name, text);
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

function write(name: string, text: string): void {
  mkdirSync(dirname(join(root, name)), { recursive: true });
  writeFileSync(join(root, name), text);
}

test('a sound source folder passes', () => {
  expect(checkLayers(root)).toEqual({ files: Object.keys(SOUND).length, violations: [] });
});

test.each([
  ['hematology/io.ts', "import 'node:fs';", 'hematology is pure and must not import node:fs'],
  ['hematology/io.ts', "import 'fs/promises';", 'hematology is pure and must not import fs/promises'],
  ['hematology/rule.ts', "import type { T } from '../vision/types.js';", 'hematology must not import vision/types'],
  ['hematology/rule.ts', "type A = import('../vision/types.js').T;", 'hematology must not import vision/types'],
  ['reporting/fhir.ts', "import 'undici';", 'reporting must not import the package undici'],
  ['reporting/fhir.ts', "import '../storage/database.js';", 'reporting must not import storage/database'],
  ['vision/a.ts', "import '../storage/database.js';", 'vision must not import storage/database'],
  ['vision/a.ts', "import 'bullmq';", 'vision must not import the package bullmq'],
  [
    'vision/a.ts',
    "import '../hematology/differential.js';",
    'vision may import only types from hematology/differential',
  ],
  ['vision/a.ts', "new URL('../http/app.js', import.meta.url);", 'vision must not import http/app'],
  ['storage/a.ts', "import '../vision/infer.js';", 'storage may import only types from vision/infer'],
  ['storage/a.ts', "export * from '../vision/infer.js';", 'storage may import only types from vision/infer'],
  ['storage/a.ts', "import 'fastify';", 'storage must not import the package fastify'],
  ['storage/a.ts', "import 'pino';", 'storage may import only types from the package pino'],
  ['jobs/a.ts', "import '@prisma/client';", 'jobs must not import the package @prisma/client'],
  ['jobs/a.ts', "import '../http/app.js';", 'jobs must not import http/app'],
  ['jobs/a.ts', "await import('../main.js');", 'jobs must not import main'],
  ['http/a.ts', "import '../jobs/worker.js';", 'http must not import jobs/worker'],
  ['http/a.ts', "import '../vision/infer.js';", 'http may import only types from vision/infer'],
  ['http/a.ts', "import 'pg';", 'http must not import the package pg'],
  ['http/a.ts', "import '../main.js';", 'http must not import main'],
  ['http/a.ts', "import '../../elsewhere.js';", 'lies outside the source folder'],
  ['http/a.ts', "import './missing.js';", './missing.js does not exist'],
  ['http/a.ts', "const name = 'x';\nawait import(name);", 'import() of a computed name'],
  ['helpers/a.ts', 'export {};', "'helpers' is not a layer"],
  ['main.ts', "import 'fastify';", 'main must not import the package fastify'],
])('%s with %s is refused', (file, text, complaint) => {
  write(file, `${text}\n`);
  const { violations } = checkLayers(root);
  expect(violations).toHaveLength(1);
  expect(violations[0]).toContain(complaint);
  expect(violations[0]).toContain(file);
});

test('a cycle is refused, one of types only is not', () => {
  write('jobs/queues.ts', "import type {} from './worker.js';\n");
  expect(checkLayers(root).violations).toEqual([]);
  write('jobs/queues.ts', "import './worker.js';\n");
  expect(checkLayers(root).violations).toEqual(['import cycle: jobs/queues.ts → jobs/worker.ts → jobs/queues.ts']);
});

test('a folder without sources has no files, which the command takes for a failure', () => {
  rmSync(root, { recursive: true });
  mkdirSync(root);
  expect(checkLayers(root)).toEqual({ files: 0, violations: [] });
});
