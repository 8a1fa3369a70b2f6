/**
 * Writes docs/configuration.md from the table in src/config.ts; with --check it only compares and fails on a difference.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { CONFIG_VARIABLES, type ConfigVariable } from '../src/config.js';

const FILE = new URL('../docs/configuration.md', import.meta.url);

const written = `# Configuration

<!-- Made by \`npm run configuration\` from src/config.ts. Do not edit. -->

Every setting is an environment variable, and every one has a default: \`npm start\` needs none. A variable that is set to
nothing counts as not set. The program checks all of them before it starts, and names every one that it cannot use.

| Variable | Default | Meaning |
|---|---|---|
${CONFIG_VARIABLES.map((one) => `| \`${one.name}\` | ${defaultOf(one)} | ${one.meaning.replaceAll('|', '\\|')} |`).join('\n')}

Sizes are in bytes: 1048576 is 1 MiB.
`;

if (process.argv.includes('--check')) {
  const present = await readFile(FILE, 'utf8').catch(() => '');
  if (present !== written) {
    console.error(
      'docs/configuration.md differs from src/config.ts. Run `npm run configuration` and commit the change.',
    );
    process.exitCode = 1;
  }
} else {
  await writeFile(FILE, written);
}

/** A default that depends on the machine is told by the meaning, so that the page is the same everywhere. */
function defaultOf({ default: value, meaning }: ConfigVariable): string {
  if (value === null || value === '') return 'not set';
  return meaning.includes('Default:') ? '–' : `\`${value}\``;
}
