/**
 * Adds up what the test runners reported in out/reports (vitest: JSON, pytest: JUnit XML). Run by itself it prints the
 * closing line of a test run, `N passed, N failed`.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const REPORTS = join('out', 'reports');

/** @returns {{passed: number, failed: number, skipped: number, skippedNames: string[], files: string[]}} */
export function readReports(folder = REPORTS) {
  const sums = { passed: 0, failed: 0, skipped: 0, skippedNames: [], files: [] };
  if (!existsSync(folder)) return sums;
  for (const name of readdirSync(folder).sort()) {
    const text = readFileSync(join(folder, name), 'utf8');
    const one = name.endsWith('.json') ? fromVitest(text) : name.endsWith('.xml') ? fromJunit(text) : null;
    if (one === null) continue;
    sums.files.push(name);
    sums.passed += one.passed;
    sums.failed += one.failed;
    sums.skipped += one.skippedNames.length;
    sums.skippedNames.push(...one.skippedNames.map((test) => `${name}: ${test}`));
  }
  return sums;
}

function fromVitest(text) {
  const report = JSON.parse(text);
  const tests = report.testResults.flatMap((file) => file.assertionResults);
  const unfinished = tests.filter((test) => test.status !== 'passed' && test.status !== 'failed');
  // A file that cannot be loaded fails without a test of its own.
  const brokenFiles = report.testResults.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'),
  );
  return {
    passed: tests.filter((test) => test.status === 'passed').length,
    failed: tests.filter((test) => test.status === 'failed').length + brokenFiles.length,
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
  return {
    passed: sum('tests') - failed - skipped,
    failed,
    skippedNames: Array.from({ length: skipped }, (_, index) => names[index] ?? 'unnamed'),
  };
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const { passed, failed } = readReports();
  console.log(`${passed} passed, ${failed} failed`);
}
