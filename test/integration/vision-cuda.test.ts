/** CUDA as far as it goes on a machine without a GPU: which one is asked for, and what an incomplete installation says. */
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type CudaInstallation,
  harmlessLibrary,
  installWithoutCuda,
  libraryThatNeeds,
} from '../support/cuda-installation.js';

// onnxruntime-node has CUDA nowhere else.
describe.runIf(process.platform === 'linux' && process.arch === 'x64')('a GPU that cannot be used', () => {
  let installation: CudaInstallation;
  beforeAll(() => {
    installation = installWithoutCuda();
  });
  afterAll(() => installation.remove());

  const refused = async (device = '0') => {
    const ended = await installation.analyze({ EXECUTION_PROVIDER: 'cuda', CUDA_DEVICE: device });
    expect(ended).toMatchObject({ code: 1, stdout: '' });
    expect(ended.stderr).toMatch(/EXECUTION_PROVIDER=auto or cpu/);
    expect(ended.stderr).not.toMatch(/^\s+at .*:\d+:\d+\)?$/m);
    return ended.stderr;
  };

  it('is asked for by the number of CUDA_DEVICE, by each process its own', async () => {
    const [first, fourth] = await Promise.all([refused('0'), refused('3')]);
    expect(first).toContain('session on [{"name":"cuda","deviceId":0}]');
    expect(fourth).toContain('session on [{"name":"cuda","deviceId":3}]');
    expect(fourth).toMatch(/cannot be used on GPU 3 \(CUDA_DEVICE\)/);
  });

  it('for want of the provider: says where it has to be and how it gets there', async () => {
    expect(existsSync(installation.folder)).toBe(true);
    expect(await refused()).toMatch(
      /libonnxruntime_providers_cuda\.so is missing in .*napi-v6\/linux\/x64\. .*ONNXRUNTIME_NODE_INSTALL=cuda12 node /,
    );
  });

  it('for want of a CUDA library: names it', async () => {
    installation.provide(libraryThatNeeds('libcublasLt.so.99'));
    expect(await refused()).toMatch(/CUDA library libcublasLt\.so\.99 is missing\. Install the CUDA release/);
  });

  it('for want of the driver: says so, and what a container needs', async () => {
    installation.provide(libraryThatNeeds('libcuda.so.9'));
    expect(await refused()).toMatch(/NVIDIA driver is missing \(libcuda\.so\.9\).*NVIDIA Container Toolkit/);
  });

  it('for a provider that is cut off, or of another version', async () => {
    installation.provide(Buffer.alloc(0));
    expect(await refused()).toMatch(/does not load: .*file too short\. Fetch it again: ONNXRUNTIME_NODE_INSTALL/);
    installation.provide(harmlessLibrary());
    expect(await refused()).toMatch(/are of another version\. Fetch them again: ONNXRUNTIME_NODE_INSTALL/);
  });

  it('is done without by auto, which says why', async () => {
    installation.provide(libraryThatNeeds('libcublasLt.so.99'));
    const { code, stdout, stderr } = await installation.analyze({ EXECUTION_PROVIDER: 'auto', CUDA_DEVICE: '1' });
    expect(code).toBe(0);
    expect(stdout).toMatch(/neutrophil/);
    expect(stderr).toContain('session on [{"name":"cuda","deviceId":1}]');
    expect(stderr).toContain('session on ["cpu"]');
    const entry = stderr.split('\n').find((line) => line.startsWith('{'));
    expect(JSON.parse(entry ?? '')).toMatchObject({
      level: expect.anything(),
      tried: 'cuda',
      device: 1,
      reason: expect.stringMatching(/libcublasLt\.so\.99 is missing/),
    });
  });
});
