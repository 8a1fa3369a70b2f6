/**
 * `npm run test:all`: everything that `npm test` does, then what needs more than Node:
 *
 * - the integration tests once more with the queue on Redis (a redis-server of its own, on a free port)
 * - those that store or read images once more with the images on an S3 server
 * - a PostgreSQL server of Debian's, backed up and restored
 * - faults in the running system, the short version (test/chaos), with the queue in Redis and in PostgreSQL
 * - the browser test of /docs (Chromium)
 * - the service under a real Prometheus, dashboards and alert rules
 * - the training package's tests (Python, from .venv)
 * - what clients in Python make of the service: webhooks by the official library, reports by models and parsers of FHIR and HL7 v2,
 *   the client that docs/integration.md generates, and schemathesis, which holds the running service against openapi.yaml
 *
 *     npm run test:all
 *     npm run test:all -- --beyond     without `npm test`, where that ran before
 *
 * Nothing is skipped quietly: a tool that is missing is a failure that says how to get it, and so is a test that a
 * runner reports as skipped. Every runner leaves a report in out/reports; scripts/test-sums.mjs adds them up.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { printFailures, REPORTS, readReports } from './test-sums.mjs';

const beyond = process.argv.includes('--beyond');
const PYTHON = join('.venv', 'bin', 'python');

/** @type {string[]} */
const failures = [];
if (!beyond) rmSync(REPORTS, { recursive: true, force: true });
mkdirSync(REPORTS, { recursive: true });

if (!beyond) run('npm test', 'npm', ['test', '--', ...vitestReport('node')]);
await redisTests();
s3Tests();
run('servers', 'npx', ['vitest', 'run', '--project', 'servers', ...vitestReport('servers')]);
for (const queue of ['redis', 'postgres']) {
  run(`chaos, queue in ${queue}`, 'npx', ['tsx', 'test/chaos/run.ts', '--short', '--queue', queue]);
}
browserTests();
monitoringTests();
pythonTests();

const { passed, failed, failures: failedTests, skipped, skippedNames } = readReports();
printFailures(failedTests);
if (skipped > 0) failures.push(`${skipped} skipped test(s):\n    ${skippedNames.join('\n    ')}`);
console.log(`\ntest:all: ${passed} passed, ${failed} failed, ${skipped} skipped`);
if (failures.length > 0 || failed > 0) {
  for (const failure of failures) console.error(`✗ ${failure}`);
  process.exit(1);
}

function s3Tests() {
  run('integration with images in S3', 'npx', ['vitest', 'run', '--project', 's3', ...vitestReport('s3')]);
}

async function redisTests() {
  const redis = await startRedis();
  if (redis === null) return;
  try {
    run('integration on Redis', 'npx', ['vitest', 'run', '--project', 'redis', ...vitestReport('redis')], {
      TEST_REDIS_URL: redis.url,
    });
  } finally {
    await redis.stop();
  }
}

function browserTests() {
  const chromium = process.env.CHROMIUM ?? '/usr/bin/chromium';
  if (!existsSync(chromium)) {
    failures.push(`browser: no Chromium at ${chromium} (apt-get install chromium, or name it in CHROMIUM)`);
    return;
  }
  run('browser', 'npx', ['vitest', 'run', '--project', 'browser', ...vitestReport('browser')], { CHROMIUM: chromium });
}

function monitoringTests() {
  for (const tool of ['prometheus', 'promtool']) {
    if (spawnSync(tool, ['--version']).status === 0) continue;
    failures.push(`monitoring: no ${tool} in the path (apt-get install prometheus)`);
    return;
  }
  run('monitoring', 'npx', ['vitest', 'run', '--project', 'monitoring', ...vitestReport('monitoring')]);
}

function pythonTests() {
  if (!existsSync(PYTHON)) {
    const install = ".venv/bin/pip install -e 'training[test]' -r test/python/requirements.txt";
    failures.push(`python: no ${PYTHON} (python3 -m venv .venv && ${install})`);
    return;
  }
  run('ruff', PYTHON, ['-m', 'ruff', 'check', 'training', 'test/python', 'bench/peers']);
  run('training', PYTHON, ['-m', 'pytest', 'training', '-q', `--junitxml=${join(REPORTS, 'training.xml')}`]);
  const samples = mkdtempSync(join(tmpdir(), 'leukodiff-reports-'));
  run('report samples', 'npx', ['tsx', 'test/python/write-samples.ts', samples]);
  const report = `--junitxml=${join(REPORTS, 'python.xml')}`;
  run('clients in Python', PYTHON, ['-m', 'pytest', 'test/python', '-q', report], { REPORT_SAMPLES: samples });
  rmSync(samples, { recursive: true, force: true });
}

/** @returns {Promise<{url: string, stop: () => Promise<void>} | null>} */
async function startRedis() {
  if (spawnSync('redis-server', ['--version']).status !== 0) {
    failures.push('redis: no redis-server in the path (apt-get install redis-server)');
    return null;
  }
  const folder = mkdtempSync(join(tmpdir(), 'leukodiff-redis-'));
  const port = await freePort();
  // The settings that production needs: nothing is evicted, what was acknowledged survives a crash.
  const settings = {
    bind: '127.0.0.1',
    port,
    dir: folder,
    'maxmemory-policy': 'noeviction',
    appendonly: 'yes',
    save: '',
  };
  const server = spawn(
    'redis-server',
    Object.entries(settings).flatMap(([name, value]) => [`--${name}`, `${value}`]),
    {
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  const ended = new Promise((resolve) => server.once('exit', resolve));
  for (let attempt = 0; attempt < 100; attempt += 1) {
    if (
      spawnSync('redis-cli', ['-p', `${port}`, 'ping'])
        .stdout?.toString()
        .trim() === 'PONG'
    )
      break;
    await sleep(50);
  }
  return {
    url: `redis://127.0.0.1:${port}`,
    stop: async () => {
      server.kill('SIGTERM');
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** @returns {Promise<number>} */
function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });
}

function vitestReport(name) {
  return ['--reporter=default', '--reporter=json', `--outputFile.json=${join(REPORTS, `${name}.json`)}`];
}

function run(label, command, args, env = {}) {
  console.log(`\n── ${label} ──`);
  const { status, signal } = spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, ...env } });
  if (status !== 0) failures.push(`${label} ended with ${signal ?? status}`);
}
