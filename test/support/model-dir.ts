/** The model under test: the one that is shipped, unless MODEL_DIR names another. */
import { loadConfig } from '../../src/config.js';

export const MODEL_DIR = loadConfig({ MODEL_DIR: process.env['MODEL_DIR'] }).modelDir;
