/** What the provider of ONNX Runtime 1.30 says when it is loaded and CUDA then refuses; what does not load is tried for real. */
import { describe, expect, it } from 'vitest';
import { whyCudaFails } from '../../../src/vision/cuda-failure.js';

const said = (failure: string): string =>
  `/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:146 std::conditional_t<THRW, void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*) [with ERRTYPE = cudaError; bool THRW = true] ${failure} ; GPU=-1 ; hostname=lab ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=352 ; expr=cudaSetDevice(info_.device_id); \n\n`;

describe('why CUDA fails', () => {
  it('names a GPU that is not there', () => {
    expect(whyCudaFails(said('CUDA failure 101: invalid device ordinal'))).toBe(
      'CUDA failure 101: invalid device ordinal. CUDA_DEVICE names a GPU that is not there; nvidia-smi lists what there is.',
    );
  });

  it('tells a driver that is too old, without the name of the C++ function', () => {
    expect(whyCudaFails(said('CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version'))).toMatch(
      /^CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version\. The driver of this machine/,
    );
  });

  it('says where there is CUDA, and passes on what it does not know', () => {
    expect(whyCudaFails('no available backend found. ERR: [cuda] backend not found.')).toMatch(/Linux on x64 alone/);
    expect(whyCudaFails('No space left on device')).toBe('No space left on device.');
  });
});
