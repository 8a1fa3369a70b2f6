/**
 * A worker thread that holds both networks. onnxruntime-node's `run` blocks its thread for the whole inference, so it is
 * never called on the main thread. One run at a time; the pool queues.
 */
import { setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { env, InferenceSession, Tensor } from 'onnxruntime-node';
import { BATCH_CROPS, bucketOf, bucketsUpTo } from './batches.js';
import { whyCudaFails } from './cuda-failure.js';
import type {
  CellsInput,
  CellsOutput,
  FieldInput,
  FieldOutput,
  ThreadMessage,
  WorkerConfig,
  WorkerMessage,
} from './infer-messages.js';
import type { SessionSignature, TensorSignature } from './manifest.js';
import { release } from './release.js';

if (parentPort === null) throw new Error('infer-worker runs as a worker thread only');
// The native library would write to stderr past the program's logger; what matters comes back as an exception.
env.logLevel = 'fatal';
const port = parentPort;
/**
 * Behind everything else that wants the processor: what feeds the networks, stores their answers and takes new orders is short,
 * a run is long. On Linux a niceness is a thread's, and those that the runtime starts inherit it; elsewhere it is the process's.
 */
const NICENESS = 10;
if (process.platform === 'linux') setPriority(NICENESS);
const config = workerData as WorkerConfig;
const { saliency: fieldSpec, cells: cellSpec } = config.manifest;

const say = (message: WorkerMessage, transfer: ArrayBuffer[] = []): void => port.postMessage(message, transfer);
/** Says why, and lets the thread end. */
const refuse = (reason: 'provider' | 'model', message: string): void => {
  say({ type: 'refused', reason, message });
  port.close();
};
const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

interface Sessions {
  readonly saliency: InferenceSession;
  readonly cells: InferenceSession;
}

/** A pattern of memory for every shape is kept for good, and gains nothing that `npm run bench:sweep` could tell. */
const CELLS_ON_CPU: InferenceSession.SessionOptions = { enableMemPattern: false };
/**
 * Fields come in all sizes: with an arena the session would keep what the largest one took, 125 MB after one of 12 megapixels. Runs
 * of crops are small and alike; without one they are 5 to 25 % slower, by the allocator, for 6 MB less.
 */
const SALIENCY_ON_CPU: InferenceSession.SessionOptions = { ...CELLS_ON_CPU, enableCpuMemArena: false };

async function openSessions(provider: 'cpu' | 'cuda'): Promise<Sessions> {
  const options: InferenceSession.SessionOptions = {
    // One provider only: a list with a second one does not fall back, it throws all the same.
    executionProviders: [provider === 'cuda' ? { name: 'cuda', deviceId: config.cudaDevice } : 'cpu'],
    intraOpNumThreads: config.intraOpThreads,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    graphOptimizationLevel: 'all',
    logSeverityLevel: 4,
  };
  return {
    saliency: await InferenceSession.create(config.saliencyPath, {
      ...options,
      ...(provider === 'cpu' ? SALIENCY_ON_CPU : {}),
    }),
    cells: await InferenceSession.create(config.cellsPath, { ...options, ...(provider === 'cpu' ? CELLS_ON_CPU : {}) }),
  };
}

function signature(session: InferenceSession): SessionSignature {
  const tensors = (metadata: readonly InferenceSession.ValueMetadata[]): TensorSignature[] =>
    metadata.flatMap((value) => (value.isTensor ? [{ name: value.name, type: value.type, shape: value.shape }] : []));
  return { inputs: tensors(session.inputMetadata), outputs: tensors(session.outputMetadata) };
}

/** The first `share` of the output as an array of its own: the session's buffers cannot be transferred. */
function floats(outputs: InferenceSession.OnnxValueMapType, name: string, share = 1): Float32Array<ArrayBuffer> {
  const data = outputs[name]?.data;
  if (!(data instanceof Float32Array)) throw new Error(`output "${name}" is not float32`);
  return new Float32Array(share === 1 ? data : data.subarray(0, Math.round(data.length * share)));
}

/** What ONNX Runtime and the libraries below it say when an allocation fails. */
const OUT_OF_MEMORY = /out of memory|failed to allocate|alloc_failed|bad.?alloc|smaller than requested bytes/i;

async function runField(sessions: Sessions, input: FieldInput): Promise<FieldOutput> {
  const field = new Tensor('uint8', input.rgb, [1, input.height, input.width, 3]);
  const outputs = await sessions.saliency.run({ [fieldSpec.input]: field });
  release(input.rgb);
  return {
    kind: 'field',
    width: input.width / fieldSpec.stride,
    height: input.height / fieldSpec.stride,
    saliency: floats(outputs, fieldSpec.outputs.saliency),
    centres: floats(outputs, fieldSpec.outputs.centres),
    scale: floats(outputs, fieldSpec.outputs.scale),
  };
}

/**
 * One run over the crops of all inputs. They are copied side by side, which the runtime wants in any case: it does not take
 * shared memory. Where there are buckets, the rest of the bucket stays empty.
 */
async function runCells(
  sessions: Sessions,
  inputs: readonly CellsInput[],
  buckets: readonly number[],
): Promise<CellsOutput> {
  const { size } = cellSpec;
  const count = inputs.reduce((sum, input) => sum + input.count, 0);
  const padded = bucketOf(count, buckets);
  const crops = new Uint8Array(padded * size * size * 3);
  const prior = new Float32Array(padded * size * size);
  let at = 0;
  for (const input of inputs) {
    // A shorter one would be taken for a picture that ends in black.
    if (input.crops.length !== input.count * size * size * 3 || input.prior.length !== input.count * size * size) {
      throw new Error(`an input for ${input.count} crops has another size`);
    }
    crops.set(input.crops, at * size * size * 3);
    prior.set(input.prior, at * size * size);
    at += input.count;
  }
  const outputs = await sessions.cells.run({
    [cellSpec.inputs.crops]: new Tensor('uint8', crops, [padded, size, size, 3]),
    [cellSpec.inputs.prior]: new Tensor('float32', prior, [padded, size, size]),
  });
  release(crops, prior);
  const values = (name: string): Float32Array<ArrayBuffer> => floats(outputs, name, count / padded);
  return {
    kind: 'cells',
    count,
    probabilities: values(cellSpec.outputs.probabilities),
    segmentation: values(cellSpec.outputs.segmentation),
    cam: values(cellSpec.outputs.cam),
    consistency: values(cellSpec.outputs.consistency),
    attributes: values(cellSpec.outputs.attributes),
    reject: values(cellSpec.outputs.reject),
  };
}

const buffersOf = (output: FieldOutput | CellsOutput): ArrayBuffer[] =>
  output.kind === 'field'
    ? [output.saliency.buffer, output.centres.buffer, output.scale.buffer]
    : [
        output.probabilities.buffer,
        output.segmentation.buffer,
        output.cam.buffer,
        output.consistency.buffer,
        output.attributes.buffer,
        output.reject.buffer,
      ];

/**
 * First runs allocate arenas and, on a GPU, search for kernels: better before the pool says it is ready. Returns the buckets
 * that the memory has room for.
 */
async function warmUp(sessions: Sessions, buckets: readonly number[]): Promise<readonly number[]> {
  const side = Math.ceil(256 / fieldSpec.multipleOf) * fieldSpec.multipleOf;
  await runField(sessions, {
    kind: 'field',
    width: side,
    height: side,
    rgb: new Uint8Array(side * side * 3).fill(220),
  });
  const pixels = cellSpec.size * cellSpec.size;
  for (const [i, count] of (buckets.length === 0 ? [1] : buckets).entries()) {
    const crops = new Uint8Array(new SharedArrayBuffer(count * pixels * 3)).fill(220);
    const prior = new Float32Array(new SharedArrayBuffer(count * pixels * 4));
    try {
      await runCells(sessions, [{ kind: 'cells', count, crops, prior }], buckets);
    } catch (error) {
      if (i === 0 || !OUT_OF_MEMORY.test(reasonOf(error))) throw error;
      return buckets.slice(0, i);
    }
  }
  return buckets;
}

async function start(): Promise<void> {
  let sessions: Sessions | undefined;
  let executionProvider: 'cpu' | 'cuda' = 'cpu';
  let fallbackReason: string | undefined;
  let buckets: readonly number[] = [];
  if (config.executionProvider !== 'cpu') {
    try {
      sessions = await openSessions('cuda');
      buckets = await warmUp(sessions, bucketsUpTo(config.batchCrops ?? BATCH_CROPS.cuda));
      executionProvider = 'cuda';
    } catch (error) {
      sessions = undefined;
      fallbackReason = whyCudaFails(reasonOf(error));
      if (config.executionProvider === 'cuda') {
        refuse('provider', `on GPU ${config.cudaDevice} (CUDA_DEVICE): ${fallbackReason}`);
        return;
      }
    }
  }
  if (sessions === undefined) {
    try {
      sessions = await openSessions('cpu');
      await warmUp(sessions, []);
    } catch (error) {
      refuse('model', reasonOf(error));
      return;
    }
  }
  const loaded = sessions;
  port.on('message', (message: ThreadMessage) => {
    if (message.type === 'end') {
      // Nothing else keeps the thread: it exits when a run that goes on has ended.
      port.close();
      return;
    }
    const { id, input } = message;
    const begun = performance.now();
    const run = input.kind === 'field' ? runField(loaded, input) : runCells(loaded, input.inputs, buckets);
    run.then(
      (output) => say({ type: 'result', id, output, durationMs: performance.now() - begun }, buffersOf(output)),
      (error: unknown) => {
        const reason = reasonOf(error);
        const outOfMemory = OUT_OF_MEMORY.test(reason);
        say({ type: 'error', id, message: reason, outOfMemory, durationMs: performance.now() - begun });
      },
    );
  });
  say({
    type: 'ready',
    executionProvider,
    ...(fallbackReason === undefined ? {} : { fallbackReason }),
    batchCrops: buckets.at(-1) ?? config.batchCrops ?? BATCH_CROPS.cpu,
    saliency: signature(loaded.saliency),
    cells: signature(loaded.cells),
  });
}

await start();
