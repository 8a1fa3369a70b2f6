/** What can go wrong with a posted image. The code is the slug of the problem type that the HTTP layer answers with. */
export type UndecodableImageCode =
  | 'image-empty'
  | 'image-too-large'
  | 'unsupported-image-format'
  | 'image-truncated'
  | 'image-corrupt';

/** The bytes are not an image that can be analysed. `message` says what to do about it and holds no file content. */
export class UndecodableImageError extends Error {
  override readonly name = 'UndecodableImageError';
  readonly code: UndecodableImageCode;

  constructor(code: UndecodableImageCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The model folder does not hold what the manifest promises, or the manifest is not one this program can serve. */
export class ModelError extends Error {
  override readonly name = 'ModelError';
}

/** The requested execution provider cannot be used on this machine. `message` says what is missing. */
export class ExecutionProviderError extends Error {
  override readonly name = 'ExecutionProviderError';
}

/** The run was cut off by a crash of the thread or the process that it ran in, perhaps because of the image. */
export class AnalysisCrashedError extends Error {
  override readonly name = 'AnalysisCrashedError';
}

/** An inference job was lost: the model refused the input, or the pool is closed or broken. */
export class InferenceError extends Error {
  override readonly name = 'InferenceError';
}
