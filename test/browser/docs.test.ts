import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { cleanUp, type Service, serve, temporaryFolder } from '../support/program.js';

/** The pages that people see, served by the program as they start it, in a real browser. Needs Chromium. */
let service: Service;
let address: string;
let browser: Browser;

beforeAll(async () => {
  service = await serve({ DATA_DIR: temporaryFolder() });
  address = service.address;
  browser = await chromium.launch({
    executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox', // Chromium refuses its sandbox to root, which is what CI runs as.
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
});

afterAll(async () => {
  await browser?.close();
  await service?.stop();
  await cleanUp();
});

/** Opens a page and collects everything that a person would call broken. */
async function open(path: string): Promise<{ page: Page; complaints: string[] }> {
  const page = await browser.newPage();
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('request', (request) => {
    if (!request.url().startsWith(address) && !request.url().startsWith('data:')) {
      complaints.push(`asks another host: ${request.url()}`);
    }
  });
  page.on('response', (response) => {
    if (response.status() >= 400) complaints.push(`${response.status()} for ${response.url()}`);
  });
  await page.goto(address + path, { waitUntil: 'networkidle' });
  return { page, complaints };
}

describe('/docs', () => {
  test('shows every operation of the contract and asks no other host', async () => {
    const { page, complaints } = await open('/docs');
    await page.waitForSelector('.opblock');
    expect(await page.title()).toBe('Leukodiff');
    const contract = (await (await fetch(`${address}/openapi.json`)).json()) as {
      paths: Record<string, object>;
      webhooks?: Record<string, object>;
    };
    const operations = [contract.paths, contract.webhooks ?? {}]
      .flatMap(Object.values<object>)
      .flatMap((path) => Object.keys(path).filter((key) => ['get', 'post', 'put', 'patch', 'delete'].includes(key)));
    expect(operations.length).toBeGreaterThan(10);
    expect(await page.locator('.opblock').count()).toBe(operations.length);
    expect(await page.locator('.opblock-post .opblock-summary-path').first().innerText()).toContain('analyze');
    expect(complaints).toEqual([]);
    await page.close();
  });

  test('runs a request that a reader tries', async () => {
    const { page, complaints } = await open('/docs');
    const operation = page.locator('.opblock', { hasText: '/health/ready' }).first();
    await operation.locator('.opblock-summary').click();
    await operation.getByRole('button', { name: 'Execute' }).click();
    const status = operation.locator('.live-responses-table .response-col_status').last();
    await status.waitFor();
    expect(await status.innerText()).toMatch(/^200/);
    expect(complaints).toEqual([]);
    await page.close();
  });
});

test('a browser that opens the address lands on the documentation', async () => {
  const { page } = await open('/');
  expect(new URL(page.url()).pathname).toMatch(/^\/docs/);
  await page.close();
});
