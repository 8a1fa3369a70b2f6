/** The Dockerfile and the compose file, as far as they can be judged without an engine. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Dockerfile, DockerfileParser, type Instruction } from 'dockerfile-ast';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { CONFIG_VARIABLES } from '../../../src/config.js';
import { NODE_FLAGS } from '../../support/main.js';

// Both packages are CommonJS, whose default export TypeScript and Node see differently.
const require = createRequire(import.meta.url);
const Ajv = require('ajv').default as typeof import('ajv').Ajv;
const addFormats = require('ajv-formats').default as typeof import('ajv-formats').default;

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const read = (file: string): string => readFileSync(join(ROOT, file), 'utf8');

describe('the Dockerfile', () => {
  const dockerfile: Dockerfile = DockerfileParser.parse(read('Dockerfile'));
  const stages = dockerfile.getFROMs();

  /** Its instructions after FROM, each in one line. */
  const stage = (name: string): string[] => {
    const froms: (Instruction | undefined)[] = stages.map((from) => from);
    const at = stages.findIndex((from) => from.getBuildStage() === name);
    const [begin, end] = [froms[at], froms[at + 1]];
    if (begin === undefined) throw new Error(`no stage ${name}`);
    const first = begin.getRange().start.line;
    const last = end?.getRange().start.line ?? Number.POSITIVE_INFINITY;
    return dockerfile
      .getInstructions()
      .filter((one) => one.getRange().start.line > first && one.getRange().start.line < last)
      .map((one) => one.getTextContent().replace(/\s*\\\n\s*/g, ' '));
  };

  it('starts the program with the flags that it has everywhere else', () => {
    const command = ['node', ...NODE_FLAGS, 'dist/start.cjs'];
    for (const name of ['cpu', 'cuda']) {
      expect(stage(name)).toContain(`ENTRYPOINT ${JSON.stringify(['tini', '--', ...command]).replaceAll(',', ', ')}`);
    }
    expect(JSON.parse(read('package.json')).scripts.start).toBe([...command, 'serve'].join(' '));
    expect(read('src/start.cts').split('\n')[0]).toBe(`#!/usr/bin/env -S ${command.slice(0, -1).join(' ')}`);
  });

  it('makes the image for processors where no target is named', () => {
    expect(stages.map((from) => from.getBuildStage())).toEqual(['build', 'packages', 'packages-cuda', 'cuda', 'cpu']);
    expect(stages.at(-1)?.getImage()).toMatch(/^\$\{NODE_IMAGE\}$/);
    expect(stage('cpu').join('\n')).not.toMatch(/cuda/i);
  });

  it('makes both images alike, but for what a GPU needs', () => {
    const [cpu, cuda] = [stage('cpu'), stage('cuda')];
    const alike = (line: string): string => line.replace('--from=packages-cuda', '--from=packages');
    expect(cuda.map(alike).filter((line) => cpu.includes(line))).toEqual(cpu);
    expect(cuda.map(alike).filter((line) => !cpu.includes(line))).toEqual([
      'COPY --from=packages /usr/local/bin/node /usr/local/bin/',
      expect.stringMatching(/^RUN userdel --remove ubuntu .* useradd --uid 1000 /),
      'ENV CUDA_DEVICE_ORDER=PCI_BUS_ID',
      'COPY docker/check-cuda-libraries.sh /usr/local/bin/',
      expect.stringMatching(/^RUN check-cuda-libraries\.sh .*libonnxruntime_providers_cuda\.so$/),
    ]);
    expect(cpu).toContain('USER node');
  });

  it('fetches the libraries of the installed onnxruntime-node, where its script puts them', () => {
    const { manifests } = require('onnxruntime-node/script/install-metadata.js') as {
      manifests: Record<string, Record<string, unknown>>;
    };
    expect(Object.keys(manifests['linux/x64:cuda12'] ?? {})).toEqual([
      './libonnxruntime_providers_cuda.so',
      './libonnxruntime_providers_shared.so',
      './libonnxruntime_providers_tensorrt.so',
    ]);
    const [, fetch = ''] = stage('packages-cuda');
    expect(fetch).toContain('ONNXRUNTIME_NODE_INSTALL=cuda12 node node_modules/onnxruntime-node/script/install.js');
    const folder = 'node_modules/onnxruntime-node/bin/napi-v6/linux/x64';
    expect(fetch).toContain(`! -s ${folder}/libonnxruntime_providers_cuda.so`);
    expect(read('node_modules/onnxruntime-node/script/install.js')).toContain('bin/napi-v6');
  });

  it('copies from the context only what .dockerignore lets through', () => {
    const allowed = read('.dockerignore')
      .split('\n')
      .flatMap((line) => (line.startsWith('!') ? [line.slice(1)] : []));
    const copied = dockerfile.getCOPYs().flatMap((copy) =>
      copy.getFlags().length > 0
        ? []
        : copy
            .getArguments()
            .slice(0, -1)
            .map((argument) => argument.getValue().replace(/\/$/, '')),
    );
    expect(copied.filter((path) => !allowed.includes(path))).toEqual([]);
  });
});

