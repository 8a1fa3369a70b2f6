/**
 * The audit trail as FHIR R4 (https://hl7.org/fhir/R4/auditevent.html), for a hospital's audit repository (IHE ATNA/BALP
 * read the same resource). Pure.
 */

/** An entry of the trail; what storage gives out fits. */
export interface AuditTrailEntry {
  readonly id: string;
  readonly at: string;
  readonly laboratory: string | null;
  readonly actorKind: string;
  readonly actorId: string | null;
  readonly operation: string;
  readonly method: string | null;
  readonly subjectId: string | null;
  readonly status: number | null;
  readonly outcome: 'success' | 'refused' | 'failed';
  readonly remote: string | null;
  readonly requestId: string | null;
}

interface Coding {
  readonly system: string;
  readonly code: string;
  readonly display: string;
}

export interface AuditEvent {
  readonly resourceType: 'AuditEvent';
  readonly id: string;
  readonly type: Coding;
  readonly subtype: readonly Coding[];
  readonly action: 'C' | 'R' | 'U' | 'D' | 'E';
  readonly recorded: string;
  readonly outcome: '0' | '4' | '8';
  readonly outcomeDesc: string;
  readonly agent: readonly object[];
  readonly source: object;
  readonly entity?: readonly object[];
}

export interface AuditBundle {
  readonly resourceType: 'Bundle';
  readonly type: 'searchset';
  readonly link: readonly { readonly relation: 'self' | 'next'; readonly url: string }[];
  /** FHIR has no empty lists: absent where there is nothing. */
  readonly entry?: readonly { readonly fullUrl: string; readonly resource: AuditEvent }[];
}

const TYPE: Coding = {
  system: 'http://terminology.hl7.org/CodeSystem/audit-event-type',
  code: 'rest',
  display: 'RESTful Operation',
};
/** What the service does by itself is no request. */
const APPLICATION: Coding = {
  system: 'http://dicom.nema.org/resources/ontology/DCM',
  code: '110100',
  display: 'Application Activity',
};
/** Ids that mean something within this service alone. */
const ACTOR_SYSTEM = 'https://leukodiff.dev/fhir/actor';
const OPERATION_SYSTEM = 'https://leukodiff.dev/fhir/operation';

const ACTIONS: Readonly<Record<string, AuditEvent['action']>> = {
  GET: 'R',
  HEAD: 'R',
  POST: 'C',
  PUT: 'U',
  PATCH: 'U',
  DELETE: 'D',
};

/** AuditEvent's outcome: 0 success, 4 minor failure (the caller's), 8 serious failure (the service's). */
const OUTCOMES = { success: '0', refused: '4', failed: '8' } as const;

export function auditEvent(entry: AuditTrailEntry): AuditEvent {
  const { actorId, actorKind, laboratory, method, outcome, remote, requestId, status, subjectId } = entry;
  const details = [
    ...(requestId === null ? [] : [{ type: 'request-id', valueString: requestId }]),
    ...(status === null ? [] : [{ type: 'http-status', valueString: String(status) }]),
  ];
  return {
    resourceType: 'AuditEvent',
    id: entry.id,
    type: method === null ? APPLICATION : TYPE,
    subtype: [{ system: OPERATION_SYSTEM, code: entry.operation, display: entry.operation }],
    action: method === null ? (entry.operation.startsWith('remove') ? 'D' : 'E') : (ACTIONS[method] ?? 'E'),
    recorded: entry.at,
    outcome: OUTCOMES[outcome],
    outcomeDesc: status === null ? outcome : `${outcome} (HTTP ${status})`,
    agent: [
      {
        type: {
          coding: [
            {
              system: 'http://terminology.hl7.org/CodeSystem/extra-security-role-type',
              code: 'dataprocessor',
              display: 'data processor',
            },
          ],
          text: actorKind,
        },
        who: {
          identifier: { system: ACTOR_SYSTEM, value: actorId ?? actorKind },
          display: laboratory === null ? actorKind : `${actorKind} of the laboratory ${laboratory}`,
        },
        requestor: true,
        ...(remote === null ? {} : { network: { address: remote, type: '2' } }),
      },
    ],
    source: {
      observer: { display: 'Leukodiff' },
      type: [
        {
          system: 'http://terminology.hl7.org/CodeSystem/security-source-type',
          code: '4',
          display: 'Application Server',
        },
      ],
    },
    ...(subjectId === null && details.length === 0
      ? {}
      : {
          entity: [
            {
              ...(subjectId === null ? {} : { what: { identifier: identifierOf(subjectId) } }),
              type: {
                system: 'http://terminology.hl7.org/CodeSystem/audit-entity-type',
                code: '2',
                display: 'System Object',
              },
              ...(details.length === 0 ? {} : { detail: details }),
            },
          ],
        }),
  };
}

/** A page of the trail. @param links Addresses of this page and of the next; null: this is the last. */
export function auditBundle(
  entries: readonly AuditTrailEntry[],
  links: { readonly self: string; readonly next: string | null },
): AuditBundle {
  return {
    resourceType: 'Bundle',
    type: 'searchset',
    link: [
      { relation: 'self', url: links.self },
      ...(links.next === null ? [] : [{ relation: 'next' as const, url: links.next }]),
    ],
    ...(entries.length === 0
      ? {}
      : { entry: entries.map((entry) => ({ fullUrl: `urn:uuid:${entry.id}`, resource: auditEvent(entry) })) }),
  };
}

function identifierOf(id: string): { system: string; value: string } {
  return id.length === 36
    ? { system: 'urn:ietf:rfc:3986', value: `urn:uuid:${id}` }
    : { system: ACTOR_SYSTEM, value: id };
}
