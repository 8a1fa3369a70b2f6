/**
 * A client in TypeScript, as docs/integration.md shows it: made from openapi.yaml alone, compiled against the made types, and
 * run against the service. The guide's own code and commands are what runs here; test/python/test_client.py does the same.
 */
import { spawn } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Hl7Message } from '@medplum/core';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fhirFaults } from '../support/fhir-validation.js';
import { guideCode } from '../support/guide.js';
import { cleanUp, type Service, serve, temporaryFolder } from '../support/program.js';
import { drawSmear } from '../support/smear.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** A project of its own, with the packages that an integrator installs. */
const PROJECT = join(ROOT, 'test/typescript');
/** Inside the project, where its packages are found. */
const FOLDER = join(PROJECT, 'generated');
const CONTRACT = join(FOLDER, 'openapi.yaml');

const COMMANDS = guideCode('sh typescript').trimEnd().split('\n');
const INSTALLS = COMMANDS.filter((line) => line.startsWith('npm install '));
const [GENERATE = '', COMPILE = '', RUN = '', ...more] = COMMANDS.filter((line) => !INSTALLS.includes(line));

/** Says what the program has in hand at its end. Compiled with it. */
const CONFESSION = `
console.log(JSON.stringify({
  ping, event, id, analysis, bundle, message, key: token,
  statuses: [posted, read, unchanged, replayed, refused].map(({ response }) => response.status),
  etags: [etag, unchanged.response.headers.get('etag')],
  replayed: { id: ok(replayed).id, header: replayed.response.headers.get('idempotency-replayed') },
  refused: refused.error,
}));
`;

beforeAll(() => {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER);
  copyFileSync(join(ROOT, 'openapi.yaml'), CONTRACT);
  writeFileSync(join(FOLDER, 'generate.mjs'), guideCode('js generate.mjs'));
  writeFileSync(join(FOLDER, 'client.ts'), guideCode('ts client.ts') + CONFESSION);
});
afterAll(cleanUp);

/** Runs a command of the guide in the client's folder; `npx` means the packages that are installed. */
function command(line: string, env: Record<string, string> = {}): Promise<{ code: number | null; output: string }> {
  const bins = [join(PROJECT, 'node_modules/.bin'), join(ROOT, 'node_modules/.bin')];
  const path = [...bins, process.env['PATH'] ?? ''].join(delimiter);
  const child = spawn('sh', ['-c', `npx() { "$@"; }; ${line}`], { cwd: FOLDER, env: { PATH: path, ...env } });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  return new Promise((settle) => child.once('close', (code) => settle({ code, output })));
}

async function succeeds(line: string, env?: Record<string, string>): Promise<string> {
  const { code, output } = await command(line, env);
  expect(code, `${line}\n${output}`).toBe(0);
  return output;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((settle) => server.once('listening', settle));
  const address = server.address();
  await new Promise((settle) => server.close(settle));
  return typeof address === 'object' && address !== null ? address.port : 0;
}

async function smear(seed: number): Promise<Buffer> {
  const cells = { neutrophil: 3, lymphocyte: 2 };
  const { width, height, data } = drawSmear({ seed, width: 640, height: 480, micronsPerPixel: 0.2, cells });
  return sharp(Buffer.from(data.buffer), { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

describe('a client in TypeScript', () => {
  it('needs the packages that the guide installs, and no other', () => {
    expect(more).toEqual([]);
    const named = INSTALLS.flatMap((line) => line.split(' ').slice(2)).filter((word) => !word.startsWith('-'));
    const installed = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')).devDependencies;
    expect(named.map((name) => name.replace(/(?<=.)@\d+$/, '')).sort()).toEqual(Object.keys(installed).sort());
    for (const name of named) {
      const major = /(?<=.)@(\d+)$/.exec(name)?.[1];
      if (major !== undefined) expect(installed[name.slice(0, name.lastIndexOf('@'))]).toMatch(`^${major}.`);
    }
  });

  it.each([
    ['an answer without a schema', /"#\/components\/schemas\/CreatedApiKey"/g, '"#/components/schemas/Alive"', 'token'],
    ['a form without its images', /^ {8}images:$/m, '        pictures:', 'images'],
    ['an operation that is gone', '/analyses/{id}/hl7:', '/analyses/{id}/hl7v3:', '/analyses/{id}/hl7'],
  ])('does not compile against %s', async (_what, present, other, complaint) => {
    const contract = readFileSync(join(ROOT, 'openapi.yaml'), 'utf8');
    const broken = contract.replaceAll(typeof present === 'string' ? present : new RegExp(present, 'gm'), other);
    expect(broken).not.toBe(contract);
    writeFileSync(CONTRACT, broken);
    try {
      await succeeds(GENERATE);
      const { code, output } = await command(COMPILE);
      expect(code).not.toBe(0);
      expect(output).toContain(complaint);
    } finally {
      copyFileSync(join(ROOT, 'openapi.yaml'), CONTRACT);
    }
  });

  it('runs from a key to the replay of its order', async () => {
    await succeeds(GENERATE);
    await succeeds(COMPILE);
    writeFileSync(join(FOLDER, 'field-1.png'), await smear(7));
    writeFileSync(join(FOLDER, 'field-2.png'), await smear(8));
    const service: Service = await serve({
      DATA_DIR: join(temporaryFolder(), 'data'),
      WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8',
    });
    const here = RUN.replace('http://127.0.0.1:3000', service.address).replace(' 8080 ', ` ${await freePort()} `);
    const firstKey = (service.headers['authorization'] ?? '').replace('Bearer ', '');
    const output = await succeeds(here, { KEY: firstKey });
    const told = JSON.parse(output.trimEnd().split('\n').at(-1) ?? '');

    expect(told.key).toMatch(/^lk_/);
    expect(told.key).not.toBe(firstKey);
    expect(told.ping.type).toBe('webhook.ping');
    expect(told.event).toMatchObject({ type: 'analysis.completed', data: { id: told.id, orderId: 'ORD-5' } });
    expect(told.statuses).toEqual([202, 200, 304, 202, 422]);
    expect(told.etags[0]).toMatch(/^"/);
    expect(told.etags[1]).toBe(told.etags[0]);
    expect(told.analysis).toMatchObject({ id: told.id, status: 'completed', specimenId: 'S-77' });
    expect(told.analysis.images.map((image: { filename: string }) => image.filename)).toEqual([
      'field-1.png',
      'field-2.png',
    ]);
    expect(told.analysis.differential.totalWbc).toBeGreaterThan(0);
    expect(told.replayed).toEqual({ id: told.id, header: 'true' });
    expect(told.refused.type).toBe('https://leukodiff.dev/problems/idempotency-key-reused');

    expect(fhirFaults(told.bundle)).toEqual([]);
    const message = Hl7Message.parse(told.message);
    expect(message.getSegment('MSH')?.getField(9).toString()).toBe('ORU^R01^ORU_R01');
    expect(message.getSegment('OBR')?.getField(2).toString()).toBe('ORD-5');
    expect(message.getSegment('SPM')?.getField(2).toString()).toBe('S-77');
    expect(message.getAllSegments('OBX').length).toBeGreaterThan(10);
  });
});
