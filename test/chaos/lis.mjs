// The LIS: notes every webhook before it answers, so that what it acknowledged survives its own end. Arguments: port, file.
import { createHash } from 'node:crypto';
import { appendFileSync } from 'node:fs';
import { createServer } from 'node:http';

const [port, file] = process.argv.slice(2);
createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    const body = Buffer.concat(pieces);
    const { type, data } = JSON.parse(body.toString());
    const sha256 = createHash('sha256').update(body).digest('hex');
    const line = { id: request.headers['webhook-id'], type, analysis: data.id, sha256 };
    appendFileSync(file, `${JSON.stringify(line)}\n`);
    response.writeHead(204).end();
  });
}).listen(Number(port), '127.0.0.1');
