import { describe, expect, it } from 'vitest';
import { createFrames, readAck } from '../../../src/jobs/mllp.js';
import { randomFrom } from '../../support/random.js';

const frame = (text: string): string => `\u000b${text}\u001c\r`;

describe('createFrames', () => {
  it.each([
    ['one block', frame('a'), ['a']],
    ['several in one chunk', frame('a') + frame('b') + frame('c'), ['a', 'b', 'c']],
    ['what is not a block', `noise${frame('a')}\u0006\n${frame('b')}`, ['a', 'b']],
    ['carriage returns inside', frame('MSH|1\rMSA|AA|1\r'), ['MSH|1\rMSA|AA|1\r']],
    ['an end that is none', frame('a\u001cb'), ['a\u001cb']],
    ['an empty block', frame(''), ['']],
    ['UTF-8', frame('Ångström 李'), ['Ångström 李']],
  ])('finds %s, wherever the network cuts', (_, stream, expected) => {
    const bytes = Buffer.from(stream, 'utf8');
    const random = randomFrom(11);
    for (let round = 0; round < 200; round += 1) {
      const frames = createFrames();
      const found: string[] = [];
      for (let at = 0; at < bytes.length; ) {
        const size = 1 + Math.floor(random() * (round < 100 ? 3 : bytes.length));
        found.push(...frames.push(bytes.subarray(at, at + size)));
        at += size;
      }
      expect(found).toEqual(expected);
    }
  });

  it('keeps nothing of what is no block', () => {
    const frames = createFrames();
    frames.push(Buffer.from('x'.repeat(10_000)));
    expect(frames.pendingBytes()).toBe(0);
    frames.push(Buffer.from('\u000bhalf'));
    expect(frames.pendingBytes()).toBe(5);
  });
});

describe('readAck', () => {
  it.each([
    ['MSH|^~\\&|A|B|C|D|1||ACK|9|P|2.5.1\rMSA|AA|7\r', { code: 'AA', controlId: '7' }],
    ['MSH|^~\\&|A\rMSA|ar|7|busy\r', { code: 'AR', controlId: '7' }],
    ['MSH|^~\\&|A\nMSA|CE|7\n', { code: 'CE', controlId: '7' }],
    ['MSH#^~\\&#A\rERR#x\rMSA#AE#7', { code: 'AE', controlId: '7' }],
    ['MSH|^~\\&|A\rMSA|CA', { code: 'CA', controlId: '' }],
    ['MSH|^~\\&|A\rMSA|XX|7', null],
    ['MSH|^~\\&|A\rPID|1', null],
    ['MSA|AA|7', null],
    ['', null],
  ])('%j', (text, expected) => {
    expect(readAck(text)).toEqual(expected);
  });
});
