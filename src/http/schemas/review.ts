/** What people send when they look at a cell, or sign. */
import { type Static, Type } from '@fastify/type-provider-typebox';
import { CELL_TYPES } from '../../hematology/cell-types.js';
import { IDENTIFIER_MAX_LENGTH, literals, PRINTABLE_PATTERN } from './parameters.js';

const COMMENT_MAX_LENGTH = 2_000;

const reviewer = Type.String({
  minLength: 1,
  maxLength: IDENTIFIER_MAX_LENGTH,
  pattern: PRINTABLE_PATTERN,
  description: 'Who does it: the name or number by which the laboratory knows the person.',
  examples: ['mlopez'],
});
const comment = Type.Optional(
  Type.String({ maxLength: COMMENT_MAX_LENGTH, pattern: PRINTABLE_PATTERN, description: 'Kept with the change.' }),
);

const Signature = Type.Object(
  { reviewer, comment },
  { $id: 'Signature', title: 'Signature', additionalProperties: false },
);
const CellReview = Type.Object(
  {
    reviewer,
    comment,
    class: literals(CELL_TYPES, { description: 'What the person sees; the same class as before confirms it.' }),
  },
  { $id: 'CellReview', title: 'CellReview', additionalProperties: false },
);

export const reviewSchemas = [Signature, CellReview];

/** As bodies refer to them. */
export const SignatureBody = Type.Unsafe<Static<typeof Signature>>(Type.Ref('Signature'));
export const CellReviewBody = Type.Unsafe<Static<typeof CellReview>>(Type.Ref('CellReview'));
