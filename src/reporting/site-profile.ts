/**
 * What one site wants different in FHIR and HL7 v2: codes, units, reference ranges, names of systems. Read from a file at
 * the start (REPORT_PROFILE); every fault is found then, and named by where it stands. `docs/report-profile.example.yaml`
 * shows all of it.
 */
import { CELL_TYPE_INFO, WBC_CLASSES, type WbcClass } from '../hematology/cell-types.js';

export type FigureKey =
  | `${WbcClass}.percent`
  | `${WbcClass}.absolute`
  | 'total_wbc'
  | 'nrbc_per_100_wbc'
  | 'smudge_cells'
  | 'unidentified_cells'
  | 'review_reasons'
  | 'panel';

type Quantity = 'share' | 'concentration' | 'per_100_wbc' | 'cells' | 'none';

/** UCUM units by quantity, the usual one first, with what a value in that one is multiplied by. */
const UNITS: Readonly<Record<Quantity, ReadonlyMap<string, number>>> = {
  share: new Map([
    ['%', 1],
    ['1', 0.01],
  ]),
  concentration: new Map([
    ['10*9/L', 1],
    ['10*3/uL', 1],
    ['/uL', 1000],
  ]),
  per_100_wbc: new Map([['/100{WBCs}', 1]]),
  cells: new Map([['{cells}', 1]]),
  none: new Map(),
};

export interface FigureProfile {
  /** For people. */
  readonly text: string;
  /** LOINC; null: only the local code. */
  readonly loinc: string | null;
  readonly localCode: string;
  /** UCUM; null: the figure has no unit. */
  readonly unit: string | null;
  /** What the figure is multiplied by to be in that unit. */
  readonly factor: number;
  /** In that unit; null: none configured. */
  readonly range: { readonly low: number | null; readonly high: number | null } | null;
}

export interface SiteProfile {
  readonly figures: Readonly<Record<FigureKey, FigureProfile>>;
  readonly fhir: {
    /** URI of the local codes. */
    readonly codeSystem: string;
    /** URIs of the identifiers that came with the order; null: they are reported without a system. */
    readonly patientSystem: string | null;
    readonly orderSystem: string | null;
    readonly accessionSystem: string | null;
    readonly specimenSystem: string | null;
    readonly reviewerSystem: string | null;
  };
  readonly hl7: {
    /** Name of the local codes, as HL7 table 0396 wants them: 99 and three letters or digits. */
    readonly codingSystem: string;
    readonly sendingApplication: string;
    readonly sendingFacility: string;
    readonly receivingApplication: string;
    readonly receivingFacility: string;
    /** MSH-11: P production, T training, D debugging. */
    readonly processingId: 'P' | 'T' | 'D';
    /** Who gave PID-3 out. */
    readonly patientAuthority: string;
  };
}

function figure(
  text: string,
  localCode: string,
  quantity: Quantity,
  loinc: string | null = null,
): FigureProfile & { readonly quantity: Quantity } {
  const [unit = null] = UNITS[quantity].keys();
  return { text, loinc, localCode, unit, factor: 1, range: null, quantity };
}

/**
 * Percentages carry LOINC's code without a method, because LOINC has none for image analysis. Absolute counts,
 * erythroblasts and blasts have only codes that state an automated or a manual count, which this is not: they go out
 * with the local code until a site maps them (docs/decisions/0032-codes-in-reports.md).
 */
const FIGURES = {
  ...Object.fromEntries(
    WBC_CLASSES.flatMap((type) => {
      const { displayNamePlural: name, loinc } = CELL_TYPE_INFO[type];
      return [
        [`${type}.percent`, figure(`${name} per 100 leukocytes`, `${type}-percent`, 'share', loinc.percent)],
        [`${type}.absolute`, figure(`${name}, absolute count`, `${type}-absolute`, 'concentration')],
      ];
    }),
  ),
  total_wbc: figure('White blood cells counted in the smear', 'total-wbc', 'cells'),
  nrbc_per_100_wbc: figure('Erythroblasts per 100 leukocytes', 'nrbc-per-100-wbc', 'per_100_wbc'),
  smudge_cells: figure('Smudge cells seen in the smear', 'smudge-cells', 'cells'),
  unidentified_cells: figure('Cells without a name', 'unidentified-cells', 'cells'),
  review_reasons: figure('Reasons for review', 'review-reasons', 'none'),
  panel: figure('Leukocyte differential by image analysis', 'differential', 'none'),
} as Readonly<Record<FigureKey, ReturnType<typeof figure>>>;

