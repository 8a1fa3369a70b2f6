/**
 * Adds up what the test runners reported in out/reports (vitest: JSON, pytest: JUnit XML). Run by itself it names every
 * test that failed, with its reason, and then prints the closing line of a test run, `N passed, N failed`: whoever sees
 * only the end of a long log can tell what to mend.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';

export const REPORTS = join('out', 'reports');

/**
 * @typedef {{name: string, reason: string}} Failure
 * @returns {{passed: number, failed: number, failures: Failure[], skipped: number, skippedNames: string[], files: string[]}}
 */
export function readReports(folder = REPORTS) {
  const sums = { passed: 0, failed: 0, failures: [], skipped: 0, skippedNames: [], files: [] };
  if (!existsSync(folder)) return sums;
  for (const name of readdirSync(folder).sort()) {
    const text = readFileSync(join(folder, name), 'utf8');
    const one = name.endsWith('.json') ? fromVitest(text) : name.endsWith('.xml') ? fromJunit(text) : null;
    if (one === null) continue;
    sums.files.push(name);
    sums.passed += one.passed;
    sums.failed += one.failed;
    sums.failures.push(...one.failures.map((failure) => ({ ...failure, name: `${name}: ${failure.name}` })));
    sums.skipped += one.skippedNames.length;
    sums.skippedNames.push(...one.skippedNames.map((test) => `${name}: ${test}`));
  }
  return sums;
}

function fromVitest(text) {
  const report = JSON.parse(text);
  const tests = report.testResults.flatMap((file) => file.assertionResults);
  const failed = tests.filter((test) => test.status === 'failed');
  const unfinished = tests.filter((test) => test.status !== 'passed' && test.status !== 'failed');
  // A file that cannot be loaded fails without a test of its own.
  const brokenFiles = report.testResults.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  );
  return {
    passed: tests.filter((test) => test.status === 'passed').length,
    failed: failed.length + brokenFiles.length,
    failures: [
      ...failed.map((test) => ({ name: test.fullName, reason: test.failureMessages.join('\n') })),
      ...brokenFiles.map((file) => ({ name: relative('.', file.name), reason: file.message })),
    ],
    skippedNames: unfinished.map((test) => test.fullName),
  };
}

function fromJunit(text) {
  const suites = text.match(/<testsuite\b[^>]*>/g) ?? [];
  const sum = (attribute) =>
    suites.reduce((total, suite) => total + Number(suite.match(new RegExp(`\\b${attribute}="(\\d+)"`))?.[1] ?? 0), 0);
  const failed = sum('failures') + sum('errors');
  const skipped = sum('skipped');
  const names = [...text.matchAll(/<testcase\b[^>]*\bname="([^"]*)"[^>]*>\s*<skipped\b/g)].map((match) => match[1]);
  // A test's own element holds its failure; an element without content (`/>`) is a test that passed.
  const failures = [
    ...text.matchAll(/<testcase\b[^>]*\bname="([^"]*)"[^>]*(?<!\/)>\s*<(?:failure|error)\b(?:\s+message="([^"]*)")?/g),
  ].map(([, test, message]) => ({ name: test, reason: decodeXml(message ?? '') }));
  return {
    passed: sum('tests') - failed - skipped,
    failed,
    failures,
    skippedNames: Array.from({ length: skipped }, (_, index) => names[index] ?? 'unnamed'),
  };
}

function decodeXml(text) {
  const characters = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&', '#10': '\n' };
  return text.replace(/&(lt|gt|quot|apos|amp|#10);/g, (_, name) => characters[name]);
}

/** Prints every failure with the first lines of its reason. */
export function printFailures(failures, lines = 12) {
  for (const { name, reason } of failures) {
    console.error(`✗ ${name}`);
    for (const line of stripVTControlCharacters(reason).split('\n').slice(0, lines)) console.error(`    ${line}`);
  }
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const { passed, failed, failures } = readReports();
  printFailures(failures);
  console.log(`${passed} passed, ${failed} failed`);
}
