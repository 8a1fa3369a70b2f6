/** docs/operations.md, backing up the embedded database: stop, copy the folder, start. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, afterEach, expect, it } from 'vitest';
import { ended, post, read, smallSmear } from '../support/orders.js';
import { cleanUp, preparedDataDir, serve, stopAll, temporaryFolder } from '../support/program.js';

afterEach(stopAll);
afterAll(cleanUp);

it('a copy of the data folder brings everything back that it held, and finishes what was waiting', async () => {
  const DATA_DIR = await preparedDataDir();
  const images = [await smallSmear(1), await smallSmear(2)];
  const service = await serve({ DATA_DIR, WORKER_CONCURRENCY: '1' });
  const done = await ended(service, await post(service, images));
  const waiting = await Promise.all(Array.from({ length: 10 }, () => post(service, images)));
  expect(await service.stop('SIGTERM')).toMatchObject({ code: 0 });

  const copy = join(temporaryFolder(), 'data');
  expect(spawnSync('cp', ['-a', DATA_DIR, copy], { encoding: 'utf8' })).toMatchObject({ status: 0 });
  const original = await serve({ DATA_DIR });
  const later = await post(original, images);
  await original.stop();

  const restored = await serve({ DATA_DIR: copy });
  const again = { ...restored, headers: service.headers };
  // Links name the address of the service, which is another one here.
  const withoutLinks = (value: unknown): unknown =>
    JSON.parse(JSON.stringify(value, (key, inner: unknown) => (key === 'links' ? undefined : inner)));
  expect(withoutLinks(await read(again, done.id))).toEqual(withoutLinks(done));
  for (const id of waiting) expect((await ended(again, id)).status).toBe('completed');
  await expect(read(again, later)).rejects.toThrow(/404/);
  expect(await restored.stop()).toMatchObject({ code: 0 });
});
