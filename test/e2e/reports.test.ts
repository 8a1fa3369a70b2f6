/** A site with a LIS: results leave the program as HL7 v2, in the site's own codes, before and after the signature. */
import { writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { Hl7Message } from '@medplum/core';
import { Hl7Connection, type Hl7MessageEvent } from '@medplum/hl7';
import sharp from 'sharp';
import { Webhook } from 'standardwebhooks';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { fhirFaults } from '../support/fhir-validation.js';
import { cleanUp, preparedDataDir, run, serve, stopAll, temporaryFolder } from '../support/program.js';
import { drawSmear } from '../support/smear.js';
import { startReceiver } from '../support/webhooks.js';

afterEach(stopAll);
afterAll(cleanUp);

function profile(text: string): string {
  const file = join(temporaryFolder(), 'profile.yaml');
  writeFileSync(file, text);
  return file;
}

describe('reports', () => {
  it('reach the LIS by MLLP, preliminary first and final after the signature, which webhooks tell too', async () => {
    const received: Hl7Message[] = [];
    const lis = createServer((socket) => {
      const connection = new Hl7Connection(socket);
      connection.addEventListener('error', () => undefined);
      connection.addEventListener('message', ({ message }: Hl7MessageEvent) => {
        received.push(message);
        connection.send(message.buildAck());
      });
    });
    await new Promise<void>((resolve) => lis.listen(0, '127.0.0.1', resolve));
    const hook = await startReceiver([204]);
    try {
      const { address, headers: key } = await serve({
        WEBHOOK_ALLOW_NETWORKS: '127.0.0.0/8',
        DATA_DIR: await preparedDataDir(),
        HL7_DESTINATION: `mllp://127.0.0.1:${(lis.address() as AddressInfo).port}`,
        REPORT_PROFILE: profile('figures:\n  panel: { localCode: DIFF }\nhl7: { receivingApplication: LIS }\n'),
      });
      const { width, height, data } = drawSmear({
        seed: 7,
        width: 640,
        height: 480,
        micronsPerPixel: 0.2,
        cells: { neutrophil: 3, lymphocyte: 2 },
      });
      const png = await sharp(Buffer.from(data.buffer), { raw: { width, height, channels: 3 } })
        .png()
        .toBuffer();
      const form = new FormData();
      form.append('accessionNumber', 'H-26-1');
      form.append('images', new Blob([new Uint8Array(png)]), 'a.png');
      const json = { ...key, 'content-type': 'application/json' };
      const registered = await fetch(`${address}/webhook-endpoints`, {
        method: 'POST',
        headers: json,
        body: JSON.stringify({ url: hook.url, eventTypes: ['analysis.signed'] }),
      });
      expect(registered.status).toBe(201);
      const { secret } = (await registered.json()) as { secret: string };
      const posted = await fetch(`${address}/analyze`, {
        method: 'POST',
        body: form,
        headers: { ...key, prefer: 'wait=60', 'x-request-id': 'lis-e2e' },
      });
      const { id, links } = (await posted.json()) as { id: string; links: Record<string, string> };
      const url = (link: string): string => `${address}${links[link]}`;
      const read = (link: string): Promise<Response> => fetch(url(link), { headers: key });

      await expect.poll(() => received.length, { timeout: 30_000 }).toBe(1);
      const cells = (await (await read('cells')).json()) as { items: { id: string; class: string }[] };
      for (const cell of cells.items) {
        const seen = cell.class === 'unidentified' ? 'lymphocyte' : cell.class;
        const etag = (await read('self')).headers.get('etag') ?? '';
        const named = await fetch(`${url('cells')}/${cell.id}`, {
          method: 'PATCH',
          headers: { ...json, 'if-match': etag },
          body: JSON.stringify({ class: seen, reviewer: 'mlopez' }),
        });
        expect(named.status).toBe(200);
        expect(named.headers.get('etag')).not.toBe(etag);
      }
      const etag = (await read('self')).headers.get('etag') ?? '';
      const headers = { ...json, 'if-match': etag };
      const signed = await fetch(`${url('self')}/sign`, { method: 'POST', headers, body: '{"reviewer":"mlopez"}' });
      expect(signed.status).toBe(200);
      await expect.poll(() => received.length, { timeout: 30_000 }).toBe(2);

      // Whoever asked for it hears of the signature, and of nothing else.
      await expect.poll(() => hook.received.length, { timeout: 30_000 }).toBe(1);
      const [told] = hook.received;
      const event = new Webhook(secret).verify(told?.body ?? '', told?.headers as Record<string, string>);
      expect(event).toMatchObject({ type: 'analysis.signed', data: { id, accessionNumber: 'H-26-1' } });
      expect(told?.headers['x-request-id']).toBe('lis-e2e');

      expect(received.map((one) => one.getSegment('OBR')?.getField(25).toString())).toEqual(['P', 'F']);
      for (const message of received) {
        expect(message.getSegment('MSH')?.getField(5).toString()).toBe('LIS');
        expect(message.getSegment('OBR')?.getField(4).getComponent(1)).toBe('DIFF');
        expect(message.getSegment('OBR')?.getField(18).toString()).toBe('H-26-1');
      }
      // What is read is what was sent.
      const answered = Hl7Message.parse(await (await read('hl7')).text());
      expect(answered.toString()).toBe(received[1]?.toString());
      expect(fhirFaults(await (await read('fhir')).json())).toEqual([]);
    } finally {
      await hook.close();
      lis.close();
    }
  });

  it('does not start with a profile that cannot be used, and says where it is wrong', async () => {
    const file = profile('figures:\n  neutrophil.percent: { loinc: 26511-7 }\n');
    const { code, stderr, stdout } = await run(['serve'], {
      DATA_DIR: join(temporaryFolder(), 'data'),
      REPORT_PROFILE: file,
    }).ended;
    expect(code).not.toBe(0);
    expect(stdout + stderr).toMatch(/REPORT_PROFILE.*figures\.neutrophil\.percent\.loinc: 26511-7 is no LOINC code/);
  });
});
