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

${list(CONFIG_VARIABLES.filter((one) => one.secret).map((one) => `\`${one.name}\``))} may also lie in files: set the name
with \`_FILE\` to a path (\`DATABASE_URL_FILE=/run/secrets/database-url\`), as container platforms hand secrets over.
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

function list(names: readonly string[]): string {
  return `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}

/** A default that depends on the machine is told by the meaning, so that the page is the same everywhere. */
function defaultOf({ default: value, meaning }: ConfigVariable): string {
  if (value === null || value === '') return 'not set';
  return meaning.includes('Default:') ? '–' : `\`${value}\``;
}
