/**
 * A worker thread that holds both networks. onnxruntime-node's `run` blocks its thread for the whole inference, so it is
 * never called on the main thread. One job at a time; the pool queues.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { env, InferenceSession, Tensor } from 'onnxruntime-node';
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

if (parentPort === null) throw new Error('infer-worker runs as a worker thread only');
// The native library would write to stderr past the program's logger; what matters comes back as an exception.
env.logLevel = 'fatal';
const port = parentPort;
const config = workerData as WorkerConfig;
const { saliency: fieldSpec, cells: cellSpec } = config.manifest;

const say = (message: WorkerMessage, transfer: ArrayBuffer[] = []): void => port.postMessage(message, transfer);
const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

interface Sessions {
  readonly saliency: InferenceSession;
  readonly cells: InferenceSession;
}

async function openSessions(provider: 'cpu' | 'cuda'): Promise<Sessions> {
  const options: InferenceSession.SessionOptions = {
    // One provider only: a list with a second one does not fall back, it throws all the same.
    executionProviders: [provider],
    intraOpNumThreads: config.intraOpThreads,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    graphOptimizationLevel: 'all',
    logSeverityLevel: 4,
  };
  return {
    saliency: await InferenceSession.create(config.saliencyPath, options),
    cells: await InferenceSession.create(config.cellsPath, options),
  };
}

function signature(session: InferenceSession): SessionSignature {
  const tensors = (metadata: readonly InferenceSession.ValueMetadata[]): TensorSignature[] =>
    metadata.flatMap((value) => (value.isTensor ? [{ name: value.name, type: value.type, shape: value.shape }] : []));
  return { inputs: tensors(session.inputMetadata), outputs: tensors(session.outputMetadata) };
}

/** The output as an array of its own: the session's buffers cannot be transferred. */
function floats(outputs: InferenceSession.OnnxValueMapType, name: string): Float32Array<ArrayBuffer> {
  const data = outputs[name]?.data;
  if (!(data instanceof Float32Array)) throw new Error(`output "${name}" is not float32`);
  return new Float32Array(data);
}

async function runField(sessions: Sessions, input: FieldInput): Promise<FieldOutput> {
  const field = new Tensor('uint8', input.rgb, [1, input.height, input.width, 3]);
  const outputs = await sessions.saliency.run({ [fieldSpec.input]: field });
  return {
    kind: 'field',
    width: input.width / fieldSpec.stride,
    height: input.height / fieldSpec.stride,
    saliency: floats(outputs, fieldSpec.outputs.saliency),
    centres: floats(outputs, fieldSpec.outputs.centres),
    scale: floats(outputs, fieldSpec.outputs.scale),
  };
}

async function runCells(sessions: Sessions, input: CellsInput): Promise<CellsOutput> {
  const { count } = input;
  const outputs = await sessions.cells.run({
    [cellSpec.inputs.crops]: new Tensor('uint8', input.crops, [count, cellSpec.size, cellSpec.size, 3]),
    [cellSpec.inputs.prior]: new Tensor('float32', input.prior, [count, cellSpec.size, cellSpec.size]),
  });
  return {
    kind: 'cells',
    count,
    probabilities: floats(outputs, cellSpec.outputs.probabilities),
    segmentation: floats(outputs, cellSpec.outputs.segmentation),
    cam: floats(outputs, cellSpec.outputs.cam),
    consistency: floats(outputs, cellSpec.outputs.consistency),
    attributes: floats(outputs, cellSpec.outputs.attributes),
    reject: floats(outputs, cellSpec.outputs.reject),
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

/** First runs allocate arenas and, on a GPU, search for kernels: better before the pool says it is ready. */
async function warmUp(sessions: Sessions): Promise<void> {
  const side = Math.ceil(256 / fieldSpec.multipleOf) * fieldSpec.multipleOf;
  await runField(sessions, {
    kind: 'field',
    width: side,
    height: side,
    rgb: new Uint8Array(side * side * 3).fill(220),
  });
  const pixels = cellSpec.size * cellSpec.size;
  await runCells(sessions, {
    kind: 'cells',
    count: 1,
    crops: new Uint8Array(pixels * 3).fill(220),
    prior: new Float32Array(pixels),
  });
}

async function start(): Promise<void> {
  let sessions: Sessions | undefined;
  let executionProvider: 'cpu' | 'cuda' = 'cpu';
  let fallbackReason: string | undefined;
  if (config.executionProvider !== 'cpu') {
    try {
      sessions = await openSessions('cuda');
      await warmUp(sessions);
      executionProvider = 'cuda';
    } catch (error) {
      sessions = undefined;
      fallbackReason = reasonOf(error);
      if (config.executionProvider === 'cuda') {
        say({ type: 'refused', reason: 'provider', message: fallbackReason });
        return;
      }
    }
  }
  if (sessions === undefined) {
    try {
      sessions = await openSessions('cpu');
      await warmUp(sessions);
    } catch (error) {
      say({ type: 'refused', reason: 'model', message: reasonOf(error) });
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
    const run = input.kind === 'field' ? runField(loaded, input) : runCells(loaded, input);
    run.then(
      (output) => say({ type: 'result', id, output }, buffersOf(output)),
      (error: unknown) => say({ type: 'error', id, message: reasonOf(error) }),
    );
  });
  say({
    type: 'ready',
    executionProvider,
    ...(fallbackReason === undefined ? {} : { fallbackReason }),
    saliency: signature(loaded.saliency),
    cells: signature(loaded.cells),
  });
}

await start();
