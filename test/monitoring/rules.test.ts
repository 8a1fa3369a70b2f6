import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { firingScenes, RULE_FILE, readAlerts, SCENES_FILE } from '../support/monitoring.js';

describe('the alert rules', () => {
  it('are rules, and fire in the scenes that they are made for and in no other', () => {
    for (const args of [
      ['check', 'rules', RULE_FILE],
      ['test', 'rules', SCENES_FILE],
    ]) {
      const { status, stdout, stderr } = spawnSync('promtool', args, { encoding: 'utf8', timeout: 170_000 });
      expect(status, stdout + stderr).toBe(0);
    }
  });

  it('each have a scene in which they fire', () => {
    const scenes = firingScenes();
    expect(readAlerts().filter(({ alert }) => !scenes.has(alert))).toEqual([]);
  });

  it('each say how bad it is, what it is, and where it stands what to do', () => {
    const guide = readFileSync(new URL('../../docs/operations.md', import.meta.url), 'utf8');
    const headings = [...guide.matchAll(/^#+ (.+)$/gm)].map(([, title = '']) => title.toLowerCase());
    for (const { alert, labels, annotations } of readAlerts()) {
      expect(labels.severity, alert).toMatch(/^(critical|warning)$/);
      expect(annotations['summary'], alert).toBeTruthy();
      expect(annotations['description'], alert).toBeTruthy();
      expect(annotations['runbook'], alert).toBe(`docs/operations.md#${alert.toLowerCase()}`);
      expect(headings, alert).toContain(alert.toLowerCase());
    }
  });
});
