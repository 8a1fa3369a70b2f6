/**
 * A result as FHIR R4 (4.0.1): a DiagnosticReport with everything that it refers to, as one Bundle. Pure: the same
 * revision of a result always gives the same bytes. What the order named only by an identifier (patient, order) is
 * referred to by that identifier, because those resources are the LIS's.
 */
import { type Figure, methodOf, modelsOf, namesOf, type Report } from './figures.js';
import type { FigureProfile, SiteProfile } from './site-profile.js';

export interface FhirResource {
  readonly resourceType: string;
  readonly [field: string]: unknown;
}

interface BundleEntry {
  readonly fullUrl: string;
  readonly resource: FhirResource;
  readonly request?: { readonly method: string; readonly url: string; readonly ifNoneExist?: string };
}

export interface FhirBundle extends FhirResource {
  readonly resourceType: 'Bundle';
  readonly entry: readonly BundleEntry[];
}

const TERMINOLOGY = 'http://terminology.hl7.org/CodeSystem';
const LOINC = 'http://loinc.org';
const UCUM = 'http://unitsofmeasure.org';
/** Identifiers that are URIs themselves. */
const URI_SYSTEM = 'urn:ietf:rfc:3986';
const SHA256_SYSTEM = 'https://leukodiff.dev/fhir/NamingSystem/sha-256';
const REVISION_SYSTEM = 'https://leukodiff.dev/fhir/NamingSystem/revision';

export interface FhirOptions {
  readonly profile: SiteProfile;
  /** Where others reach this service: for links to pictures. Undefined: they are relative to its root. */
  readonly publicUrl?: string | undefined;
}

/** The report as a Bundle to read. */
export function fhirBundle(report: Report, options: FhirOptions): FhirBundle {
  return bundle(report, 'collection', entriesOf(report, options));
}

/**
 * The report as a transaction for a FHIR server. Every resource is found by its identifier, so sending it twice, or a
 * later revision, updates what the first created (https://hl7.org/fhir/R4/http.html#cond-update).
 */
export function fhirTransaction(report: Report, options: FhirOptions): FhirBundle {
  const entries = entriesOf(report, options).map((entry) => ({ ...entry, request: requestOf(entry.resource) }));
  return bundle(report, 'transaction', entries);
}

function bundle(report: Report, type: string, entry: readonly BundleEntry[]): FhirBundle {
  return {
    resourceType: 'Bundle',
    identifier: { system: URI_SYSTEM, value: `urn:uuid:${report.analysis.id}` },
    type,
    // R4 allows it in every bundle; the time of the revision, not of the request, so that it can be cached.
    timestamp: report.verification.changedAt,
    entry,
  };
}

function requestOf(resource: FhirResource): NonNullable<BundleEntry['request']> {
  const { resourceType: type } = resource;
  const token = (system: string, value: string): string => encodeURIComponent(`${system}|${value}`);
  const [tag] = (resource['meta'] as { tag?: readonly { system: string; code: string }[] } | undefined)?.tag ?? [];
  // A Provenance has no identifier, and each revision has one of its own.
  if (tag !== undefined) return { method: 'POST', url: type, ifNoneExist: `_tag=${token(tag.system, tag.code)}` };
  const [identifier] = resource['identifier'] as readonly { system: string; value: string }[];
  if (identifier === undefined) throw new RangeError(`${type} has no identifier to find it by.`);
  const query = `identifier=${token(identifier.system, identifier.value)}`;
  // The device is the same for all reports of one model.
  if (type === 'Device') return { method: 'POST', url: type, ifNoneExist: query };
  return { method: 'PUT', url: `${type}?${query}` };
}

