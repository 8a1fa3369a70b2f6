/** How busy the NVIDIA GPUs of this machine are, as the driver's own tool tells it. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { Gauge, type Registry } from 'prom-client';

const TIMEOUT_MS = 2_000;
const MIB = 1024 * 1024;
const QUERY = ['--query-gpu=index,utilization.gpu,memory.used,memory.total', '--format=csv,noheader,nounits'];

export interface GpuState {
  readonly gpu: string;
  readonly utilization: number;
  readonly memoryUsedBytes: number;
  readonly memoryBytes: number;
}

/** One line a GPU: `0, 37, 4096, 81559`, memory in MiB. Fields that a GPU does not tell (`[N/A]`) become NaN. */
export function parseGpus(text: string): GpuState[] {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const [gpu = '', utilization, used, total] = line.split(',').map((field) => field.trim());
      return {
        gpu,
        utilization: Number(utilization) / 100,
        memoryUsedBytes: Number(used) * MIB,
        memoryBytes: Number(total) * MIB,
      };
    });
}

/** Asks at every scrape. Without the driver's tool the gauges have no value, and nothing fails. */
export function registerGpuMetrics(registry: Registry): void {
  let asked: Promise<GpuState[]> | undefined;
  // The three gauges of one scrape share an answer.
  const ask = (): Promise<GpuState[]> => {
    asked ??= readGpus().finally(() => {
      asked = undefined;
    });
    return asked;
  };
  const gauge = (name: string, help: string, value: (state: GpuState) => number): void => {
    new Gauge({
      name: `leukodiff_gpu_${name}`,
      help,
      labelNames: ['gpu'],
      registers: [registry],
      async collect() {
        const states = await ask();
        this.reset();
        for (const state of states) this.set({ gpu: state.gpu }, value(state));
      },
    });
  };
  gauge('utilization_ratio', 'Share of the time in which the GPU computed.', (state) => state.utilization);
  gauge('memory_used_bytes', 'Memory of the GPU in use, by all processes.', (state) => state.memoryUsedBytes);
  gauge('memory_bytes', 'Memory that the GPU has.', (state) => state.memoryBytes);
}

async function readGpus(): Promise<GpuState[]> {
  try {
    const { stdout } = await promisify(execFile)('nvidia-smi', QUERY, { timeout: TIMEOUT_MS });
    return parseGpus(stdout);
  } catch {
    return [];
  }
}
