/**
 * Makes `drift-reference.json` beside the model: what the networks say of the validation fields that it was not trained on. Only
 * counts; no image and no name of one gets into the file.
 *
 *     npm run drift-reference -- --data FOLDER [--model models/sg-cldff/VERSION]
 *
 * FOLDER holds the data sets as training/README.md describes them. Takes some minutes on a processor.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { loadConfig } from '../src/config.js';
import { binOf, DRIFT_MEASURES, type DriftMeasure, emptyTally, tally } from '../src/observability/drift.js';
import { type DriftReference, REFERENCE_FILE } from '../src/observability/drift-reference.js';
import { createVision, type ImageAnalysis } from '../src/vision/index.js';

/** Sets with whole fields, as laboratories send them: the index and the folder that its paths are relative to. */
const FIELDS = ['bccd/images.csv', 'bcisc/fields.csv', 'raabin/images.csv', 'allidb/fields.csv'];

const { values } = parseArgs({ options: { data: { type: 'string' }, model: { type: 'string' } } });
if (values.data === undefined) throw new Error('--data FOLDER is missing');
const config = loadConfig(values.model === undefined ? {} : { MODEL_DIR: values.model });

const vision = await createVision({
  modelDir: config.modelDir,
  executionProvider: 'cpu',
  threads: config.inferenceThreads,
});
const counts = emptyTally();
let images = 0;
try {
  for (const index of FIELDS) {
    const folder = join(values.data, index, '..');
    for (const file of validationFiles(await readFile(join(values.data, index), 'utf8'))) {
      count(await vision.analyze(await readFile(join(folder, file))));
      images += 1;
    }
    console.log(`${index}: ${images} images so far`);
  }
} finally {
  await vision.close();
}
const { name, version, sha256 } = vision.model;
const reference: DriftReference = {
  schema: 1,
  kind: 'model',
  model: { name, version, sha256 },
  source: `${images} validation fields of ${FIELDS.map((index) => index.split('/')[0]).join(', ')}`,
  all: counts,
  sites: {},
};
const written = join(config.modelDir, REFERENCE_FILE);
await writeFile(written, `${JSON.stringify(reference, null, 2)}\n`);
console.log(`${written}: ${images} images`);

/** Paths of the rows whose split is `val`. The indexes quote nothing. */
function validationFiles(csv: string): string[] {
  const [head = '', ...rows] = csv.trim().split(/\r?\n/);
  const columns = head.split(',');
  const [file, split] = [columns.indexOf('file'), columns.indexOf('split')];
  return rows.map((row) => row.split(',')).flatMap((row) => (row[split] === 'val' ? [row[file] ?? ''] : []));
}

function count({ cells, quality }: ImageAnalysis): void {
  const note = (measure: Exclude<DriftMeasure, 'class'>, value: number | undefined): void => {
    if (value !== undefined) tally(counts, measure, String(binOf(value, DRIFT_MEASURES[measure].edges)));
  };
  for (const cell of cells) {
    note('confidence', cell.confidence);
    note('consistency', cell.saliencyConsistency);
    tally(counts, 'class', cell.class);
  }
  note('sharpness', quality.sharpness);
  note('brightness', quality.brightness);
  note('background', quality.background);
  note('stain_density', quality.stain?.density);
  note('stain_balance', quality.stain?.balance);
}