export const DEFAULT_PROFILE: SiteProfile = {
  figures: Object.fromEntries(
    Object.entries(FIGURES).map(([key, { quantity: _, ...rest }]) => [key, rest]),
  ) as SiteProfile['figures'],
  fhir: {
    codeSystem: 'https://leukodiff.dev/fhir/CodeSystem/figures',
    patientSystem: null,
    orderSystem: null,
    accessionSystem: null,
    specimenSystem: null,
    reviewerSystem: null,
  },
  hl7: {
    codingSystem: '99LDF',
    sendingApplication: 'LEUKODIFF',
    sendingFacility: '',
    receivingApplication: '',
    receivingFacility: '',
    processingId: 'P',
    patientAuthority: '',
  },
};

/** A profile that cannot be used: every fault, each with its place. */
export class SiteProfileError extends Error {
  override readonly name = 'SiteProfileError';
  readonly faults: readonly string[];

  constructor(faults: readonly string[]) {
    super(faults.join('; '));
    this.faults = faults;
  }
}

/** Reads what a profile file holds. What it does not name stays as in `DEFAULT_PROFILE`. */
export function parseSiteProfile(input: unknown): SiteProfile {
  const faults: string[] = [];
  const root = entries(input ?? {}, '', ['figures', 'fhir', 'hl7'], faults);
  const figures = readFigures(root['figures'], faults);
  const fhir = readFhir(root['fhir'], faults);
  const hl7 = readHl7(root['hl7'], faults);
  if (faults.length > 0) throw new SiteProfileError(faults);
  return { figures, fhir, hl7 };
}

function readFigures(input: unknown, faults: string[]): SiteProfile['figures'] {
  const keys = Object.keys(FIGURES) as FigureKey[];
  const given = entries(input ?? {}, 'figures', keys, faults);
  const figures = { ...DEFAULT_PROFILE.figures };
  for (const key of keys) {
    if (given[key] === undefined) continue;
    const at = `figures.${key}`;
    const fields = entries(given[key], at, ['loinc', 'localCode', 'text', 'unit', 'range'], faults);
    const units = UNITS[FIGURES[key].quantity];
    const base = figures[key];
    const unit = text(fields['unit'], `${at}.unit`, /^/, 'a unit', faults) ?? base.unit;
    if (unit !== null && !units.has(unit)) {
      const known = [...units.keys()];
      faults.push(`${at}.unit must be ${known.length === 0 ? 'left out' : `one of ${known.join(', ')}`}`);
    }
    figures[key] = {
      text: text(fields['text'], `${at}.text`, PRINTABLE, 'text of 1 to 199 characters', faults) ?? base.text,
      loinc: readLoinc(fields['loinc'], `${at}.loinc`, base.loinc, faults),
      localCode:
        text(fields['localCode'], `${at}.localCode`, /^[A-Za-z0-9._-]{1,64}$/, 'letters, digits, . _ -', faults) ??
        base.localCode,
      unit,
      factor: (unit === null ? undefined : units.get(unit)) ?? 1,
      range: readRange(fields['range'], `${at}.range`, faults),
    };
  }
  return figures;
}

function readLoinc(input: unknown, at: string, fallback: string | null, faults: string[]): string | null {
  if (input === undefined) return fallback;
  // A site may prefer its own code alone.
  if (input === null) return null;
  const code = text(input, at, /^\d{1,7}-\d$/, 'a LOINC code such as 770-8, or null', faults);
  if (code === undefined) return null;
  if (!hasCheckDigit(code)) faults.push(`${at}: ${code} is no LOINC code, its check digit does not fit`);
  return code;
}

