/** Addresses that take JSON. Everywhere else a body is a form, or means nothing and is thrown away. */
import { ProblemError } from './problems.js';
import type { App } from './types.js';

/** Registers what `register` adds in a scope where a body is JSON and nothing else. */
export function registerJsonScope(app: App, register: (scope: App) => void): void {
  app.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('application/json', { parseAs: 'string' }, scope.getDefaultJsonParser('error', 'error'));
    scope.addContentTypeParser('*', (_request, _payload, done) => {
      done(new ProblemError('unsupported-media-type', { detail: 'Send JSON, with Content-Type: application/json.' }));
    });
    register(scope as App);
  });
}
