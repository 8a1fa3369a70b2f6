// Loaded with NODE_OPTIONS: writes to standard error which execution providers each ONNX session is asked for, then lets the
// library do what it does. By `require`, as onnxruntime-node does it: `import` would find another class.
import { createRequire } from 'node:module';

const { InferenceSession } = createRequire(import.meta.url)('onnxruntime-common');
const { create } = InferenceSession;
InferenceSession.create = (model, options) => {
  process.stderr.write(`session on ${JSON.stringify(options.executionProviders)}\n`);
  return create.call(InferenceSession, model, options);
};
