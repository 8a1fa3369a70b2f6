import { type ImageProbe, probeImage } from '../../vision/decode.js';
import { UndecodableImageError } from '../../vision/errors.js';
import type { ProblemCause } from '../problems.js';
import { FILE_FIELD } from './order-fields.js';
import type { SpooledFile } from './receive.js';

export interface ProbedFile extends SpooledFile {
  readonly probe: ImageProbe;
}

export interface ProbeLimits {
  readonly maxImageBytes: number;
  readonly maxImagePixels: number;
}

/** Reads the header of every file, one after the other so that only one lies in memory; names every file it refuses. */
export async function probeFiles(
  files: readonly SpooledFile[],
  limits: ProbeLimits,
): Promise<{ readonly files: readonly ProbedFile[]; readonly causes: readonly ProblemCause[] }> {
  const probed: ProbedFile[] = [];
  const causes: ProblemCause[] = [];
  for (const file of files) {
    try {
      const bytes = await file.read();
      const probe = await probeImage(bytes, { maxBytes: limits.maxImageBytes, maxPixels: limits.maxImagePixels });
      probed.push({ ...file, probe });
    } catch (error) {
      if (!(error instanceof UndecodableImageError)) throw error;
      causes.push({
        field: `${FILE_FIELD}[${file.index}]`,
        filename: file.filename,
        code: error.code,
        detail: error.message,
      });
    }
  }
  return { files: probed, causes };
}
