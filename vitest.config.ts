import { defineConfig } from 'vitest/config';

/**
 * One runner, eight projects. `npm test` runs the first three, which need Node alone; `npm run test:all` all of them.
 * - unit: pure parts and everything that needs no server; all files in parallel.
 * - integration: real PostgreSQL (embedded), real queue, real ONNX sessions. One PostgreSQL for the run, started by the
 *   global setup; at most two files at once, because every file brings threads of its own.
 * - e2e: starts the program as a user does. One file at a time: each brings up a whole service.
 * - redis: the integration tests that use a queue again, with the queue on the Redis server in TEST_REDIS_URL.
 * - s3: the integration tests that store or read images again, with the images on an S3 server.
 * - servers: with servers that Debian brings.
 * - browser: the pages that people see, in Chromium.
 * - monitoring: the service under a real Prometheus, and every expression of dashboards and alerts.
 */
const integration = {
  include: ['test/integration/**/*.test.ts'],
  globalSetup: ['test/support/database-setup.ts'],
  pool: 'forks' as const,
  maxWorkers: 2,
  testTimeout: 120_000,
  hookTimeout: 120_000,
};

const wholeService = {
  pool: 'forks' as const,
  fileParallelism: false,
  testTimeout: 180_000,
  hookTimeout: 180_000,
};

export default defineConfig({
  test: {
    // A stray `.only` must not turn the suite green.
    allowOnly: false,
    passWithNoTests: false,
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts'],
          testTimeout: 20_000,
          hookTimeout: 20_000,
        },
      },
      { test: { ...integration, name: 'integration', env: { TEST_QUEUE: 'postgres' }, sequence: { groupOrder: 1 } } },
      { test: { ...wholeService, name: 'e2e', include: ['test/e2e/**/*.test.ts'], sequence: { groupOrder: 2 } } },
      {
        test: {
          ...integration,
          name: 'redis',
          include: ['test/integration/{jobs,http}/**/*.test.ts'],
          env: { TEST_QUEUE: 'redis' },
          sequence: { groupOrder: 3 },
        },
      },
      {
        test: {
          ...integration,
          name: 's3',
          include: [
            'test/integration/storage/storage.test.ts',
            'test/integration/jobs/jobs.test.ts',
            'test/integration/http/{idempotency,privacy,removal,results}.test.ts',
          ],
          env: { TEST_QUEUE: 'postgres', TEST_IMAGES: 's3' },
          sequence: { groupOrder: 4 },
        },
      },
      {
        test: { ...wholeService, name: 'servers', include: ['test/servers/**/*.test.ts'], sequence: { groupOrder: 5 } },
      },
      {
        test: { ...wholeService, name: 'browser', include: ['test/browser/**/*.test.ts'], sequence: { groupOrder: 6 } },
      },
      {
        test: {
          ...wholeService,
          name: 'monitoring',
          include: ['test/monitoring/**/*.test.ts'],
          sequence: { groupOrder: 5 },
        },
      },
    ],
  },
});
