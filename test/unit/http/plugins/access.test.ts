import Fastify from 'fastify';
import { pino } from 'pino';
import { Registry } from 'prom-client';
import { expect, it } from 'vitest';
import { loadConfig } from '../../../../src/config.js';
import { registerAccess } from '../../../../src/http/plugins/access.js';
import type { App } from '../../../../src/http/types.js';

it('lets no address come into being that does not say who may use it', async () => {
  const app = Fastify() as unknown as App;
  const unused = undefined as never;
  registerAccess(app, {
    config: loadConfig({}),
    database: unused,
    queues: unused,
    model: unused,
    logger: pino({ level: 'silent' }),
    metrics: new Registry(),
    readiness: async () => [],
    version: '0.0.0',
  });
  expect(() => app.get('/forgotten', async () => 'secret')).toThrow(/GET \/forgotten does not say who may use it/);
  expect(() => app.get('/known', { config: { access: 'read' } }, async () => 'secret')).not.toThrow();
  await app.close();
});
