#!/usr/bin/env node
// Generates the Prisma client without a download. `prisma generate` looks for a schema engine although it needs none;
// any executable file satisfies it, so it gets this Node. Skipped while the output is newer than what it is made from.
import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const output = join(root, 'src/storage/generated');
const require = createRequire(import.meta.url);
const prismaPackage = require.resolve('prisma/package.json');
const sources = [join(root, 'prisma/schema.prisma'), prismaPackage, fileURLToPath(import.meta.url)];

if (!process.argv.includes('--force') && isFresh()) process.exit(0);

rmSync(output, { recursive: true, force: true });
const result = spawnSync(
  process.execPath,
  [join(dirname(prismaPackage), 'build/index.js'), 'generate', '--schema', sources[0], '--no-hints'],
  {
    cwd: root,
    encoding: 'utf8',
    env: {
      ...process.env,
      PRISMA_SCHEMA_ENGINE_BINARY: process.execPath,
      PRISMA_HIDE_UPDATE_MESSAGE: '1',
      CHECKPOINT_DISABLE: '1',
    },
  },
);
if (result.status !== 0) {
  process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}${result.error?.message ?? ''}\n`);
  // A half-written client would count as fresh next time.
  rmSync(output, { recursive: true, force: true });
  process.exit(result.status ?? 1);
}

/** Whether every source is older than the generated client. */
function isFresh() {
  try {
    const madeAt = Math.min(
      ...readdirSync(output, { withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => statSync(join(output, entry.name)).mtimeMs),
    );
    return Number.isFinite(madeAt) && sources.every((source) => statSync(source).mtimeMs <= madeAt);
  } catch {
    return false;
  }
}
