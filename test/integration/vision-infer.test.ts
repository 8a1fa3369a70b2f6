import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ExecutionProviderError, InferenceError, ModelError } from '../../src/vision/errors.js';
import { createInferencePool, type InferencePool, type InferencePoolOptions } from '../../src/vision/infer.js';
import type { CellsInput, FieldInput } from '../../src/vision/infer-messages.js';
import { loadModel, type Model } from '../../src/vision/manifest.js';
import { MODEL_DIR } from '../support/model-dir.js';

const CRASHING = new URL('../support/crashing-worker.mjs', import.meta.url);
const cudaLibrary = join(
  dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json')),
  `bin/napi-v6/${process.platform}/${process.arch}/libonnxruntime_providers_cuda.so`,
);

let model: Model;
beforeAll(async () => {
  model = await loadModel(MODEL_DIR);
});

const field = (side = 64, first: readonly number[] = [200, 190, 200]): FieldInput => {
  const rgb = new Uint8Array(side * side * 3).fill(200);
  rgb.set(first);
  return { kind: 'field', width: side, height: side, rgb };
};
const crash = (): FieldInput => field(64, [1, 2, 3]);
const crops = (count: number): CellsInput => {
  const pixels = model.manifest.cells.size ** 2;
  return {
    kind: 'cells',
    count,
    crops: new Uint8Array(count * pixels * 3).fill(180),
    prior: new Float32Array(count * pixels).fill(0.5),
  };
};

describe('the inference pool', () => {
  let pool: InferencePool | undefined;
  const open = async (over: Partial<InferencePoolOptions> = {}): Promise<InferencePool> => {
    pool = await createInferencePool({ model, executionProvider: 'cpu', threads: 1, ...over });
    return pool;
  };
  afterEach(async () => {
    await pool?.close();
    pool = undefined;
  });

  it('runs both networks and takes the input buffers over instead of copying them', async () => {
    const running = await open();
    const one = field(96);
    const output = await running.field(one);
    expect([output.width, output.height]).toEqual([48, 48]);
    expect([output.saliency.length, output.centres.length, output.scale.length]).toEqual([2304, 2304, 17]);
    expect(one.rgb.length).toBe(0);
    const mass = output.scale.reduce((sum, log) => sum + Math.exp(log), 0);
    expect(mass).toBeCloseTo(1, 3);
    for (const count of [1, 3, 16]) {
      const { probabilities, segmentation, cam, consistency } = await running.cells(crops(count));
      const classes = model.manifest.cells.classes.length;
      expect([probabilities.length, segmentation.length, cam.length, consistency.length]).toEqual([
        count * classes,
        count * 3 * 80 * 80,
        count * 400,
        count,
      ]);
      for (let i = 0; i < count; i++) {
        const sum = probabilities.slice(i * classes, (i + 1) * classes).reduce((a, b) => a + b, 0);
        expect(sum).toBeCloseTo(1, 3);
      }
    }
  });

  it('leaves the event loop alone while it works', async () => {
    const running = await open();
    const large = field(1152);
    let longestGap = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      longestGap = Math.max(longestGap, performance.now() - last);
      last = performance.now();
    }, 5);
    const start = performance.now();
    await running.field(large);
    const took = performance.now() - start;
    clearInterval(timer);
    // On the main thread the gap would be the whole run.
    expect(longestGap).toBeLessThan(Math.max(60, took / 2));
  });

  it('a crash rejects the job that ran, and a new thread does the rest', async () => {
    const log: string[] = [];
    const running = await open({ workerUrl: CRASHING, onLog: ({ message }) => log.push(message) });
    const results = await Promise.allSettled([running.field(crash()), running.field(field()), running.cells(crops(2))]);
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled']);
    const [first] = results;
    expect(first?.status === 'rejected' && first.reason).toBeInstanceOf(InferenceError);
    expect(log).toContain('an inference thread crashed and is replaced');
  });

  it('gives up after crashing again and again, and says so', async () => {
    const running = await open({ workerUrl: CRASHING });
    const results = await Promise.allSettled(Array.from({ length: 9 }, () => running.field(crash())));
    for (const result of results) {
      expect(result.status === 'rejected' && result.reason).toBeInstanceOf(InferenceError);
    }
    await expect(running.field(field())).rejects.toThrow(/again and again/);
  });

  it('an input that the network refuses rejects that job only', async () => {
    const running = await open();
    const wrong: FieldInput = { kind: 'field', width: 64, height: 64, rgb: new Uint8Array(12) };
    await expect(running.field(wrong)).rejects.toBeInstanceOf(InferenceError);
    await expect(running.field(field())).resolves.toMatchObject({ width: 32 });
  });

  it('aborting takes a waiting job out and lets the others go on', async () => {
    const running = await open();
    const controller = new AbortController();
    const work = [running.field(field(640)), running.field(field(), controller.signal), running.field(field())];
    controller.abort(new Error('client left'));
    const results = await Promise.allSettled(work);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    await expect(running.field(field(), controller.signal)).rejects.toThrow('client left');
  });

  it('aborting a running job rejects at once', async () => {
    const running = await open();
    const controller = new AbortController();
    const work = running.field(field(1152), controller.signal);
    setTimeout(() => controller.abort(new Error('client left')), 5);
    await expect(work).rejects.toThrow('client left');
    await expect(running.field(field())).resolves.toMatchObject({ width: 32 });
  });

  it('several workers share the queue', async () => {
    const running = await open({ workers: 2, threads: 2 });
    const outputs = await Promise.all(Array.from({ length: 8 }, (_, i) => running.field(field(64 + 16 * (i % 3)))));
    expect(outputs.map(({ width }) => width)).toEqual([32, 40, 48, 32, 40, 48, 32, 40]);
  });

  it('closing rejects what waits and what comes later', async () => {
    const running = await open();
    const work = Promise.allSettled([running.field(field(640)), running.field(field())]);
    await running.close();
    for (const result of await work) expect(result.status).toBe('rejected');
    await expect(running.field(field())).rejects.toThrow(/closed/);
  });

  it('closing while a network runs waits for the run, and the process lives on', async () => {
    // A thread that is terminated within a run takes the process of these tests with it.
    for (let time = 0; time < 3; time++) {
      const running = await open({ workers: 2, threads: 2 });
      const begun = Promise.allSettled([running.field(field(1152)), running.cells(crops(16))]);
      await sleep(30);
      await running.close();
      for (const result of await begun) expect(result.status).toBe('rejected');
    }
  });
});

