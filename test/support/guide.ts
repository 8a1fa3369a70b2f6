/** The code of docs/integration.md: what the guide shows is what the tests run. */
import { readFileSync } from 'node:fs';

export const guide = readFileSync(new URL('../../docs/integration.md', import.meta.url), 'utf8');

/** The code blocks whose info string is `info`, one after the other, without the indentation of a list. */
export function guideCode(info: string): string {
  const blocks = [...guide.matchAll(/^( *)```(.+)\n([\s\S]*?)\n\1```$/gm)]
    .filter((block) => block[2] === info)
    .map(([, indent = '', , code = '']) => code.split('\n').map((line) => line.slice(indent.length)));
  if (blocks.length === 0) throw new Error(`the guide has no block ${info}`);
  return `${blocks.map((lines) => lines.join('\n')).join('\n\n')}\n`;
}