describe.runIf(process.platform === 'linux')('docker/check-cuda-libraries.sh', () => {
  const runtime = dirname(require.resolve('onnxruntime-node/package.json'));
  const binding = join(runtime, `bin/napi-v6/linux/${process.arch}/onnxruntime_binding.node`);
  const check = (library: string) =>
    spawnSync(join(ROOT, 'docker/check-cuda-libraries.sh'), [library], { encoding: 'utf8' });

  it('is content where everything is there', () => {
    expect(check(binding)).toMatchObject({ status: 0, stderr: '' });
  });

  it('names what is missing, and fails where it cannot tell', () => {
    const folder = mkdtempSync(join(tmpdir(), 'libraries-'));
    try {
      const alone = join(folder, 'alone.so');
      copyFileSync(binding, alone);
      const { status, stderr } = check(alone);
      expect(status).toBe(1);
      expect(stderr).toMatch(/alone\.so needs what is not here:\n {2}libonnxruntime\.so\.1\n.*CUDA_IMAGE=/s);
      expect(check(join(folder, 'absent.so')).status).not.toBe(0);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('the compose file', () => {
  interface Service {
    readonly environment?: Readonly<Record<string, string>>;
    readonly profiles?: readonly string[];
    readonly [key: string]: unknown;
  }
  const compose = parse(read('docker-compose.yml'), { merge: true }) as { services: Record<string, Service> };
  const { worker, 'gpu-worker': gpuWorker } = compose.services;

  it('fits the schema of the Compose specification', () => {
    // The one that dclint brings; it is no module of the package.
    const file = join(dirname(require.resolve('dclint/package.json')), 'schemas/compose.schema.json');
    const schema = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    // Ajv knows the draft by its own address.
    delete schema['$schema'];
    const ajv = new Ajv({ strict: false, allErrors: true, formats: { duration: true, subnet_ip_address: true } });
    addFormats(ajv);
    const validate = ajv.compile(schema);
    validate(compose);
    expect(validate.errors).toBeNull();
  });

  it('reserves a GPU for a worker that is otherwise like the others', () => {
    if (worker === undefined || gpuWorker === undefined) throw new Error('a worker is missing');
    const { environment, deploy, build, image, networks, profiles, ...rest } = gpuWorker;
    const { environment: without, build: _, image: __, networks: ___, ...workerRest } = worker;
    expect(rest).toEqual(workerRest);
    expect(environment).toEqual({
      ...without,
      EXECUTION_PROVIDER: 'cuda',
      CUDA_DEVICE: expect.stringMatching(/^\$\{CUDA_DEVICE:-0\}$/),
    });
    expect(deploy).toEqual({
      resources: { reservations: { devices: [{ driver: 'nvidia', count: 'all', capabilities: ['gpu'] }] } },
    });
    expect({ build, profiles }).toEqual({ build: { context: '.', target: 'cuda' }, profiles: ['gpu'] });
    expect(image).not.toBe(worker['image']);
    expect(networks).toMatchObject({ inside: { aliases: ['worker'] } });
  });

  it('starts no GPU worker unasked, and sets only what there is', () => {
    expect(worker?.profiles).toBeUndefined();
    const names = new Set([
      ...CONFIG_VARIABLES.flatMap(({ name, secret }) => (secret ? [name, `${name}_FILE`] : [name])),
    ]);
    for (const service of ['api', 'worker', 'gpu-worker', 'migrate']) {
      const set = Object.keys(compose.services[service]?.environment ?? {});
      expect(
        set.filter((name) => !names.has(name)),
        service,
      ).toEqual([]);
    }
  });
});
