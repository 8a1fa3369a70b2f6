/**
 * Prisma's official schema engine as WebAssembly, over the same driver adapter as the client: migrations without a
 * binary to download, writing the ordinary `_prisma_migrations` table, so `prisma migrate deploy` agrees with them.
 */
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { PrismaPg } from '@prisma/adapter-pg';
import { bindMigrationAwareSqlAdapterFactory } from '@prisma/driver-adapter-utils';
import type { SchemaEngine } from '@prisma/schema-engine-wasm';
import type pg from 'pg';

type EngineModule = typeof import('@prisma/schema-engine-wasm') & { __wbg_set_wasm(exports: WasmExports): void };
type WasmExports = Readonly<Record<string, unknown>>;

/** The part of the standard that is used here; TypeScript declares it only together with the browser's whole DOM. */
declare const WebAssembly: {
  readonly Module: { imports(module: object): readonly { readonly module: string }[] };
  compile(bytes: Uint8Array): Promise<object>;
  instantiate(module: object, imports: Readonly<Record<string, unknown>>): Promise<{ readonly exports: WasmExports }>;
};

let loading: Promise<EngineModule> | undefined;

/** The engine over `pool`. The schema text is needed by `diff` alone. */
export async function openSchemaEngine(pool: pg.Pool, schema = ''): Promise<SchemaEngine> {
  // A WebAssembly module is instantiated once in a process; nothing but memory belongs to it.
  loading ??= loadEngine();
  const { SchemaEngine } = await loading;
  const adapter = bindMigrationAwareSqlAdapterFactory(new WholeScripts(pool));
  return SchemaEngine.new(
    { datamodels: schema === '' ? undefined : [['schema.prisma', schema]] },
    () => undefined,
    adapter,
  );
}

/**
 * The driver adapter cuts a script at every semicolon, also within the body of a function. PostgreSQL itself knows where
 * a statement ends: such a script goes to it whole.
 */
class WholeScripts extends PrismaPg {
  override async connect(): ReturnType<PrismaPg['connect']> {
    const adapter = await super.connect();
    const cutAtSemicolons = adapter.executeScript.bind(adapter);
    adapter.executeScript = async (script) => {
      if (!script.includes('$$')) return cutAtSemicolons(script);
      await adapter.underlyingDriver().query(script);
    };
    return adapter;
  }
}

async function loadEngine(): Promise<EngineModule> {
  // The package's own entry imports the .wasm file as a module, which Node 20 cannot do.
  const glue = (await import('@prisma/schema-engine-wasm/schema_engine_bg')) as unknown as EngineModule;
  const glueFile = createRequire(import.meta.url).resolve('@prisma/schema-engine-wasm/schema_engine_bg');
  const wasm = await WebAssembly.compile(await readFile(glueFile.replace(/\.js$/, '.wasm')));
  const imports = Object.fromEntries(WebAssembly.Module.imports(wasm).map(({ module }) => [module, glue]));
  const { exports } = await WebAssembly.instantiate(wasm, imports);
  glue.__wbg_set_wasm(exports);
  const begin = exports['__wbindgen_start'];
  if (typeof begin !== 'function') throw new Error('@prisma/schema-engine-wasm has no start function');
  begin();
  return glue;
}
