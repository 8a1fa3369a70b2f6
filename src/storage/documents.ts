/**
 * The documents that storage gives out, with the field names of the public API. They carry no links: the HTTP layer
 * adds those. Times are ISO 8601 in UTC. A finished analysis is stored as its document, so this file is also the
 * format of stored results: fields may be added, never renamed.
 */
import type { CellType } from '../hematology/cell-types.js';
import type { Differential } from '../hematology/differential.js';
import type { Review } from '../hematology/review-rules.js';
import type { ReportStatus, Verification } from '../hematology/verification.js';
import type { Box, CellFlag, Graded, ImageQuality, ModelInfo, Morphology, ScaleSource } from '../vision/types.js';

export const ANALYSIS_STATUSES = ['queued', 'processing', 'completed', 'failed'] as const;
export type AnalysisStatus = (typeof ANALYSIS_STATUSES)[number];

export const PRIORITIES = ['routine', 'stat'] as const;
export type Priority = (typeof PRIORITIES)[number];

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };

/** Why an image or an analysis failed: the part of an RFC 9457 problem that can be stored. */
export interface StoredProblem {
  /** Slug below `https://leukodiff.dev/problems/`. */
  readonly code: string;
  readonly title: string;
  /** What happened and what to do about it. Never carries an accession number. */
  readonly detail: string;
}

/** What came with the order. Everything here is opaque to the analysis but `targetCells` and `wbcCount`. */
export interface OrderDocument {
  readonly accessionNumber: string | null;
  readonly specimenId: string | null;
  readonly orderId: string | null;
  readonly subjectId: string | null;
  readonly site: string | null;
  readonly collectedAt: string | null;
  readonly callbackUrl: string | null;
  readonly priority: Priority;
  readonly targetCells: number;
  /** 10*9/L. */
  readonly wbcCount: number | null;
  readonly metadata: JsonValue;
}

export interface ImageDocument {
  readonly index: number;
  readonly filename: string;
  readonly contentType: string;
  readonly byteLength: number;
  readonly sha256: string;
  /**
   * The image with the same bytes that came first in this laboratory, in this order or an earlier one; null: none. It may
   * have been removed since. Absent in results of versions that did not look.
   */
  readonly duplicateOf?: { readonly analysisId: string; readonly index: number } | null;
  /**
   * Index of the image of this order with the same bytes, whose cells are counted in its stead; null: none. Absent in
   * results of versions that counted both.
   */
  readonly repeatOf?: number | null;
  /** Pixels of the posted image; null until known. */
  readonly width: number | null;
  readonly height: number | null;
  readonly status: AnalysisStatus;
  /** Null when unknown, and until the image was analysed. */
  readonly micronsPerPixel: number | null;
  /** Where `micronsPerPixel` came from; null until the image was analysed. */
  readonly scaleSource: ScaleSource | null;
  /** 0–1. */
  readonly scaleConfidence: number | null;
  readonly quality: ImageQuality | null;
  /** Mean over the image's cells, 0–1; null without cells. */
  readonly saliencyConsistency: number | null;
  /** Cells of every class; null until the image was analysed. */
  readonly cellCount: number | null;
  /** The model that analysed it: during an update workers use different ones. Null until it was; absent in older results. */
  readonly model?: ModelInfo | null;
  /** Stage durations in milliseconds; null until the image was analysed. */
  readonly timingsMs: Readonly<Record<string, number>> | null;
  /** Only on a failed image. */
  readonly problem: StoredProblem | null;
}

export interface AnalysisDocument extends OrderDocument {
  readonly id: string;
  readonly status: AnalysisStatus;
  readonly createdAt: string;
  readonly startedAt: string | null;
  readonly completedAt: string | null;
  /** The last image's; `images[].model` names each one's. */
  readonly model: ModelInfo | null;
  readonly images: readonly ImageDocument[];
  readonly differential: Differential | null;
  readonly review: Review | null;
  /** What people did to the result; null until completed. */
  readonly verification: Verification | null;
  /** Only on a failed analysis. */
  readonly problem: StoredProblem | null;
}

/** One line of `GET /analyses`. */
export interface AnalysisSummary {
  readonly id: string;
  readonly status: AnalysisStatus;
  readonly accessionNumber: string | null;
  readonly specimenId: string | null;
  readonly orderId: string | null;
  readonly priority: Priority;
  readonly createdAt: string;
  readonly completedAt: string | null;
  readonly imageCount: number;
  /** Null until completed. */
  readonly totalWbc: number | null;
  readonly reviewRequired: boolean | null;
  /** Null until completed. */
  readonly verificationStatus: ReportStatus | null;
}

export interface CellDocument {
  /** `<image index>-<n>`, stable over repeated runs. */
  readonly id: string;
  /** Index of its image. */
  readonly image: number;
  /** Pixels of the posted image. */
  readonly box: Box;
  readonly areaUm2: number | null;
  /** As the model named it. */
  readonly class: CellType;
  /** The name that a person gave or confirmed, which then counts; null: nobody has looked at it. */
  readonly reviewedClass: CellType | null;
  readonly reviewedBy: string | null;
  readonly reviewedAt: string | null;
  readonly confidence: number;
  readonly probabilities: Readonly<Record<string, number>>;
  readonly subtype: Graded | null;
  readonly morphology: Morphology | null;
  readonly saliencyConsistency: number;
  /** Null for cells that an earlier model found. */
  readonly rejectScore: number | null;
  readonly flags: readonly CellFlag[];
  /** Whether the cell entered the differential: its place passes the border rule, and its image is not repeated. */
  readonly counted: boolean;
}

/** One act of a person on a result. */
export interface ReviewChangeDocument {
  /** The revision of the result that it made. */
  readonly revision: number;
  readonly kind: 'cell' | 'signature';
  readonly reviewer: string;
  readonly at: string;
  readonly comment: string | null;
  /** Id of the cell that was looked at; null for a signature. */
  readonly cell: string | null;
  readonly classBefore: CellType | null;
  readonly classAfter: CellType | null;
  readonly statusBefore: ReportStatus;
  readonly statusAfter: ReportStatus;
  /** What was signed; null for a cell. */
  readonly differential: Differential | null;
}
