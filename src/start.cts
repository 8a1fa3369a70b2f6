#!/usr/bin/env -S node --max-semi-space-size=16
/**
 * The program's first lines: what has to be settled before the first module of the program is loaded. The loader of ECMAScript
 * modules already uses libuv's thread pool and allocates, so this is a CommonJS module (docs/decisions/0071).
 */
import os = require('node:os');
import v8 = require('node:v8');

// libuv opens its pool once, at the first use.
process.env['UV_THREADPOOL_SIZE'] ??= String(Math.max(4, os.availableParallelism()));
// By itself V8 lets the old objects (some 50 MB, most of them for ever) grow by a third before it looks through all of them again.
// Pictures on their way fill that five times a second under load; up to twice as much is looked through once a second.
v8.setFlagsFromString('--heap-growing-percent=100');
void import('./main.js');
