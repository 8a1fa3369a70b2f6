/**
 * The built program beside a copy of onnxruntime-node, into which a test can put libraries of CUDA that do not load: what
 * machines show where an installation is not whole. The programs run apart, since a process keeps a library it has loaded.
 */
import { spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MODEL_DIR } from './model-dir.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const RUNTIME = dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'));
const BIN = 'bin/napi-v6/linux/x64';
const SMEAR = join(ROOT, 'samples/smear.png');
const SPY = `--import=${fileURLToPath(new URL('./session-spy.mjs', import.meta.url))}`;

export interface CudaInstallation {
  /** Where the libraries of ONNX Runtime lie. */
  readonly folder: string;
  /** Puts this file there as the library of CUDA, beside one that it is loaded with. */
  readonly provide: (library: Uint8Array) => void;
  /** `leukodiff analyze` on the sample, with the providers of its sessions on standard error. */
  readonly analyze: (
    env: Readonly<Record<string, string>>,
  ) => Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>;
  readonly remove: () => void;
}

export function installWithoutCuda(): CudaInstallation {
  const root = mkdtempSync(join(tmpdir(), 'cuda-'));
  const packages = dirname(RUNTIME);
  mkdirSync(join(root, 'node_modules'));
  for (const name of readdirSync(packages)) {
    if (name !== 'onnxruntime-node') symlinkSync(join(packages, name), join(root, 'node_modules', name));
  }
  const runtime = join(root, 'node_modules/onnxruntime-node');
  const folder = join(runtime, BIN);
  for (const part of ['package.json', 'dist', `${BIN}/onnxruntime_binding.node`, `${BIN}/libonnxruntime.so.1`]) {
    cpSync(join(RUNTIME, part), join(runtime, part), { recursive: true });
  }
  cpSync(join(ROOT, 'dist'), join(root, 'dist'), { recursive: true });
  cpSync(join(ROOT, 'package.json'), join(root, 'package.json'));
  return {
    folder,
    provide: (library) => {
      writeFileSync(join(folder, 'libonnxruntime_providers_shared.so'), harmlessLibrary());
      writeFileSync(join(folder, 'libonnxruntime_providers_cuda.so'), library);
    },
    analyze: (env) =>
      new Promise((resolve, reject) => {
        const child = spawn(process.execPath, [join(root, 'dist/start.cjs'), 'analyze', SMEAR], {
          env: {
            PATH: process.env['PATH'],
            MODEL_DIR,
            NODE_OPTIONS: SPY,
            LOG_LEVEL: 'warn',
            LOG_FORMAT: 'json',
            ...env,
          },
          stdio: ['ignore', 'pipe', 'pipe'],
        });
        let stdout = '';
        let stderr = '';
        child.stdout.on('data', (chunk: Buffer) => {
          stdout += chunk.toString();
        });
        child.stderr.on('data', (chunk: Buffer) => {
          stderr += chunk.toString();
        });
        child.once('error', reject);
        child.once('close', (code) => resolve({ code, stdout, stderr }));
      }),
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
}

/** A library that loads and does nothing: the system's own of mathematical functions. */
export function harmlessLibrary(): Buffer {
  const { sharedObjects } = process.report.getReport() as { sharedObjects: string[] };
  const library = sharedObjects.find((path) => path.endsWith('/libm.so.6'));
  if (library === undefined) throw new Error('Node does not use libm.so.6 here');
  return readFileSync(library);
}

/** A library for Linux that needs `name`, which this machine does not have. */
export function libraryThatNeeds(name: string): Buffer {
  const library = readFileSync(join(RUNTIME, BIN, 'onnxruntime_binding.node'));
  // The name of the library that it really needs, in the table of its strings.
  const needed = Buffer.from('libonnxruntime.so.1\0');
  const at = library.indexOf(needed);
  if (at < 0 || name.length >= needed.length) throw new Error(`the needed library cannot become ${name}`);
  library.fill(0, at, at + needed.length);
  library.write(name, at);
  return library;
}
