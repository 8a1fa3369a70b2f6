import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { copyFile, cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { partOf } from '../../src/vision/batches.js';
import { AnalysisCrashedError, ExecutionProviderError, InferenceError, ModelError } from '../../src/vision/errors.js';
import {
  createInferencePool,
  type InferencePool,
  type InferencePoolOptions,
  type NetworkRun,
} from '../../src/vision/infer.js';
import type { CellsInput, FieldInput } from '../../src/vision/infer-messages.js';
import { loadModel, type Model } from '../../src/vision/manifest.js';
import { MODEL_DIR } from '../support/model-dir.js';
import { randomFrom } from '../support/random.js';

const CRASHING = new URL('../support/crashing-worker.mjs', import.meta.url);
const POOR = new URL('../support/poor-worker.mjs', import.meta.url);
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
const hang = (): FieldInput => field(64, [1, 2, 4]);
const crops = (count: number): CellsInput => {
  const pixels = model.manifest.cells.size ** 2;
  return {
    kind: 'cells',
    count,
    crops: new Uint8Array(new SharedArrayBuffer(count * pixels * 3)).fill(180),
    prior: new Float32Array(new SharedArrayBuffer(count * pixels * 4)).fill(0.5),
  };
};
/** Crops whose first pixel a worker of test/support reacts to. */
const marked = (count: number, value: number): CellsInput => {
  const input = crops(count);
  input.crops.fill(value, 0, 3);
  return input;
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
    expect(first?.status === 'rejected' && first.reason).toBeInstanceOf(AnalysisCrashedError);
    expect(log).toContain('an inference thread ended and is replaced');
  });

  it('goes on for others however many images crash a thread', async () => {
    const running = await open({ workerUrl: CRASHING });
    const poison = await Promise.allSettled(Array.from({ length: 9 }, () => running.field(crash())));
    for (const result of poison) {
      expect(result.status === 'rejected' && result.reason).toBeInstanceOf(AnalysisCrashedError);
    }
    await expect(running.field(field())).resolves.toMatchObject({ width: 32 });
  });

  it('replaces a thread that hangs over a job which was given up', async () => {
    const running = await open({ workerUrl: CRASHING, hungMs: 100 });
    const controller = new AbortController();
    const work = running.field(hang(), controller.signal);
    controller.abort(new Error('took too long'));
    await expect(work).rejects.toThrow('took too long');
    await expect(running.field(field())).resolves.toMatchObject({ width: 32 });
  });

  it('gives up, and says so, when no thread can be started any more', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'model-'));
    await cp(MODEL_DIR, folder, { recursive: true });
    const running = await open({ workerUrl: CRASHING, model: await loadModel(folder) });
    await rm(folder, { recursive: true });
    await expect(running.field(crash())).rejects.toBeInstanceOf(AnalysisCrashedError);
    const waiting = running.field(field());
    await expect(waiting).rejects.toThrow(/again and again/);
    expect(await running.died).toMatch(/The model cannot be loaded/);
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

