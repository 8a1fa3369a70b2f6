// Prints messages as the built program signs them, as JSON: for tests that verify them with another language's library.
//   node test/python/signed_messages.mjs SECRET [SECRET …]
import { signatures } from '../../dist/jobs/webhook-secret.js';

const secrets = process.argv.slice(2);
const id = 'msg_0193a5b2-7001-7b1c-a1d2-93c4e5f60718';
const body = JSON.stringify({ type: 'analysis.completed', data: { totalWbc: 104, specimenId: 'Blutprobe Ä' } });
const now = Date.now();
const message = (offsetSeconds, signedBody = body) => {
  const at = new Date(now + offsetSeconds * 1000);
  return {
    body,
    headers: {
      'webhook-id': id,
      'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
      'webhook-signature': signatures(secrets, id, at, signedBody),
    },
  };
};
process.stdout.write(
  JSON.stringify({
    good: message(0),
    late: message(-360),
    early: message(360),
    forged: message(0, body.replace('104', '105')),
  }),
);
