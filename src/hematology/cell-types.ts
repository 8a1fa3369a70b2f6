/** The cell types that a result can name, in the order in which a differential lists them. */
export const CELL_TYPES = [
  'neutrophil',
  'lymphocyte',
  'monocyte',
  'eosinophil',
  'basophil',
  'immature_granulocyte',
  'blast',
  'erythroblast',
  'platelet',
  'smudge',
  'artefact',
  'unidentified',
] as const;

export type CellType = (typeof CELL_TYPES)[number];

/** The classes whose counts add up to `totalWbc`; every percentage of a differential is a share of that total. */
export const WBC_CLASSES = [
  'neutrophil',
  'lymphocyte',
  'monocyte',
  'eosinophil',
  'basophil',
  'immature_granulocyte',
  'blast',
] as const satisfies readonly CellType[];

export type WbcClass = (typeof WBC_CLASSES)[number];

/**
 * What is found beside them: counted, listed, outside the total. `unidentified` is a white cell that the model declines
 * to name: it stays apart until a person names it, and it makes review necessary (docs/decisions/0006).
 */
export const OTHER_CLASSES = [
  'erythroblast',
  'platelet',
  'smudge',
  'artefact',
  'unidentified',
] as const satisfies readonly CellType[];

export type OtherClass = (typeof OTHER_CLASSES)[number];

/**
 * LOINC codes of one class, by method. Null: LOINC has none that was looked up. `percent` and `absolute` are what an
 * image analysis may use before a person reviewed it: LOINC knows no image-analysis method, so the code without a
 * method is the honest one; the method itself goes into the report.
 */
export interface LoincCodes {
  /** Share of leukocytes in %, method not specified. */
  readonly percent: string | null;
  /** Share of leukocytes in %, automated count. */
  readonly percentAutomated: string | null;
  /** Share of leukocytes in %, manual count. */
  readonly percentManual: string | null;
  /** 10*9/L, automated count. */
  readonly absoluteAutomated: string | null;
}

export interface CellTypeInfo {
  /** For people: `Immature granulocyte`. */
  readonly displayName: string;
  /** For people, more than one: `Immature granulocytes`. */
  readonly displayNamePlural: string;
  /** For tables and overlays, at most four characters; unique. */
  readonly shortName: string;
  /** Whether its count belongs to `totalWbc`. */
  readonly isWbc: boolean;
  readonly loinc: LoincCodes;
}

const NO_LOINC: LoincCodes = {
  percent: null,
  percentAutomated: null,
  percentManual: null,
  absoluteAutomated: null,
};

export const CELL_TYPE_INFO: Readonly<Record<CellType, CellTypeInfo>> = {
  neutrophil: {
    displayName: 'Neutrophil',
    displayNamePlural: 'Neutrophils',
    shortName: 'NEU',
    isWbc: true,
    loinc: {
      percent: '26511-6',
      percentAutomated: '770-8',
      percentManual: '23761-0',
      absoluteAutomated: '751-8',
    },
  },
  lymphocyte: {
    displayName: 'Lymphocyte',
    displayNamePlural: 'Lymphocytes',
    shortName: 'LYM',
    isWbc: true,
    loinc: {
      percent: '26478-8',
      percentAutomated: '736-9',
      percentManual: '737-7',
      absoluteAutomated: '731-0',
    },
  },
  monocyte: {
    displayName: 'Monocyte',
    displayNamePlural: 'Monocytes',
    shortName: 'MONO',
    isWbc: true,
    loinc: {
      percent: '26485-3',
      percentAutomated: '5905-5',
      percentManual: '744-3',
      absoluteAutomated: '742-7',
    },
  },
  eosinophil: {
    displayName: 'Eosinophil',
    displayNamePlural: 'Eosinophils',
    shortName: 'EOS',
    isWbc: true,
    loinc: {
      percent: '26450-7',
      percentAutomated: '713-8',
      percentManual: '714-6',
      absoluteAutomated: '711-2',
    },
  },
  basophil: {
    displayName: 'Basophil',
    displayNamePlural: 'Basophils',
    shortName: 'BASO',
    isWbc: true,
    loinc: {
      percent: '30180-4',
      percentAutomated: '706-2',
      percentManual: '707-0',
      absoluteAutomated: '704-7',
    },
  },
  // Promyelocytes, myelocytes and metamyelocytes in one class: LOINC's codes are for each alone.
  immature_granulocyte: {
    displayName: 'Immature granulocyte',
    displayNamePlural: 'Immature granulocytes',
    shortName: 'IG',
    isWbc: true,
    loinc: NO_LOINC,
  },
  blast: {
    displayName: 'Blast',
    displayNamePlural: 'Blasts',
    shortName: 'BLST',
    isWbc: true,
    loinc: { percent: null, percentAutomated: null, percentManual: '709-6', absoluteAutomated: null },
  },
  erythroblast: {
    displayName: 'Erythroblast',
    displayNamePlural: 'Erythroblasts',
    shortName: 'NRBC',
    isWbc: false,
    loinc: NO_LOINC,
  },
  platelet: {
    displayName: 'Platelet',
    displayNamePlural: 'Platelets',
    shortName: 'PLT',
    isWbc: false,
    loinc: NO_LOINC,
  },
  smudge: {
    displayName: 'Smudge cell',
    displayNamePlural: 'Smudge cells',
    shortName: 'SMDG',
    isWbc: false,
    loinc: NO_LOINC,
  },
  artefact: {
    displayName: 'Artefact',
    displayNamePlural: 'Artefacts',
    shortName: 'ART',
    isWbc: false,
    loinc: NO_LOINC,
  },
  unidentified: {
    displayName: 'Unidentified cell',
    displayNamePlural: 'Unidentified cells',
    shortName: '?',
    isWbc: false,
    loinc: NO_LOINC,
  },
};

/** LOINC codes that stand for a whole differential or for a figure beside its classes. */
export const DIFFERENTIAL_LOINC = {
  /** Erythroblasts per 100 leukocytes, automated count. */
  nrbcPer100WbcAutomated: '58413-6',
  /** Panel: differential, manual count. */
  panelManual: '24318-8',
  /** Panel: differential, automated count. */
  panelAutomated: '57782-5',
} as const;

export function isCellType(value: string): value is CellType {
  return (CELL_TYPES as readonly string[]).includes(value);
}

export function isWbcClass(type: CellType): type is WbcClass {
  return CELL_TYPE_INFO[type].isWbc;
}
