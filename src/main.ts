/** The command line: reads the configuration, composes the parts and runs one command. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { CONFIG_VARIABLES, loadConfig } from './config.js';
import { ExpectedError } from './errors.js';
import { readVersion } from './version.js';

const program = new Command('leukodiff')
  .description('White blood cell differential from blood smear images.')
  .version(readVersion())
  .showHelpAfterError('(leukodiff --help lists the commands)')
  .configureHelp({ sortOptions: false });

// Commands load their parts when they run: `--help` and `migrate` need no model runtime.
program
  .command('serve', { isDefault: true })
  .description('API and worker in one process (default)')
  .option('--no-worker', 'API alone; run `leukodiff work` elsewhere on the same database')
  .action(async ({ worker }: { worker: boolean }) => {
    const { serve } = await import('./commands/serve.js');
    await serve(loadConfig(process.env), { worker });
  });

program
  .command('work')
  .description('worker alone; needs DATABASE_URL where another process uses the embedded database')
  .action(async () => {
    const { work } = await import('./commands/work.js');
    await work(loadConfig(process.env));
  });

program
  .command('migrate')
  .description('bring the database up to date and exit')
  .action(async () => {
    const { migrate } = await import('./commands/migrate.js');
    await migrate(loadConfig(process.env));
  });

const keys = program.command('keys').description('API keys: create, list, rotate, revoke');

keys
  .command('create')
  .description('make a key; it is shown once')
  .requiredOption('--name <text>', 'what it is for, as the list shows it')
  .requiredOption('--scopes <list>', 'some of submit,read,review,admin')
  .option('--laboratory <slug>', 'whose analyses it sees', 'default')
  .addOption(new Option('--expires-in-days <n>', 'when it ends; never when absent').argParser(count))
  .option('--json', 'print it with its description as JSON', false)
  .action(
    async (options: { name: string; scopes: string; laboratory: string; expiresInDays?: number; json: boolean }) => {
      const { createKey } = await import('./commands/keys.js');
      await createKey(loadConfig(process.env), { ...options, expiresInDays: options.expiresInDays });
    },
  );

keys
  .command('list')
  .description('list the keys of all laboratories')
  .option('--laboratory <slug>', 'of this one alone')
  .option('--json', 'print them as JSON', false)
  .action(async (options: { laboratory?: string; json: boolean }) => {
    const { listKeys } = await import('./commands/keys.js');
    await listKeys(loadConfig(process.env), { ...options, laboratory: options.laboratory });
  });

keys
  .command('rotate')
  .description('make a successor of a key, which goes on for a while')
  .argument('<id>', 'the part of the key behind lk_, as the list shows it')
  .addOption(new Option('--overlap-hours <n>', 'how long the old key goes on').argParser(number).default(24))
  .option('--json', 'print it with its description as JSON', false)
  .action(async (id: string, options: { overlapHours: number; json: boolean }) => {
    const { rotateKey } = await import('./commands/keys.js');
    await rotateKey(loadConfig(process.env), id, options);
  });

keys
  .command('revoke')
  .description('end a key at once')
  .argument('<id>', 'the part of the key behind lk_, as the list shows it')
  .action(async (id: string) => {
    const { revokeKey } = await import('./commands/keys.js');
    await revokeKey(loadConfig(process.env), id);
  });

program
  .command('analyze')
  .description('analyse image files without server or database')
  .argument('<files...>', 'JPEG, PNG, TIFF, WebP or BMP')
  .addOption(new Option('--out <dir>', 'write masks, overlays and result.json to this folder'))
  .addOption(new Option('--microns-per-pixel <n>', 'scale of the images; estimated when absent').argParser(number))
  .addOption(new Option('--target-cells <n>', 'white cells wanted').argParser(count).default(100))
  .option('--json', 'print the result as JSON', false)
  .action(
    async (
      files: string[],
      options: { out?: string; micronsPerPixel?: number; targetCells: number; json: boolean },
    ) => {
      const { analyze } = await import('./commands/analyze.js');
      if (!(await analyze(files, options, loadConfig(process.env)))) process.exitCode = 1;
    },
  );

program
  .command('drift')
  .description(
    'hold the latest results against those that the model was validated on; exits with 1 when they have drifted',
  )
  .addOption(new Option('--days <n>', 'how far to look back').argParser(count).default(7))
  .addOption(new Option('--threshold <n>', 'index from which something has drifted').argParser(number).default(0.25))
  .option('--save <file>', 'write them to a file as a reference of your own, for DRIFT_REFERENCE')
  .option('--json', 'print the indexes as JSON', false)
  .action(async (options: { days: number; threshold: number; save?: string; json: boolean }) => {
    const { drift } = await import('./commands/drift.js');
    if (!(await drift(loadConfig(process.env), { ...options, save: options.save }))) process.exitCode = 1;
  });

program.addHelpText('after', () => {
  const rows = CONFIG_VARIABLES.map(({ name, default: fallback, meaning }) => {
    const given = fallback === null || fallback === '' ? '' : ` [${fallback}]`;
    return `  ${name.padEnd(26)}${meaning}${given}`;
  });
  return `\nEnvironment:\n${rows.join('\n')}`;
});

try {
  await program.parseAsync();
} catch (error) {
  // A stack is for defects; what a person can put right is said in a line.
  process.stderr.write(error instanceof ExpectedError ? `leukodiff: ${error.message}\n` : `${inspectError(error)}\n`);
  process.exitCode = 1;
}

function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('It must be a number.');
  return value;
}

function count(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new InvalidArgumentError('It must be a whole number of at least 1.');
  return value;
}

function inspectError(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
