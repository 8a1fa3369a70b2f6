/**
 * Writes docs/problems.md, every problem of the API one by one, from the tables that the service answers from; with --check
 * it only compares and fails on a difference.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { PROBLEM_TYPE_BASE, PROBLEMS } from '../src/http/problems.js';
import {
  allImagesFailed,
  IMAGE_ANALYSIS_ERROR,
  IMAGE_INTERRUPTED,
  IMAGE_TIMEOUT,
  tooOld,
  undecodable,
} from '../src/jobs/problems.js';

const FILE = new URL('../docs/problems.md', import.meta.url);

/** Stored with an image or an analysis, never the answer to a request. */
const STORED = [
  undecodable('image-empty', 'The file has no bytes.'),
  undecodable('image-truncated', 'The file ends before its picture does. Send the whole file again.'),
  undecodable('image-corrupt', 'The file cannot be decoded. Export it again.'),
  IMAGE_INTERRUPTED,
  IMAGE_TIMEOUT,
  IMAGE_ANALYSIS_ERROR,
  allImagesFailed([
    { index: 0, problem: IMAGE_TIMEOUT },
    { index: 1, problem: IMAGE_ANALYSIS_ERROR },
  ]),
  tooOld(240),
];

const answers = Object.entries(PROBLEMS)
  .map(([slug, kind]) => ({ slug, ...kind }))
  .sort((a, b) => a.status - b.status || (a.slug < b.slug ? -1 : 1));

const written = `# Problems

<!-- Made by \`npm run problems\` from src/http/problems.ts and src/jobs/problems.ts. Do not edit. -->

Every error is a problem document (RFC 9457, \`application/problem+json\`). Branch on \`type\`, which is stable: it is
\`${PROBLEM_TYPE_BASE}\` and the name below. It is a name, and need not be fetched. \`detail\` says what happened and what to
do, \`errors\` names every field or file that is wrong, \`requestId\` finds the request in the log. With 409, 429 and 503
\`Retry-After\` says when to try again, where trying again helps.

| Name | Status |
|---|---|
${answers.map(({ slug, status }) => `| [\`${slug}\`](#${slug}) | ${status} |`).join('\n')}

${answers.map(({ slug, status, title, advice }) => `## ${slug}\n\n**${status}** · ${title}.\n\n${advice}`).join('\n\n')}

# Problems of images and analyses

These stand in results (\`images[].problem\`, \`problem\`) under \`code\`, with the same names.

${STORED.map(({ code, title, detail }) => `## ${code}\n\n${title}.\n\n${detail}`).join('\n\n')}
`;

if (process.argv.includes('--check')) {
  const present = await readFile(FILE, 'utf8').catch(() => '');
  if (present !== written) {
    console.error('docs/problems.md differs from the tables. Run `npm run problems` and commit the change.');
    process.exitCode = 1;
  }
} else {
  await writeFile(FILE, written);
}