describe('execution providers', () => {
  // Where somebody installed the CUDA libraries these two say nothing.
  const withoutCuda = it.skipIf(existsSync(cudaLibrary));

  withoutCuda('cuda refuses to start where its library is missing, and says what is missing', async () => {
    const start = createInferencePool({ model, executionProvider: 'cuda', threads: 1 });
    await expect(start).rejects.toBeInstanceOf(ExecutionProviderError);
    await expect(start).rejects.toThrow(/EXECUTION_PROVIDER=cuda.*CUDA 12.*EXECUTION_PROVIDER=auto/s);
  });

  withoutCuda('auto says what it tried and why it fell back', async () => {
    const log: unknown[] = [];
    const pool = await createInferencePool({
      model,
      executionProvider: 'auto',
      threads: 1,
      onLog: (entry) => log.push(entry),
    });
    await pool.close();
    expect(pool.executionProvider).toBe('cpu');
    expect(log[0]).toMatchObject({
      level: 'warn',
      details: { tried: 'cuda', reason: expect.stringMatching(/librar/i) },
    });
    expect(log[1]).toMatchObject({ level: 'info', details: { executionProvider: 'cpu' } });
  });
});

describe('a model that does not fit', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'model-'));
  });
  afterAll(async () => {
    await rm(folder, { recursive: true });
  });

  /** A copy of the model with a changed manifest. */
  async function altered(change: (manifest: Manifest) => void | Promise<void>): Promise<Model> {
    const text = await readFile(join(MODEL_DIR, 'manifest.json'), 'utf8');
    const manifest = JSON.parse(text) as Manifest;
    for (const { path } of Object.values(manifest.files)) await copyFile(join(MODEL_DIR, path), join(folder, path));
    await change(manifest);
    await writeFile(join(folder, 'manifest.json'), JSON.stringify(manifest));
    return loadModel(folder);
  }
  interface Manifest {
    files: Record<'saliency' | 'cells', { path: string; sha256: string }>;
    cells: { classes: string[]; outputs: Record<string, string> };
  }

  const start = (changed: Model): Promise<InferencePool> =>
    createInferencePool({ model: changed, executionProvider: 'cpu', threads: 1 });

  it('is refused when a class is missing', async () => {
    const changed = await altered(({ cells }) => {
      cells.classes.pop();
    });
    await expect(start(changed)).rejects.toThrow(/probabilities/);
  });

  it('is refused when it names an output that the network has not', async () => {
    const changed = await altered(({ cells }) => {
      cells.outputs['cam'] = 'attention';
    });
    await expect(start(changed)).rejects.toThrow(ModelError);
  });

  it('is refused when its file is no network, although the checksum fits', async () => {
    const changed = await altered(async ({ files }) => {
      await writeFile(join(folder, files.cells.path), 'no network');
      files.cells.sha256 = createHash('sha256').update('no network').digest('hex');
    });
    await expect(start(changed)).rejects.toThrow(/cannot be loaded/);
  });
});
