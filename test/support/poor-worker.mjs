// The real inference worker with a runtime that is short of memory: a run of more than four crops fails as it does where a
// GPU's memory is full. A run with a crop whose first pixel is (2, 2, 2) fails for good, whatever is beside it.
import { InferenceSession } from 'onnxruntime-node';

const ROOM = 4;
const run = InferenceSession.prototype.run;
InferenceSession.prototype.run = async function (feeds) {
  const { crops } = feeds;
  if (crops !== undefined) {
    const [count, height, width, channels] = crops.dims;
    if (count > ROOM) throw new Error('Failed to allocate memory for requested buffer of size 1073741824');
    for (let i = 0; i < count; i++) {
      const at = i * height * width * channels;
      if (crops.data[at] === 2 && crops.data[at + 1] === 2 && crops.data[at + 2] === 2) throw new Error('poison');
    }
  }
  return run.call(this, feeds);
};

await import('../../dist/vision/infer-worker.js');
