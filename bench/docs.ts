/**
 * `npm run bench:docs`: fills the figures of bench/results into docs/scaling.md, between marks that name what stands there. Where
 * nothing was measured, it says so. `--check` only says whether the page is up to date.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { fill, reckoning } from './reckoning.js';
import { readResult } from './results.js';
import type { ScaleResult } from './scale-report.js';
import type { ServiceResult } from './service-report.js';

const PAGE = fileURLToPath(new URL('../docs/scaling.md', import.meta.url));

const before = readFileSync(PAGE, 'utf8');
const after = fill(before, reckoning(readResult<ServiceResult>('service'), readResult<ScaleResult>('scale')));
if (process.argv.includes('--check')) {
  if (after !== before) {
    console.error('docs/scaling.md does not show bench/results: npm run bench:docs');
    process.exitCode = 1;
  }
} else {
  writeFileSync(PAGE, after);
  console.log('docs/scaling.md shows bench/results');
}
