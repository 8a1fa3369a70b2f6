/**
 * The bare limit, in a process of its own: decode, both networks and post-processing in a loop; no server, queue or database. Told a
 * turn, it runs it and says what it measured, each as a line of JSON; without turns it rests.
 *
 *     echo '{"lanes":4,"warmUpSeconds":60,"seconds":10}' | node --import tsx bench/bare.ts '{"sessions":2,"threads":2}'
 */
import { createInterface } from 'node:readline';
import { MODEL_DIR } from '../test/support/model-dir.js';
import type { BareResult, BareSetting, BareTurn } from './bare-process.js';
import { cameraFrames, MICRONS_PER_PIXEL } from './images.js';
import { machineSecondsBetween } from './processes.js';
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
let next = 0;
for await (const line of createInterface(process.stdin)) {
  console.log(JSON.stringify(await turn(JSON.parse(line) as BareTurn)));
}
await vision.close();

async function turn({
  lanes,
  warmUpSeconds,
  seconds,
  images = Number.POSITIVE_INFINITY,
}: BareTurn): Promise<BareResult> {
  const stages = new Map<string, number>();
  const latencies: number[] = [];
  const from = performance.now() + warmUpSeconds * 1000;
  const to = from + seconds * 1000;
  const processors = machineSecondsBetween(from, to);
  let left = images;
  const lane = async (): Promise<void> => {
    while (left-- > 0 && performance.now() < to) {
      const begun = performance.now();
      // Another array each time, as images come: what vision remembers of one is of no use for the next.
      const frame = new Uint8Array(frames[next++ % frames.length] ?? []);
      const { timingsMs } = await vision.analyze(frame, {
        micronsPerPixel: MICRONS_PER_PIXEL,
      });
      const now = performance.now();
      if (now < from || now >= to) continue;
      latencies.push(now - begun);
      for (const [stage, ms] of Object.entries(timingsMs)) stages.set(stage, (stages.get(stage) ?? 0) + ms);
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  const used = processors.end();
  return {
    imagesPerSecond: latencies.length / seconds,
    processorMs: (used * 1000) / latencies.length,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    stagesMs: Object.fromEntries([...stages].map(([stage, ms]) => [stage, ms / latencies.length])),
  };
}