describe('runs that jobs share', () => {
  let pool: InferencePool | undefined;
  let runs: NetworkRun[] = [];
  const open = async (over: Partial<InferencePoolOptions> = {}): Promise<InferencePool> => {
    runs = [];
    const observer = {
      ran: (run: NetworkRun) => {
        if (run.network === 'cells') runs.push(run);
      },
      crashed: () => undefined,
    };
    pool = await createInferencePool({
      model,
      executionProvider: 'cpu',
      threads: 1,
      batchCrops: 16,
      observer,
      ...over,
    });
    return pool;
  };
  afterEach(async () => {
    await pool?.close();
    pool = undefined;
  });
  const shapes = (): string[] => runs.map(({ inputs, size: count, outcome }) => `${inputs}/${count} ${outcome}`);

  /** Crops that differ, from a seed. */
  const drawn = (count: number, seed: number): CellsInput => {
    const random = randomFrom(seed);
    const input = crops(count);
    // Blocks of colour, not white noise: what a picture is made of.
    for (let i = 0; i < input.crops.length; i += 97) input.crops.fill(Math.floor(random() * 256), i, i + 97);
    for (let i = 0; i < input.prior.length; i += 61) input.prior.fill(random(), i, i + 61);
    return input;
  };

  it('give the same answers as runs of their own', async () => {
    const counts = [1, 3, 2, 5, 1, 4];
    const inputs = counts.map((count, i) => drawn(count, i + 1));
    const alone = await open({ batchCrops: 1 });
    const expected = [];
    for (const input of inputs) expected.push(await alone.cells(input));
    await alone.close();
    const together = await open();
    const answers = await Promise.all(inputs.map((input) => together.cells(input)));
    // The first ran at once, alone; what waited meanwhile went together.
    expect(shapes()).toEqual(['1/1 completed', '5/15 completed']);
    let furthest = 0;
    for (const [i, answer] of answers.entries()) {
      for (const key of ['probabilities', 'segmentation', 'cam', 'consistency', 'attributes', 'reject'] as const) {
        expect(answer[key]).toHaveLength(expected[i]?.[key].length ?? -1);
        for (const [at, value] of answer[key].entries()) {
          furthest = Math.max(furthest, Math.abs(value - (expected[i]?.[key][at] ?? Number.NaN)));
        }
      }
    }
    expect(furthest).toBeLessThan(1e-5);
    expect(new Set(answers.map(({ probabilities }) => probabilities.join())).size).toBe(answers.length);
  });

  it('hold no more crops than allowed, and a larger job runs in parts', async () => {
    const running = await open({ batchCrops: 4 });
    const inputs = [drawn(1, 1), drawn(3, 2), drawn(2, 3), drawn(10, 4), drawn(1, 5)];
    const answers = await Promise.all(inputs.map((input) => running.cells(input)));
    expect(answers.map(({ count }) => count)).toEqual([1, 3, 2, 10, 1]);
    expect(Math.max(...runs.map(({ size: count }) => count))).toBe(4);
    expect(runs.reduce((sum, { size: count }) => sum + count, 0)).toBe(17);
    const last = inputs[3];
    if (last === undefined) throw new Error('no such input');
    const again = await running.cells(partOf(last, 9, 1));
    const classes = model.manifest.cells.classes.length;
    for (const [i, value] of again.probabilities.entries()) {
      expect(value).toBeCloseTo(answers[3]?.probabilities[9 * classes + i] ?? Number.NaN, 5);
    }
  });

  it('begin at once when nothing waits; with a delay configured, they wait for others that long', async () => {
    const quick = await open();
    await quick.cells(crops(1));
    await quick.cells(crops(1));
    expect(shapes()).toEqual(['1/1 completed', '1/1 completed']);
    await quick.close();
    const patient = await open({ batchDelayMs: 150 });
    const begun = performance.now();
    await Promise.all([patient.cells(crops(1)), patient.cells(crops(2))]);
    expect(shapes()).toEqual(['2/3 completed']);
    expect(performance.now() - begun).toBeGreaterThan(100);
    await patient.close();
    // A field waits for nobody, and a full run neither: else this would take ten minutes.
    const stubborn = await open({ batchDelayMs: 600_000 });
    await stubborn.cells(crops(16));
    await stubborn.field(field());
  });

  it('go on without a job that was aborted', async () => {
    const running = await open();
    const controller = new AbortController();
    const work = [
      running.cells(crops(4)),
      running.cells(crops(1)),
      running.cells(crops(1), controller.signal),
      running.cells(crops(1)),
    ];
    await work[0];
    // Now the three run together.
    controller.abort(new Error('client left'));
    const results = await Promise.allSettled(work);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled']);
    expect(shapes()).toEqual(['1/4 completed', '3/3 completed']);
  });

  it('that fail are repeated input by input, so that the one to blame fails alone', async () => {
    const running = await open({ workerUrl: POOR });
    const results = await Promise.allSettled([
      running.cells(crops(1)),
      running.cells(crops(1)),
      running.cells(marked(1, 2)),
      running.cells(crops(2)),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled']);
    expect(results[2]?.status === 'rejected' && results[2].reason).toBeInstanceOf(InferenceError);
    expect(shapes()).toEqual(['1/1 completed', '3/4 failed', '1/1 completed', '1/1 failed', '1/2 completed']);
  });

  it('that crash the thread are repeated on a new one, input by input', async () => {
    const running = await open({ workerUrl: CRASHING });
    const results = await Promise.allSettled([
      running.cells(crops(1)),
      running.cells(crops(1)),
      running.cells(marked(1, 1)),
      running.cells(crops(2)),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'fulfilled']);
    await expect(running.field(field())).resolves.toMatchObject({ width: 32 });
  });

  it('are halved when memory runs out, until they fit, and nothing is lost', async () => {
    const log: unknown[] = [];
    const running = await open({ workerUrl: POOR, onLog: (entry) => log.push(entry) });
    const answers = await Promise.all([running.cells(drawn(10, 1)), running.cells(drawn(3, 2))]);
    expect(answers.map(({ count, consistency }) => [count, consistency.length])).toEqual([
      [10, 10],
      [3, 3],
    ]);
    expect(shapes().slice(0, 2)).toEqual(['1/10 out_of_memory', '1/5 out_of_memory']);
    expect(Math.max(...runs.slice(2).map(({ size: count }) => count))).toBe(3);
    expect(log).toContainEqual(expect.objectContaining({ level: 'warn', details: { crops: 10, batchCrops: 5 } }));
    // It has learnt: the next one does not run into the same wall.
    const before = runs.length;
    await running.cells(crops(8));
    expect(shapes().slice(before)).toEqual(['1/3 completed', '1/3 completed', '1/2 completed']);
  });
});

describe('execution providers', () => {
  // Where somebody installed the CUDA libraries these two say nothing.
  const withoutCuda = it.skipIf(existsSync(cudaLibrary));

  withoutCuda('cuda refuses to start where its library is missing, and says what is missing', async () => {
    const start = createInferencePool({ model, executionProvider: 'cuda', threads: 1 });
    await expect(start).rejects.toBeInstanceOf(ExecutionProviderError);
    await expect(start).rejects.toThrow(/EXECUTION_PROVIDER=cuda.*GPU 0.*is missing.*EXECUTION_PROVIDER=auto/s);
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
