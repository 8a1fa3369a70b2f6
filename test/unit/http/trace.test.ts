import { describe, expect, it } from 'vitest';
import { traceOf } from '../../../src/http/trace.js';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';

describe('a trace', () => {
  it('goes on with an id of this request as parent', () => {
    const { traceId, traceparent, tracestate } = traceOf({
      traceparent: `00-${TRACE}-${PARENT}-01`,
      tracestate: 'rojo=00f067aa0ba902b7,congo=t61rcWkgMzE',
    });
    expect(traceId).toBe(TRACE);
    expect(traceparent).toMatch(new RegExp(`^00-${TRACE}-[0-9a-f]{16}-01$`));
    expect(traceparent).not.toContain(PARENT);
    expect(tracestate).toBe('rojo=00f067aa0ba902b7,congo=t61rcWkgMzE');
  });

  it('is that of the span, where there is one', () => {
    const span = { traceId: 'a'.repeat(32), spanId: 'b'.repeat(16), traceFlags: 1 };
    expect(traceOf({ traceparent: `00-${TRACE}-${PARENT}-01` }, span)).toEqual({
      traceId: span.traceId,
      traceparent: `00-${span.traceId}-${span.spanId}-01`,
      tracestate: null,
    });
    const none = { traceId: '0'.repeat(32), spanId: '0'.repeat(16), traceFlags: 0 };
    expect(traceOf({ traceparent: `00-${TRACE}-${PARENT}-01` }, none).traceId).toBe(TRACE);
  });

  it('of a later version is read as far as it is known', () => {
    expect(traceOf({ traceparent: `cc-${TRACE}-${PARENT}-01-what-comes` }).traceId).toBe(TRACE);
  });

  it.each([
    undefined,
    '',
    'x',
    `ff-${TRACE}-${PARENT}-01`,
    `00-${TRACE.toUpperCase()}-${PARENT}-01`,
    `00-${'0'.repeat(32)}-${PARENT}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE}-${PARENT}-01-more`,
    `00-${TRACE}-${PARENT}`,
  ])('begins anew where there is %j', (traceparent) => {
    const trace = traceOf({ traceparent, tracestate: 'a=b' });
    expect(trace.traceId).not.toBe(TRACE);
    expect(trace.traceparent).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
    // The state of a trace that is not gone on with is nobody's.
    expect(trace.tracestate).toBeNull();
  });

  it('drops a state that is too long or not text', () => {
    const traceparent = `00-${TRACE}-${PARENT}-00`;
    expect(traceOf({ traceparent, tracestate: 'a'.repeat(513) }).tracestate).toBeNull();
    expect(traceOf({ traceparent, tracestate: 'a=\u00e9' }).tracestate).toBeNull();
    expect(traceOf({ traceparent, tracestate: 'a'.repeat(512) }).tracestate).toHaveLength(512);
  });
});
