/**
 * Writes openapi.yaml from the schemas of the routes; with --check it only compares and fails on a difference.
 * The document is made with the default limits, so it does not depend on the machine.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { Registry } from 'prom-client';
import { stringify } from 'yaml';
import { loadConfig } from '../src/config.js';
import { buildApp } from '../src/http/app.js';

const FILE = new URL('../openapi.yaml', import.meta.url);
const HEADER = '# Made by `npm run openapi` from the schemas of the routes in src/http. Do not edit.\n';

const written = HEADER + stringify(await makeDocument(), { lineWidth: 120, aliasDuplicateObjects: false });

if (process.argv.includes('--check')) {
  const present = await readFile(FILE, 'utf8').catch(() => '');
  if (present !== written) {
    console.error('openapi.yaml differs from the routes. Run `npm run openapi`, look at the change and commit it.');
    process.exitCode = 1;
  }
} else {
  await writeFile(FILE, written);
}

async function makeDocument(): Promise<object> {
  const { version } = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  const dataDir = await mkdtemp(join(tmpdir(), 'leukodiff-openapi-'));
  // Routes are only described here, never called: nothing behind them is needed.
  const unused = undefined as never;
  const app = await buildApp({
    config: { ...loadConfig({}), dataDir },
    database: unused,
    queues: unused,
    model: unused,
    readiness: async () => [],
    logger: pino({ level: 'silent' }),
    metrics: new Registry(),
    version,
  });
  try {
    return app.swagger();
  } finally {
    await app.close();
    await rm(dataDir, { recursive: true, force: true });
  }
}
