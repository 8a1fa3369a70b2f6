"""Numbers that the networks, the export and the service have to agree on. They travel to the service in `manifest.json`."""

# The two physical scales. A red blood cell is about 7.2 µm across on a dried smear.
RBC_DIAMETER_UM = 7.2
FIELD_MICRONS_PER_PIXEL = 0.48  # saliency network: a red cell is 15 px, a neutrophil about 31 px
CELL_MICRONS_PER_PIXEL = 0.16  # SG-CLDFF network: 160 px show 25.6 µm, 3.6 red cells
CROP_SIZE = 160

# Saliency network.
FIELD_MULTIPLE = 16
FIELD_STRIDE = 2
SCALE_FIRST_OCTAVE = -2.0
SCALE_OCTAVES_PER_BIN = 0.25
SCALE_BINS = 17

# SG-CLDFF network.
MASK_STRIDE = 2
CAM_SIZE = CROP_SIZE // 8

CLASSES = [
    "neutrophil",
    "lymphocyte",
    "monocyte",
    "eosinophil",
    "basophil",
    "immature_granulocyte",
    "blast",
    "erythroblast",
    "platelet",
    "artefact",
]
CLASS_INDEX = {name: i for i, name in enumerate(CLASSES)}
FIVE_PART = CLASSES[:5]
# Subtracted from a class's logit in the exported graph. One crop in ten shows a blast in training, from one laboratory; in a
# laboratory's day hardly any does (decision 0019). 1 nat takes its prior from 1:10 to 1:27.
PRIOR_CORRECTION = {"blast": 1.0}

# Morphology, as WBCAtt describes it (Tsutsui et al. 2023, arXiv:2306.13531), and the finer classes of PBC. Names are those of the
# service's answer; the values are in the order of the network's outputs.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "cellSize": ("small", "big"),
    "cellShape": ("round", "irregular"),
    "nucleusShape": (
        "segmented-multilobed",
        "segmented-bilobed",
        "unsegmented-band",
        "unsegmented-indented",
        "unsegmented-round",
        "irregular",
    ),
    "nuclearCytoplasmicRatio": ("low", "high"),
    "chromatinDensity": ("densely", "loosely"),
    "cytoplasmVacuole": ("no", "yes"),
    "cytoplasmTexture": ("clear", "frosted"),
    "cytoplasmColour": ("light blue", "blue", "purple blue"),
    "granuleType": ("nil", "small", "round", "coarse"),
    "granuleColour": ("nil", "pink", "purple", "red"),
    "granularity": ("no", "yes"),
    "subtype": ("band", "segmented", "promyelocyte", "myelocyte", "metamyelocyte"),
}
# Which values of `subtype` a class may have.
SUBTYPES = {"neutrophil": ("band", "segmented"), "immature_granulocyte": ("promyelocyte", "myelocyte", "metamyelocyte")}
ATTRIBUTE_OUTPUTS = sum(len(values) for values in ATTRIBUTES.values())

# Label maps: what a pixel is known to be.
BACKGROUND, CYTOPLASM, NUCLEUS, WBC_PART_UNKNOWN, UNKNOWN = 0, 1, 2, 3, 255
