/** What the inference threads do: how long the networks run, on how many crops at once. */
import { Counter, Histogram, type Registry } from 'prom-client';
import type { InferenceObserver } from '../vision/infer.js';

export function createInferenceMetrics(registry: Registry): InferenceObserver {
  const registers = [registry];
  const seconds = new Histogram({
    name: 'leukodiff_inference_duration_seconds',
    help: 'Time of one completed run of a network.',
    labelNames: ['network'],
    buckets: [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 5, 20],
    registers,
  });
  const batch = new Histogram({
    name: 'leukodiff_inference_batch_cells',
    help: 'Crops in one run of the network for cells.',
    buckets: [1, 2, 4, 8, 16, 32, 64],
    registers,
  });
  const crashes = new Counter({
    name: 'leukodiff_inference_crashes_total',
    help: 'Inference threads that ended and were replaced.',
    registers,
  });
  const memory = new Counter({
    name: 'leukodiff_inference_out_of_memory_total',
    help: 'Runs for which memory did not suffice; they are repeated in halves.',
    registers,
  });
  return {
    ran: ({ network, size, durationMs, outcome }) => {
      if (outcome === 'out_of_memory') memory.inc();
      if (outcome !== 'completed') return;
      seconds.observe({ network }, durationMs / 1000);
      if (network === 'cells') batch.observe(size);
    },
    crashed: () => crashes.inc(),
  };
}
