/** A worker in a process of its own that takes jobs and never ends them: something to kill. Arguments: URLs, prefix. */

import { pino } from 'pino';
import { openQueues } from '../../src/jobs/queues.js';
import { openDatabase } from '../../src/storage/database.js';
import { TEST_MODEL } from './findings.js';
import { objectsAt } from './object-store.js';
import { startTestWorker } from './worker.js';

const [databaseUrl = '', redisUrl, prefix] = process.argv.slice(2);
const log = pino({ level: 'silent' });
const db = await openDatabase({
  databaseUrl,
  dataDir: '/nonexistent',
  log,
  objects: objectsAt(process.env['TEST_S3_URL'] ?? ''),
});
const queues = await openQueues({
  databaseUrl,
  log,
  ...(redisUrl === undefined || redisUrl === '' ? {} : { redisUrl }),
  ...(prefix === undefined ? {} : { prefix }),
});
startTestWorker({
  config: { workerConcurrency: 2 },
  db,
  queues,
  vision: {
    model: TEST_MODEL,
    analyze: () => {
      process.stdout.write('taken\n');
      return new Promise(() => undefined);
    },
  },
});
