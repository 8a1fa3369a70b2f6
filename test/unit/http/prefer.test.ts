import { expect, it } from 'vitest';
import { preferredWaitSeconds } from '../../../src/http/prefer.js';

it.each([
  [undefined, null],
  ['', null],
  ['wait=10', 10],
  ['WAIT = 10', 10],
  ['wait="10"', 10],
  ['respond-async, wait=10', 10],
  ['wait=10; foo=bar', 10],
  ['foo="a, wait=3", wait=5', 5],
  ['wait=5, wait=9', 5],
  ['wait=0', 0],
  ['wait=1000', 60],
  ['wait=99999999999999', null],
  ['wait', null],
  ['wait=', null],
  ['wait=-1', null],
  ['wait=1.5', null],
  ['wait=soon', null],
  ['waiting=5', null],
  [['respond-async', 'wait=7'], 7],
])('reads %j as %j', (header, seconds) => {
  expect(preferredWaitSeconds(header, 60)).toBe(seconds);
});