function entriesOf(report: Report, { profile, publicUrl }: FhirOptions): BundleEntry[] {
  const { analysis, verification, review } = report;
  const id = (part: string): string => derivedUuid(analysis.id, part);
  const reference = (part: string): { reference: string } => ({ reference: `urn:uuid:${id(part)}` });
  const own = (part: string) => [{ system: URI_SYSTEM, value: `urn:uuid:${id(part)}` }];
  const entry = (part: string, resource: FhirResource): BundleEntry => ({
    fullUrl: `urn:uuid:${id(part)}`,
    resource: compact(resource) as FhirResource,
  });

  const context = {
    subject: byIdentifier('Patient', profile.fhir.patientSystem, analysis.subjectId),
    basedOn: optional(byIdentifier('ServiceRequest', ...orderIdentifier(report, profile))),
    effectiveDateTime: analysis.collectedAt,
    issued: verification.changedAt,
    status: verification.status,
  };
  const signer =
    verification.signedBy === null
      ? undefined
      : {
          type: 'Practitioner',
          ...(profile.fhir.reviewerSystem === null
            ? {}
            : { identifier: { system: profile.fhir.reviewerSystem, value: verification.signedBy } }),
          display: verification.signedBy,
        };
  const method = methodOf(report);
  const observation = (part: string, figure: FigureProfile, value: Record<string, unknown>): BundleEntry =>
    entry(part, {
      resourceType: 'Observation',
      identifier: own(part),
      ...context,
      category: [coded('observation-category', 'laboratory', 'Laboratory')],
      code: figureCode(figure, profile),
      performer: optional(signer),
      method: { coding: [{ system: profile.fhir.codeSystem, code: method.code }], text: method.text },
      specimen: reference('specimen'),
      device: analysis.model === null ? undefined : reference('device'),
      ...value,
    });

  const observations = report.figures.map((figure) =>
    observation(figure.key, figure.profile, figureValue(figure, profile)),
  );
  const reasons = observation('review_reasons', profile.figures.review_reasons, {
    valueInteger: review.reasons.length,
    interpretation: review.required ? [coded('v3-ObservationInterpretation', 'A', 'Abnormal')] : undefined,
    component: review.reasons.map((reason) => ({
      code: { coding: [{ system: profile.fhir.codeSystem, code: reason.code }], text: reason.code },
      valueString: reason.message,
    })),
  });
  const results = [...observations, reasons];
  const pictures = analysis.images
    .filter((image) => image.status === 'completed')
    .map((image) =>
      entry(`overlay-${image.index}`, {
        resourceType: 'Media',
        identifier: own(`overlay-${image.index}`),
        basedOn: context.basedOn,
        status: 'completed',
        type: coded('media-type', 'image', 'Image'),
        subject: context.subject,
        device: analysis.model === null ? undefined : reference('device'),
        issued: verification.changedAt,
        width: image.width,
        height: image.height,
        content: {
          contentType: 'image/png',
          url: `${(publicUrl ?? '').replace(/\/+$/, '')}/analyses/${analysis.id}/images/${image.index}/overlay.png`,
          title: `Field ${image.index + 1}, found cells outlined and named`,
        },
      }),
    );

  return [
    entry('report', {
      resourceType: 'DiagnosticReport',
      identifier: own('report'),
      ...context,
      category: [coded('v2-0074', 'HM', 'Hematology')],
      code: figureCode(profile.figures.panel, profile),
      resultsInterpreter: optional(signer),
      specimen: [reference('specimen')],
      result: results.map(({ fullUrl }) => ({ reference: fullUrl })),
      media: pictures.map(({ fullUrl }) => ({ link: { reference: fullUrl } })),
      conclusion: conclusionOf(report),
    }),
    ...results,
    entry('specimen', {
      resourceType: 'Specimen',
      identifier: [
        ...own('specimen'),
        ...(analysis.specimenId === null ? [] : [identifierOf(profile.fhir.specimenSystem, analysis.specimenId)]),
      ],
      accessionIdentifier:
        analysis.accessionNumber === null
          ? undefined
          : identifierOf(profile.fhir.accessionSystem, analysis.accessionNumber),
      type: { ...coded('v2-0487', 'BLD', 'Whole blood'), text: 'Blood smear' },
      subject: context.subject,
      request: context.basedOn,
      collection: analysis.collectedAt === null ? undefined : { collectedDateTime: analysis.collectedAt },
    }),
    ...(analysis.model === null
      ? []
      : [
          entry('device', {
            resourceType: 'Device',
            identifier: [{ system: SHA256_SYSTEM, value: analysis.model.sha256 }],
            status: 'active',
            deviceName: [{ name: `Leukodiff ${analysis.model.name}`, type: 'model-name' }],
            modelNumber: analysis.model.name,
            version: [
              { type: { text: 'model version' }, value: analysis.model.version },
              { type: { text: 'SHA-256 of the model files' }, value: analysis.model.sha256 },
            ],
          }),
        ]),
    ...pictures,
    entry(`provenance-${verification.revision}`, {
      resourceType: 'Provenance',
      meta: { tag: [{ system: REVISION_SYSTEM, code: `${analysis.id}-${verification.revision}` }] },
      target: [reference('report'), ...results.map(({ fullUrl }) => ({ reference: fullUrl }))],
      occurredDateTime: report.completedAt,
      recorded: verification.changedAt,
      agent: [
        {
          type: coded('provenance-participant-type', 'assembler', 'Assembler'),
          who:
            analysis.model === null
              ? { display: 'Leukodiff' }
              : { ...reference('device'), display: namesOf(modelsOf(analysis)) },
        },
        ...optionalList(signer).map((who) => ({
          type: coded('provenance-participant-type', 'verifier', 'Verifier'),
          who,
        })),
      ],
      entity: [
        ...modelsOf(analysis).map((model) => ({
          role: 'source',
          what: {
            identifier: { system: SHA256_SYSTEM, value: model.sha256 },
            display: `Model ${model.name} ${model.version}`,
          },
        })),
        ...analysis.images.map((image) => ({
          role: 'source',
          what: { identifier: { system: SHA256_SYSTEM, value: image.sha256 }, display: `Field ${image.index + 1}` },
        })),
      ],
    }),
  ];
}

