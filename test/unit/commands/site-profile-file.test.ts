import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { loadSiteProfile } from '../../../src/commands/site-profile-file.js';
import { ExpectedError } from '../../../src/errors.js';
import { DEFAULT_PROFILE } from '../../../src/reporting/site-profile.js';

const folder = mkdtempSync(join(tmpdir(), 'leukodiff-profile-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
function file(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

describe('REPORT_PROFILE', () => {
  it('is not needed', () => {
    expect(loadSiteProfile(undefined)).toBe(DEFAULT_PROFILE);
    expect(loadSiteProfile(file('empty.yaml', ''))).toEqual(DEFAULT_PROFILE);
  });

  it('is YAML or JSON', () => {
    const yaml = loadSiteProfile(file('a.yaml', 'figures:\n  panel: { localCode: DIFF }\n'));
    const json = loadSiteProfile(file('a.json', '{"figures":{"panel":{"localCode":"DIFF"}}}'));
    expect(yaml.figures.panel.localCode).toBe('DIFF');
    expect(json).toEqual(yaml);
  });

  it.each([
    ['is not there', join(folder, 'none.yaml'), /REPORT_PROFILE: .*none\.yaml cannot be read: ENOENT/],
    ['is not YAML', file('broken.yaml', 'figures: {'), /REPORT_PROFILE: .*cannot be read: /],
    [
      'is wrong',
      file('wrong.yaml', 'hl7: { processingId: X }\nfhr: {}'),
      /cannot be used: .*fhr.*; hl7\.processingId must/,
    ],
  ])('stops the start where it %s', (_, path, message) => {
    const load = () => loadSiteProfile(path);
    expect(load).toThrow(ExpectedError);
    expect(load).toThrow(message);
  });
});
