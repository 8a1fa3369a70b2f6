/** Signatures, verified by the official library of Standard Webhooks as a receiver would. */
import { randomBytes } from 'node:crypto';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { signatures } from '../../../src/jobs/webhook-secret.js';
import { newWebhookSecret } from '../../../src/storage/secrets.js';

const NOW = new Date('2026-11-23T12:00:00Z');
const SECRET = newWebhookSecret();
const OLD_SECRET = newWebhookSecret();
const ID = 'msg_0193a5b2-7001-7b1c-a1d2-93c4e5f60718';
const BODY = JSON.stringify({ type: 'analysis.completed', data: { totalWbc: 104, specimenId: 'Blutprobe Ä' } });

beforeEach(() => {
  vi.useFakeTimers({ now: NOW, toFake: ['Date'] });
});
afterEach(() => {
  vi.useRealTimers();
});

interface Message {
  readonly id: string;
  readonly timestamp: string;
  readonly signature: string;
  readonly body: string;
}

const seconds = (date: Date): string => String(Math.floor(date.getTime() / 1000));
const message = (secrets: readonly string[] = [SECRET], at: Date = NOW): Message => ({
  id: ID,
  timestamp: seconds(at),
  signature: signatures(secrets, ID, at, BODY),
  body: BODY,
});
const verify = (secret: string, { id, timestamp, signature, body }: Message): unknown =>
  new Webhook(secret).verify(body, {
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    'webhook-signature': signature,
  });

describe('a signature', () => {
  it('is good for the message that was sent', () => {
    expect(verify(SECRET, message())).toEqual(JSON.parse(BODY));
  });

  it('is good within five minutes, either way', () => {
    for (const offsetMs of [-299_000, 0, 299_000]) {
      expect(verify(SECRET, message([SECRET], new Date(NOW.getTime() + offsetMs)))).toBeDefined();
    }
  });

  it('of two secrets is good for both of them', () => {
    const both = message([SECRET, OLD_SECRET]);
    expect(both.signature.split(' ')).toHaveLength(2);
    expect(verify(SECRET, both)).toBeDefined();
    expect(verify(OLD_SECRET, both)).toBeDefined();
    expect(() => verify(newWebhookSecret(), both)).toThrow();
  });

  const good = (): Message => message();
  const withSignature = (change: (signature: string) => string): Message => ({
    ...good(),
    signature: change(good().signature),
  });
  const HOSTILE: readonly (readonly [string, () => Message])[] = [
    ['another body', () => ({ ...good(), body: BODY.replace('104', '105') })],
    ['the same body with a space more', () => ({ ...good(), body: `${BODY} ` })],
    ['an empty body', () => ({ ...good(), body: '' })],
    ['another id: a replay that wants to look new', () => ({ ...good(), id: `${ID}0` })],
    ['no id', () => ({ ...good(), id: '' })],
    ['an id that swallows the timestamp', () => ({ ...good(), id: `${ID}.${seconds(NOW)}`, timestamp: '' })],
    [
      'a later timestamp: a replay that wants to look fresh',
      () => ({ ...good(), timestamp: `${Number(seconds(NOW)) + 60}` }),
    ],
    ['a timestamp that is no number', () => ({ ...good(), timestamp: 'now' })],
    ['no timestamp', () => ({ ...good(), timestamp: '' })],
    ['a true message, replayed six minutes later', () => message([SECRET], new Date(NOW.getTime() - 360_000))],
    ['a true message, replayed a day later', () => message([SECRET], new Date(NOW.getTime() - 86_400_000))],
    ['a message from the future', () => message([SECRET], new Date(NOW.getTime() + 360_000))],
    ['the signature of another secret', () => message([newWebhookSecret()])],
    ['the secret of another endpoint among several', () => message([newWebhookSecret(), newWebhookSecret()])],
    ['no signature', () => withSignature(() => '')],
    ['a version alone', () => withSignature(() => 'v1,')],
    ['a signature without its version', () => withSignature((text) => text.slice(3))],
    ['a version that nobody knows', () => withSignature((text) => text.replace('v1,', 'v2,'))],
    ['the version of asymmetric keys', () => withSignature((text) => text.replace('v1,', 'v1a,'))],
    ['half a signature', () => withSignature((text) => text.slice(0, 20))],
    [
      'a signature in hexadecimal',
      () => withSignature((text) => `v1,${Buffer.from(text.slice(3), 'base64').toString('hex')}`),
    ],
    [
      'a signature with another first letter',
      () => withSignature((text) => `v1,${text[3] === 'A' ? 'B' : 'A'}${text.slice(4)}`),
    ],
    ['a random signature', () => withSignature(() => `v1,${randomBytes(32).toString('base64')}`)],
    [
      'a hundred random signatures',
      () =>
        withSignature(() => Array.from({ length: 100 }, () => `v1,${randomBytes(32).toString('base64')}`).join(' ')),
    ],
    [
      'the signature of another message',
      () => ({ ...good(), signature: signatures([SECRET], 'msg_other', NOW, BODY) }),
    ],
    ['the signature of an empty body', () => ({ ...good(), signature: signatures([SECRET], ID, NOW, '') })],
  ];

  it.each(HOSTILE)('is not good for %s', (_what, forged) => {
    expect(() => verify(SECRET, forged())).toThrow();
  });

  it('of a message that comes twice in time is good twice: its id is what tells', () => {
    const first = message();
    const again = message([SECRET], new Date(NOW.getTime() + 5_000));
    expect(again.signature).not.toBe(first.signature);
    expect(again.id).toBe(first.id);
    expect(verify(SECRET, again)).toEqual(verify(SECRET, first));
  });
});

describe('a new secret', () => {
  it('has the form of Standard Webhooks, and is another each time', () => {
    const secrets = Array.from({ length: 50 }, newWebhookSecret);
    expect(new Set(secrets).size).toBe(50);
    for (const secret of secrets) {
      const bytes = Buffer.from(secret.replace(/^whsec_/, ''), 'base64').length;
      expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]+=*$/);
      expect(bytes).toBeGreaterThanOrEqual(24);
      expect(bytes).toBeLessThanOrEqual(64);
    }
  });
});
