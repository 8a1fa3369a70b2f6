/**
 * The bare limit, in a process of its own: decode, both networks and post-processing in a loop; no server, queue or database.
 *
 *     tsx bench/bare.ts '{"sessions":1,"threads":2,"lanes":2,"seconds":5}'     prints what it measured as JSON
 */
import { MODEL_DIR } from '../test/support/model-dir.js';
import type { BareResult, BareSetting } from './bare-process.js';
import { cameraFrames, MICRONS_PER_PIXEL } from './images.js';
import { WARM_UP_SECONDS } from './load.js';
import { quantile } from './statistics.js';

// As the service runs it: the loader of TypeScript wraps every small function, which costs a fifth of the speed.
const built: string = '../dist/vision/index.js';
const { createVision } = (await import(built)) as typeof import('../src/vision/index.js');
const setting = JSON.parse(process.argv[2] ?? '{}') as BareSetting;
const frames = await cameraFrames();
const vision = await createVision({
  modelDir: MODEL_DIR,
  executionProvider: 'cpu',
  threads: setting.threads,
  workers: setting.sessions,
  ...(setting.batchCrops === undefined ? {} : { batchCrops: setting.batchCrops }),
});
const stages = new Map<string, number>();
const latencies: number[] = [];
const from = performance.now() + WARM_UP_SECONDS * 1000;
const to = from + setting.seconds * 1000;
let next = 0;
const lane = async (): Promise<void> => {
  while (performance.now() < to) {
    const begun = performance.now();
    const { timingsMs } = await vision.analyze(frames[next++ % frames.length] ?? Buffer.alloc(0), {
      micronsPerPixel: MICRONS_PER_PIXEL,
    });
    const now = performance.now();
    if (now < from || now >= to) continue;
    latencies.push(now - begun);
    for (const [stage, ms] of Object.entries(timingsMs)) stages.set(stage, (stages.get(stage) ?? 0) + ms);
  }
};
await Promise.all(Array.from({ length: setting.lanes }, lane));
await vision.close();
const result: BareResult = {
  imagesPerSecond: latencies.length / setting.seconds,
  p50: quantile(latencies, 0.5),
  p99: quantile(latencies, 0.99),
  stagesMs: Object.fromEntries([...stages].map(([stage, ms]) => [stage, ms / latencies.length])),
};
console.log(JSON.stringify(result));
