#!/usr/bin/env node
/**
 * The program's first lines. libuv opens its thread pool once, at the first use, and the loader of ECMAScript modules uses it before
 * a line of one runs: so its size is set here, in a CommonJS module (docs/decisions/0071).
 */
import os = require('node:os');

process.env['UV_THREADPOOL_SIZE'] ??= String(Math.max(4, os.availableParallelism()));
void import('./main.js');
