/** Writes docker/grafana/dashboards; with --check it only compares and fails on a difference. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { LABORATORY } from './dashboards/laboratory.js';
import { dashboard } from './dashboards/panels.js';
import { SERVICE } from './dashboards/service.js';

const FOLDER = new URL('../docker/grafana/dashboards/', import.meta.url);

const check = process.argv.includes('--check');
await mkdir(FOLDER, { recursive: true });
for (const [name, spec] of Object.entries({ service: SERVICE, laboratory: LABORATORY })) {
  const file = new URL(`${name}.json`, FOLDER);
  const written = `${JSON.stringify(dashboard(spec), null, 2)}\n`;
  if (!check) {
    await writeFile(file, written);
  } else if ((await readFile(file, 'utf8').catch(() => '')) !== written) {
    console.error(
      `docker/grafana/dashboards/${name}.json differs from scripts/dashboards. Run \`npm run dashboards\`.`,
    );
    process.exitCode = 1;
  }
}
