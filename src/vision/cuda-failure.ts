/**
 * Why CUDA cannot be used, in sentences that say what to do. Of a library that does not load ONNX Runtime says no more than
 * that; the system's loader, asked once more, names what is missing.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

/** What onnxruntime-node's install script brings beside its own library. */
const PROVIDER = 'libonnxruntime_providers_cuda.so';
const LIBRARIES = ['libonnxruntime_providers_shared.so', PROVIDER];
const FETCH = 'ONNXRUNTIME_NODE_INSTALL=cuda12 node node_modules/onnxruntime-node/script/install.js';

/** `reason` is what ONNX Runtime said. */
export function whyCudaFails(reason: string): string {
  if (/failed to load shared library/i.test(reason)) return whyNotLoaded(runtimeFolder());
  if (/backend not found/i.test(reason)) {
    return `onnxruntime-node has CUDA for Linux on x64 alone, not for ${process.platform} on ${process.arch}.`;
  }
  // The name of a C++ function in full stands around it.
  const failure = /CUDA failure \d+: [^;\n]*[^;\s]/.exec(reason)?.[0];
  if (failure === undefined) return `${reason.trim()}.`;
  const advice = /invalid device ordinal/i.test(failure)
    ? 'CUDA_DEVICE names a GPU that is not there'
    : 'The driver of this machine does not let this process use the GPU';
  return `${failure}. ${advice}; nvidia-smi lists what there is.`;
}

function whyNotLoaded(folder: string): string {
  const absent = LIBRARIES.filter((library) => !existsSync(join(folder, library)));
  if (absent.length > 0) return `The library ${absent.join(', ')} is missing in ${folder}. Fetch it: ${FETCH}`;
  const error = LIBRARIES.map((library) => loaderError(join(folder, library))).find((text) => text !== undefined);
  if (error === undefined) return `The libraries in ${folder} are of another version. Fetch them again: ${FETCH}`;
  const missing = /^(\S+): cannot open shared object file/.exec(error)?.[1];
  if (missing === undefined) return `A library does not load: ${error}. Fetch it again: ${FETCH}`;
  if (missing.startsWith('libcuda.so')) {
    return `The NVIDIA driver is missing (${missing}). A container sees it with the NVIDIA Container Toolkit and a GPU reserved.`;
  }
  return `The CUDA library ${missing} is missing. Install the CUDA release whose number stands behind .so, with its cuDNN 9.`;
}

/** Where ONNX Runtime looks for its providers: beside the binding that Node has loaded. */
function runtimeFolder(): string {
  const loaded = Object.keys(createRequire(import.meta.url).cache);
  return dirname(loaded.find((file) => file.endsWith('onnxruntime_binding.node')) ?? '');
}

/** Undefined: it loads. Node says of every such library that it is no module of its own; what it says before that counts. */
function loaderError(library: string): string | undefined {
  try {
    process.dlopen({ exports: {} }, library);
    return undefined;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return reason.includes('did not self-register') ? undefined : reason;
  }
}
