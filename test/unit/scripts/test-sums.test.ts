import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

/** The closing line of CI rests on these sums, so they are tried on reports of every kind, by running the script. */
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'sums-'));
  mkdirSync(join(folder, 'out', 'reports'), { recursive: true });
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function report(name: string, text: string): void {
  writeFileSync(join(folder, 'out', 'reports', name), text);
}

function vitest(...files: { status: string; tests: string[] }[]): string {
  return JSON.stringify({
    testResults: files.map(({ status, tests }, file) => ({
      name: join(folder, `file-${file}.test.ts`),
      message: tests.length === 0 ? 'SyntaxError: no such export' : '',
      status,
      assertionResults: tests.map((one, index) => ({
        status: one,
        fullName: `test ${index}`,
        failureMessages: one === 'failed' ? ['\u001b[31mexpected 1 to be 2\u001b[39m\n    at somewhere'] : [],
      })),
    })),
  });
}

function sums(): { stdout: string; stderr: string } {
  return spawnSync(process.execPath, [resolve('scripts/test-sums.mjs')], { cwd: folder, encoding: 'utf8' });
}

function closingLine(): string {
  return sums().stdout;
}

test('nothing ran: nothing passed', () => {
  expect(closingLine()).toBe('0 passed, 0 failed\n');
  rmSync(join(folder, 'out'), { recursive: true });
  expect(closingLine()).toBe('0 passed, 0 failed\n');
});

test('sums over runners', () => {
  report(
    'node.json',
    vitest({ status: 'passed', tests: ['passed', 'passed'] }, { status: 'failed', tests: ['passed', 'failed'] }),
  );
  report('redis.json', vitest({ status: 'passed', tests: ['passed', 'skipped', 'todo'] }));
  report(
    'training.xml',
    '<?xml version="1.0"?><testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="2" skipped="1" tests="10">' +
      '<testcase classname="t" name="test_gpu" time="0"><skipped type="x" message="no"/></testcase></testsuite></testsuites>',
  );
  expect(closingLine()).toBe('10 passed, 4 failed\n');
});

test('a file that cannot be loaded is a failure', () => {
  report('node.json', vitest({ status: 'passed', tests: ['passed'] }, { status: 'failed', tests: [] }));
  expect(closingLine()).toBe('1 passed, 1 failed\n');
});

test('failed tests are named with their reasons, beside the closing line', () => {
  report('node.json', vitest({ status: 'failed', tests: ['passed', 'failed'] }, { status: 'failed', tests: [] }));
  report(
    'training.xml',
    '<testsuite errors="1" failures="1" skipped="0" tests="3"><testcase classname="t" name="a" time="0.1" />' +
      '<testcase classname="t" name="b"><failure message="assert 1 &lt; 0&#10;  where">trace</failure></testcase>' +
      '<testcase name="c"><error message="no fixture &quot;x&quot;">trace</error></testcase></testsuite>',
  );
  expect(sums().stderr.split('\n')).toEqual([
    '✗ node.json: test 1',
    '    expected 1 to be 2',
    '        at somewhere',
    '✗ node.json: file-1.test.ts',
    '    SyntaxError: no such export',
    '✗ training.xml: b',
    '    assert 1 < 0',
    '      where',
    '✗ training.xml: c',
    '    no fixture "x"',
    '',
  ]);
  expect(closingLine()).toBe('2 passed, 4 failed\n');
});

test('skipped tests are named', async () => {
  report('redis.json', vitest({ status: 'passed', tests: ['passed', 'skipped'] }));
  report(
    'training.xml',
    '<testsuite errors="0" failures="0" skipped="1" tests="2"><testcase name="a"/><testcase name="b"><skipped/></testcase></testsuite>',
  );
  const script = resolve('scripts/test-sums.mjs');
  const { stdout } = spawnSync(
    process.execPath,
    ['-e', `import(${JSON.stringify(script)}).then((m) => console.log(JSON.stringify(m.readReports())))`],
    { cwd: folder, encoding: 'utf8' },
  );
  expect(JSON.parse(stdout)).toMatchObject({
    passed: 2,
    failed: 0,
    skipped: 2,
    skippedNames: ['redis.json: test 1', 'training.xml: b'],
  });
});
