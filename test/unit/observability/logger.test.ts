import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { createLogger, type Logger } from '../../../src/observability/logger.js';

function capture(format: 'json' | 'pretty' = 'json', level = 'info'): { log: Logger; text: () => string } {
  const lines: string[] = [];
  const sink = new PassThrough().on('data', (chunk: Buffer) => lines.push(chunk.toString()));
  return { log: createLogger({ level, format, destination: sink }), text: () => lines.join('') };
}

describe('the log', () => {
  it('is one JSON object a line, with the level as a word and the time in UTC', () => {
    const { log, text } = capture();
    log.info({ analysisId: 'x' }, 'image analysed');
    log.debug('not at this level');
    expect(text().trim().split('\n')).toHaveLength(1);
    expect(JSON.parse(text())).toMatchObject({
      level: 'info',
      service: 'leukodiff',
      analysisId: 'x',
      msg: 'image analysed',
    });
    expect(JSON.parse(text()).time).toMatch(/^\d{4}-\d\d-\d\dT.*Z$/);
  });

  it('is readable where it is asked to be', () => {
    const { log, text } = capture('pretty');
    log.info('image analysed');
    expect(text()).toMatch(/INFO.*image analysed/);
  });

  it('takes of a request its method and its path, and nothing that names a specimen', () => {
    const { log, text } = capture();
    log.info(
      {
        req: { id: '1', method: 'GET', url: '/analyses?accessionNumber=A-77#x', headers: { authorization: 'geheim' } },
      },
      'request',
    );
    expect(JSON.parse(text()).req).toEqual({ id: '1', method: 'GET', path: '/analyses' });
  });

  it('takes of an error what it is, and not the row that the database driver attaches', () => {
    const { log, text } = capture();
    const cause = Object.assign(new Error('duplicate key'), {
      code: '23505',
      detail: 'Key (accession_number)=(A-77)',
      parameters: ['A-77'],
    });
    log.error({ err: new Error('cannot store', { cause }) }, 'failed');
    expect(text()).not.toContain('A-77');
    expect(JSON.parse(text()).err).toMatchObject({
      type: 'Error',
      message: 'cannot store',
      cause: { code: '23505', message: 'duplicate key' },
    });
  });
});
