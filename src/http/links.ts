/** Links of the public documents. Paths relative to the service's root, so that they hold behind any proxy. */
import type {
  AnalysisDocument,
  AnalysisStatus,
  AnalysisSummary,
  CellDocument,
  ImageDocument,
} from '../storage/documents.js';

export interface AnalysisLinks {
  readonly self: string;
  readonly cells: string;
  readonly changes: string;
  readonly fhir: string;
  readonly hl7: string;
}

export interface ImageLinks {
  readonly original: string;
  readonly mask: string;
  readonly overlay: string;
  readonly saliency: string;
  readonly cells: string;
}

export interface CellLinks {
  readonly crop: string;
  readonly mask: string;
  readonly cam: string;
}

export type Linked<Document, Links> = Document & { readonly links: Links };
export type LinkedAnalysis = Omit<AnalysisDocument, 'images'> & {
  readonly images: readonly Linked<ImageDocument, ImageLinks>[];
  readonly links: AnalysisLinks;
};

/** What `POST /analyze` answers at once. */
export interface AcceptedAnalysis {
  readonly id: string;
  readonly status: AnalysisStatus;
  readonly links: AnalysisLinks;
}

export function analysisLinks(id: string): AnalysisLinks {
  const self = `/analyses/${id}`;
  return {
    self,
    cells: `${self}/cells`,
    changes: `${self}/changes`,
    fhir: `${self}/fhir`,
    hl7: `${self}/hl7`,
  };
}

export function imageLinks(id: string, index: number): ImageLinks {
  const image = `/analyses/${id}/images/${index}`;
  return {
    original: `${image}/original`,
    mask: `${image}/mask.png`,
    overlay: `${image}/overlay.png`,
    saliency: `${image}/saliency.png`,
    cells: `/analyses/${id}/cells?image=${index}`,
  };
}

export function cellLinks(id: string, cellId: string): CellLinks {
  const cell = `/analyses/${id}/cells/${cellId}`;
  return { crop: `${cell}/crop.png`, mask: `${cell}/mask.png`, cam: `${cell}/cam.png` };
}

export function withAnalysisLinks(document: AnalysisDocument): LinkedAnalysis {
  return {
    ...document,
    // A result of a version that knew no signature.
    verification: document.verification ?? null,
    images: document.images.map((image) => ({ ...image, links: imageLinks(document.id, image.index) })),
    links: analysisLinks(document.id),
  };
}

export function withSummaryLinks(summary: AnalysisSummary): Linked<AnalysisSummary, AnalysisLinks> {
  return { ...summary, links: analysisLinks(summary.id) };
}

export function withCellLinks(id: string, cell: CellDocument): Linked<CellDocument, CellLinks> {
  return { ...cell, links: cellLinks(id, cell.id) };
}

/** The address of a list's next page: the same query with another cursor; null on the last page. */
export function nextPageLink(
  path: string,
  query: Readonly<Record<string, string | number | boolean | undefined>>,
  nextCursor: string | null,
): string | null {
  if (nextCursor === null) return null;
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && name !== 'cursor') parameters.set(name, String(value));
  }
  parameters.set('cursor', nextCursor);
  return `${path}?${parameters}`;
}