/** The order number, or the accession number where the order came without one. */
function orderIdentifier({ analysis }: Report, { fhir }: SiteProfile): [string | null, string | null] {
  return analysis.orderId !== null
    ? [fhir.orderSystem, analysis.orderId]
    : [fhir.accessionSystem, analysis.accessionNumber];
}

function figureCode(figure: FigureProfile, { fhir }: SiteProfile): object {
  return {
    coding: [
      // Without `display`: that would have to be LOINC's own name, word for word.
      ...(figure.loinc === null ? [] : [{ system: LOINC, code: figure.loinc }]),
      { system: fhir.codeSystem, code: figure.localCode, display: figure.text },
    ],
    text: figure.text,
  };
}

function figureValue({ profile: figure, value, interval, count, interpretation }: Figure, { fhir }: SiteProfile) {
  const quantity = (amount: number): object => ({
    value: amount,
    ...(figure.unit === null ? {} : { unit: figure.unit, system: UCUM, code: figure.unit }),
  });
  const part = (code: string, text: string, measured: object) => ({
    code: { coding: [{ system: fhir.codeSystem, code, display: text }], text },
    valueQuantity: measured,
  });
  return {
    ...(value === null
      ? { dataAbsentReason: coded('data-absent-reason', 'unknown', 'Unknown') }
      : { valueQuantity: quantity(value) }),
    interpretation:
      interpretation === null
        ? undefined
        : [coded('v3-ObservationInterpretation', interpretation, INTERPRETATIONS[interpretation])],
    referenceRange:
      figure.range === null
        ? undefined
        : [
            {
              low: figure.range.low === null ? undefined : quantity(figure.range.low),
              high: figure.range.high === null ? undefined : quantity(figure.range.high),
            },
          ],
    component: [
      ...(count === null
        ? []
        : [part('cells', 'Cells counted', { value: count, unit: 'cells', system: UCUM, code: '{cells}' })]),
      ...(interval === null
        ? []
        : [
            part('ci95-low', 'Lower bound of the 95 % interval', quantity(interval.low)),
            part('ci95-high', 'Upper bound of the 95 % interval', quantity(interval.high)),
          ]),
    ],
  };
}

const INTERPRETATIONS = { L: 'Low', H: 'High', N: 'Normal', A: 'Abnormal' } as const;

function conclusionOf({ differential, review, verification }: Report): string {
  const counted = `${differential.totalWbc} white blood cells counted. ${differential.countingRule}`;
  const state = {
    preliminary: 'Not reviewed by a person.',
    final: 'Reviewed and signed.',
    amended: 'Changed after it was signed, and not signed since.',
    corrected: 'Corrected after it was signed, and signed again.',
  }[verification.status];
  return [state, counted, ...review.reasons.map((reason) => reason.message)].join(' ');
}

function coded(system: string, code: string, display: string): { coding: object[] } {
  return { coding: [{ system: `${TERMINOLOGY}/${system}`, code, display }] };
}

function identifierOf(system: string | null, value: string): object {
  return system === null ? { value } : { system, value };
}

function byIdentifier(type: string, system: string | null, value: string | null): object | undefined {
  return value === null ? undefined : { type, identifier: identifierOf(system, value) };
}

function optional<T>(value: T | undefined): T[] | undefined {
  return value === undefined ? undefined : [value];
}

function optionalList<T>(value: T | null | undefined): T[] {
  return value == null ? [] : [value];
}

/** FHIR knows neither null nor empty lists: what is not there is left out. */
function compact(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(compact);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== undefined && field !== null && !(Array.isArray(field) && field.length === 0))
      .map(([name, field]) => [name, compact(field)]),
  );
}

/**
 * A UUID (version 8, RFC 9562: made as its maker likes) that is the same whenever the same part of the same analysis is
 * reported. The last 48 bits are the analysis id's, moved by a hash of the part's name (FNV-1a).
 */
export function derivedUuid(analysisId: string, part: string): string {
  let hash = 0xcbf29ce484222325n;
  for (const character of part) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(character.codePointAt(0) ?? 0)) * 0x100000001b3n);
  }
  const tail = BigInt(`0x${analysisId.slice(24)}`) ^ (hash >> 16n);
  return `${analysisId.slice(0, 14)}8${analysisId.slice(15, 24)}${tail.toString(16).padStart(12, '0')}`.toLowerCase();
}