/** LOINC's check digit is Luhn's (modulus 10): LOINC Users' Guide, appendix C. */
function hasCheckDigit(code: string): boolean {
  const digits = [...code.replace('-', '')].reverse().map(Number);
  const sum = digits.reduce((total, digit, index) => {
    const weighted = index % 2 === 1 ? digit * 2 : digit;
    return total + (weighted > 9 ? weighted - 9 : weighted);
  }, 0);
  return sum % 10 === 0;
}

function readRange(input: unknown, at: string, faults: string[]): FigureProfile['range'] {
  if (input === undefined || input === null) return null;
  const fields = entries(input, at, ['low', 'high'], faults);
  const bound = (name: 'low' | 'high'): number | null => {
    const value = fields[name];
    if (value === undefined || value === null) return null;
    if (typeof value === 'number' && Number.isFinite(value) && value >= 0) return value;
    faults.push(`${at}.${name} must be a number of at least 0`);
    return null;
  };
  const range = { low: bound('low'), high: bound('high') };
  if (range.low !== null && range.high !== null && range.low > range.high) faults.push(`${at}: low is above high`);
  return range.low === null && range.high === null ? null : range;
}

function readFhir(input: unknown, faults: string[]): SiteProfile['fhir'] {
  const names = Object.keys(DEFAULT_PROFILE.fhir) as (keyof SiteProfile['fhir'])[];
  const given = entries(input ?? {}, 'fhir', names, faults);
  const uri = (name: keyof SiteProfile['fhir']): string | null =>
    text(given[name], `fhir.${name}`, /^[a-z][a-z0-9+.-]*:\S{1,200}$/i, 'a URI', faults) ?? DEFAULT_PROFILE.fhir[name];
  return {
    codeSystem: uri('codeSystem') ?? DEFAULT_PROFILE.fhir.codeSystem,
    patientSystem: uri('patientSystem'),
    orderSystem: uri('orderSystem'),
    accessionSystem: uri('accessionSystem'),
    specimenSystem: uri('specimenSystem'),
    reviewerSystem: uri('reviewerSystem'),
  };
}

function readHl7(input: unknown, faults: string[]): SiteProfile['hl7'] {
  const base = DEFAULT_PROFILE.hl7;
  const given = entries(input ?? {}, 'hl7', Object.keys(base), faults);
  const name = (key: keyof typeof base): string => {
    return text(given[key], `hl7.${key}`, /^[\x20-\x7e]{0,180}$/, 'text', faults) ?? base[key];
  };
  const codingSystem = text(
    given['codingSystem'],
    'hl7.codingSystem',
    /^99[A-Za-z0-9]{3}$/,
    '99 and three letters or digits',
    faults,
  );
  const processingId = text(given['processingId'], 'hl7.processingId', /^[PTD]$/, 'P, T or D', faults);
  return {
    codingSystem: codingSystem ?? base.codingSystem,
    sendingApplication: name('sendingApplication'),
    sendingFacility: name('sendingFacility'),
    receivingApplication: name('receivingApplication'),
    receivingFacility: name('receivingFacility'),
    processingId: processingId === 'T' || processingId === 'D' ? processingId : base.processingId,
    patientAuthority: name('patientAuthority'),
  };
}

/** Any script, no control characters. */
const PRINTABLE = /^\P{Cc}{1,199}$/u;

function entries(input: unknown, at: string, known: readonly string[], faults: string[]): Record<string, unknown> {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    faults.push(`${at === '' ? 'the file' : at} must be a mapping`);
    return {};
  }
  for (const key of Object.keys(input)) {
    if (!known.includes(key)) {
      faults.push(`${at === '' ? key : `${at}.${key}`} is not known here (there is: ${known.join(', ')})`);
    }
  }
  return { ...input };
}

/** Undefined where nothing is given, and where what is given is a fault. */
function text(input: unknown, at: string, pattern: RegExp, wanted: string, faults: string[]): string | undefined {
  if (input === undefined) return undefined;
  if (typeof input === 'string' && pattern.test(input)) return input;
  faults.push(`${at} must be ${wanted}`);
  return undefined;
}
