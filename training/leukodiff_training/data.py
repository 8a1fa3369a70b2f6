"""The data sets as one list of `Field`s at one physical scale.

Every image, a whole field or a single-cell crop, becomes a `Field`: RGB at 0.16 µm per pixel, the white cells that are
known in it, and what is known about each pixel. Labels are partial in every set, so each says what it knows and no more:
a loss counts only where its label exists.

The first call reads and resizes everything (about two minutes) and keeps it in one pickle in the cache folder.
"""

from __future__ import annotations

import argparse
import csv
import pickle
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from .constants import (
    BACKGROUND,
    CELL_MICRONS_PER_PIXEL,
    CLASSES,
    CYTOPLASM,
    NUCLEUS,
    RBC_DIAMETER_UM,
    UNKNOWN,
    WBC_PART_UNKNOWN,
)

CACHE_VERSION = 9

# Red cell diameter in stored pixels where a laboratory has one scale, measured on isolated round red cells.
# zheng1 shows too few whole red cells: there it follows from its neutrophils (76 px; 2.05 red cells in PBC and BCISC).
RBC_PX = {"pbc": 51.5, "zheng1": 36.5, "sigtuple": 31.0, "allidb_1712": 71.0, "allidb_2592": 56.0}
BCISC_RBC_PX = {"1": 56.6, "2": 54.2, "3": 56.4, "4": 60.8, "5": 57.5, "6": 48.5, "7": 57.0, "8": 59.0}
# Drawn boxes stand a little off the cell: box side to red cell diameter.
BCCD_BOX_TO_DIAMETER = 0.95
RAABIN_BOX_TO_DIAMETER = 0.92


@dataclass
class Cell:
    """One known white cell (or erythroblast or platelet of a PBC crop); coordinates in pixels of the field at 0.16 µm."""

    x: float
    y: float
    label: str | None = None  # one of CLASSES, None where unknown
    weight: float = 1.0  # trust in `label`
    not_blast: bool = False  # known not to be a blast although its class is unknown
    box: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1 where drawn by a person
    instance: int = 0  # its number in Field.instances; 0 where it has no mask
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class Field:
    lab: str
    name: str
    split: str
    image: np.ndarray  # H×W×3 uint8 RGB
    cells: list[Cell]
    # What is known of each pixel (constants.BACKGROUND …); UNKNOWN pixels teach nothing.
    parts: np.ndarray  # H×W uint8
    instances: np.ndarray  # H×W uint8: which cell a WBC pixel belongs to; 0 none
    platelets: list[tuple[float, float]] = field(default_factory=list)
    red_cells: list[tuple[float, float, float, float]] = field(default_factory=list)  # drawn boxes
    mask_weight: float = 1.0
    healthy: bool = False  # no blast can be in it, although its cells are not marked
    group: str = ""  # what must not be divided between training and testing: a slide, a parent field, the same cell shown twice


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _resize(image: np.ndarray, factor: float) -> np.ndarray:
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _resize_mask(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The mask at the size of `like`. (The plain INTER_NEAREST moves it by half a pixel to the right and down.)"""
    return cv2.resize(mask, (like.shape[1], like.shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def is_white(parts: np.ndarray) -> np.ndarray:
    """Where a label map shows a white cell, whichever part of it."""
    return np.isin(parts, (CYTOPLASM, NUCLEUS, WBC_PART_UNKNOWN))


def red_density(image: np.ndarray) -> np.ndarray:
    """Optical density of the red channel against the field's own background: high in nuclei, low in red cells."""
    red = cv2.GaussianBlur(image[..., 0].astype(np.float32), (0, 0), 2.0)
    background = max(float(np.percentile(red, 90)), 32.0)
    return np.clip(-np.log((red + 4) / (background + 4)), 0, None)


def _blobs(density: np.ndarray, threshold: float, minimum_um2: float) -> list[np.ndarray]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats((density > threshold).astype(np.uint8), connectivity=8)
    minimum_px = minimum_um2 / CELL_MICRONS_PER_PIXEL**2
    return [labels == i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= minimum_px]


def _disc(shape: tuple[int, int], x: float, y: float, radius_um: float) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.circle(mask, (round(x), round(y)), round(radius_um / CELL_MICRONS_PER_PIXEL), 1, -1)
    return mask > 0


def _hide_unexplained(item: Field, nucleus_density: float) -> list[tuple[float, float]]:
    """Marks as UNKNOWN what looks like a nucleus and stands in no label, and returns those places.

    No set is complete: cells at the border, smudge cells and second cells are unmarked. They must not be taught as background.
    """
    density = red_density(item.image)
    red_cells = np.zeros(density.shape, bool)
    for x0, y0, x1, y1 in item.red_cells:
        red_cells[max(0, round(y0)) : round(y1), max(0, round(x0)) : round(x1)] = True
    if item.lab == "bcisc":
        # Masks are complete but for cells at the border, and its red cells are dark: judge by the field's own cells.
        own = [density[item.instances == c.instance] for c in item.cells if c.instance]
        nucleus_density = max([nucleus_density, *(0.75 * float(np.percentile(d, 75)) for d in own)])
    explained = is_white(item.parts)
    for cell in item.cells:
        if cell.box:
            x0, y0, x1, y1 = (round(v) for v in cell.box)
            explained[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1] = True
        elif not cell.instance:
            explained |= _disc(explained.shape, cell.x, cell.y, 4.0)
    outside = item.parts == BACKGROUND
    places = []
    for blob in _blobs(density, nucleus_density, 10.0):
        if red_cells[blob].mean() > 0.5:
            continue
        if (blob & explained).sum() > 0.15 * blob.sum():
            # The rest of a known nucleus: never background either.
            item.parts[blob & outside] = UNKNOWN
            continue
        ys, xs = np.nonzero(blob)
        places.append((float(xs.mean()), float(ys.mean())))
        grown = cv2.dilate(blob.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (31, 31))) > 0
        item.parts[grown & outside] = UNKNOWN
    return places


def _nucleus_density(items: list[Field]) -> float:
    """Half of the red density that known cells show at their darkest, over a laboratory."""
    darkest = []
    for item in items:
        density = red_density(item.image)
        for cell in item.cells:
            if cell.label == "platelet":
                continue
            inside = density[_disc(density.shape, cell.x, cell.y, 3.5)]
            if inside.size:
                darkest.append(np.percentile(inside, 80))
    return 0.6 * float(np.median(darkest))


def _from_boxes(root: Path, lab: str, image_rows: list[dict[str, str]], scale_of) -> list[Field]:
    boxes = defaultdict(list)
    for row in _rows(root / lab / "boxes.csv"):
        boxes[row["file"]].append((row["kind"], *(float(row[k]) for k in ("xmin", "ymin", "xmax", "ymax"))))
    fields = []
    for row in image_rows:
        image = _read(root / lab / row["file"])
        height, width = image.shape[:2]
        whole = [
            ((b[3] - b[1]) * (b[4] - b[2])) ** 0.5
            for b in boxes[row["file"]]
            if b[0] == "RBC" and b[1] > 3 and b[2] > 3 and b[3] < width - 4 and b[4] < height - 4
        ]
        factor = RBC_DIAMETER_UM / scale_of(whole) / CELL_MICRONS_PER_PIXEL
        small = _resize(image, factor)
        fx, fy = small.shape[1] / width, small.shape[0] / height
        cells, platelets, red_cells = [], [], []
        parts = np.zeros(small.shape[:2], np.uint8)
        for kind, x0, y0, x1, y1 in boxes[row["file"]]:
            box = (x0 * fx, y0 * fy, x1 * fx, y1 * fy)
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            if kind == "WBC":
                cells.append(Cell(x, y, box=box))
                parts[max(0, round(box[1])) : round(box[3]), max(0, round(box[0])) : round(box[2])] = UNKNOWN
            elif kind == "platelets":
                platelets.append((x, y))
            else:
                red_cells.append(box)
        fields.append(Field(lab, row["file"], row["split"], small, cells, parts, np.zeros_like(parts), platelets, red_cells))
    return fields


def _bccd(root: Path) -> list[Field]:
    rows = _rows(root / "bccd" / "images.csv")

    def diameter(whole: list[float]) -> float:
        # A field shows only a few whole red cells: drawn towards the set's median.
        return BCCD_BOX_TO_DIAMETER * float(np.median([*whole, 104.0, 104.0, 104.0]))

    fields = _from_boxes(root, "bccd", rows, diameter)
    for item, row in zip(fields, rows, strict=True):
        if row["class"] and len(item.cells) == 1:
            item.cells[0].label = row["class"]
            # About half of its eosinophils show no eosinophil granules (data page).
            item.cells[0].weight = 0.0 if row["class"] == "eosinophil" else 0.5
        # A WBC box on a platelet, and a WBC boxed as platelet (data page).
        if "00113" in item.name or "00133" in item.name:
            item.parts[:] = UNKNOWN
            item.cells.clear()
            item.platelets.clear()
    return fields


def _raabin(root: Path) -> list[Field]:
    rows = _rows(root / "raabin" / "images.csv")

    def diameter(whole: list[float]) -> float:
        return RAABIN_BOX_TO_DIAMETER * float(np.median([*whole, 92.0, 92.0, 92.0]))

    fields = _from_boxes(root, "raabin", rows, diameter)
    for item, row in zip(fields, rows, strict=True):
        item.group = f"cell {row['same_cell_group']}" if row["same_cell_group"] else ""
        if row["class_read"] and item.cells:
            # The class is that of the cell in the middle.
            middle = (item.image.shape[1] / 2, item.image.shape[0] / 2)
            cell = min(item.cells, key=lambda c: (c.x - middle[0]) ** 2 + (c.y - middle[1]) ** 2)
            cell.label = row["class_read"]
            cell.weight = {"3": 0.7, "2": 0.5, "1": 0.2}[row["read_confidence"]]
    return fields


def _instances_from_mask(mask: np.ndarray, minimum_um2: float = 15.0) -> tuple[np.ndarray, list[tuple[int, float, float]]]:
    count, labels, stats, centres = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8), connectivity=8)
    instances = np.zeros(mask.shape, np.uint8)
    found = []
    for i in range(1, count):
        if stats[i, cv2.CC_STAT_AREA] * CELL_MICRONS_PER_PIXEL**2 < minimum_um2 or len(found) == 254:
            continue
        number = len(found) + 1
        instances[labels == i] = number
        found.append((number, float(centres[i][0]), float(centres[i][1])))
    return instances, found


def _parts(mask: np.ndarray, has_nucleus: bool) -> np.ndarray:
    """Mask grey levels to part labels: 128 is cytoplasm and 255 nucleus, or 255 is the whole cell."""
    parts = np.zeros(mask.shape, np.uint8)
    if has_nucleus:
        parts[(mask > 64) & (mask < 192)] = CYTOPLASM
        parts[mask >= 192] = NUCLEUS
    else:
        parts[mask > 64] = WBC_PART_UNKNOWN
    return parts


def _masked(root: Path, lab: str, row: dict[str, str], rbc_px: float, has_nucleus: bool, weight: float = 1.0) -> Field:
    image = _read(root / lab / row["file"])
    factor = RBC_DIAMETER_UM / rbc_px / CELL_MICRONS_PER_PIXEL
    small = _resize(image, factor)
    if row.get("mask"):
        mask = cv2.imread(str(root / lab / row["mask"]), cv2.IMREAD_GRAYSCALE)
        mask = _resize_mask(mask, small)
        parts = _parts(mask, has_nucleus)
        instances, found = _instances_from_mask(parts)
        cells = [Cell(x, y, instance=number) for number, x, y in found]
    else:
        parts = np.full(small.shape[:2], UNKNOWN, np.uint8)
        instances, cells = np.zeros_like(parts), []
    return Field(lab, row["file"], row.get("split", "train"), small, cells, parts, instances, mask_weight=weight)


def _central(item: Field) -> Cell | None:
    middle = (item.image.shape[1] / 2, item.image.shape[0] / 2)
    return min(item.cells, key=lambda c: (c.x - middle[0]) ** 2 + (c.y - middle[1]) ** 2, default=None)


def _zheng1(root: Path) -> list[Field]:
    fields = []
    for row in _rows(root / "zheng1" / "labels.csv"):
        item = _masked(root, "zheng1", row, RBC_PX["zheng1"], has_nucleus=True)
        cell = _central(item)
        if cell:
            cell.label, cell.weight = row["class_weak"], 0.5
        fields.append(item)
    return fields


def _sigtuple(root: Path) -> list[Field]:
    return [
        _masked(root, "sigtuple", row, RBC_PX["sigtuple"], has_nucleus=False, weight=0.3)
        for row in _rows(root / "sigtuple" / "labels.csv")
    ]


def _bcisc(root: Path) -> list[Field]:
    fields = []
    for row in _rows(root / "bcisc" / "fields.csv"):
        item = _masked(root, "bcisc", row, BCISC_RBC_PX[row["slide"]], has_nucleus=False)
        item.group = f"slide {row['slide']}"
        if row["class"] and len(item.cells) == 1:
            item.cells[0].label = row["class"]
        fields.append(item)
    return fields


def _allidb(root: Path) -> list[Field]:
    base = root / "allidb"
    native_width = {}
    fields = []
    centroids = defaultdict(list)
    for row in _rows(base / "centroids.csv"):
        centroids[row["file"]].append((float(row["x"]), float(row["y"])))
    for row in _rows(base / "fields.csv"):
        native_width[Path(row["file"]).name] = row["native_width"]
        image = _read(base / row["file"])
        factor = RBC_DIAMETER_UM / RBC_PX[f"allidb_{row['native_width']}"] / CELL_MICRONS_PER_PIXEL
        small = _resize(image, factor)
        fx, fy = small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]
        parts, instances, cells = np.zeros(small.shape[:2], np.uint8), np.zeros(small.shape[:2], np.uint8), []
        if row["wbc_mask"]:
            mask = cv2.imread(str(base / row["wbc_mask"]), cv2.IMREAD_GRAYSCALE)
            mask = _resize_mask(mask, small)
            # Touching cells share a component here: good for saliency, not for one cell's outline.
            parts = _parts(mask, has_nucleus=False)
        for x, y in centroids[row["file"]]:
            cells.append(Cell(x * fx, y * fy, label="blast"))
            if not row["wbc_mask"]:
                parts[_disc(parts.shape, x * fx, y * fy, 8.0)] = UNKNOWN
        healthy = row["leukaemia"] == "0"
        item = Field("allidb", row["file"], row["split"], small, cells, parts, instances, healthy=healthy)
        item.group = Path(row["file"]).stem
        fields.append(item)
    for row in _rows(base / "cells.csv"):
        # Cells are cut at the native scale; fields of 2592 px are stored shrunk by 0.6605.
        rbc = RBC_PX["allidb_1712"] if native_width.get(row["parent_field"]) == "1712" else RBC_PX["allidb_2592"] / 0.6605
        item = _masked(root, "allidb", row, rbc, has_nucleus=True)
        item.group = Path(row["parent_field"]).stem
        cell = _central(item)
        if Path(row["file"]).name.split("_")[0] in {"Im182", "Im184", "Im190", "Im193"}:
            item.cells = []  # platelets and debris
        elif cell:
            cell.label, cell.not_blast = row["class"] or None, row["blast"] == "0"
        fields.append(item)
    return fields


def _outline_on_clear_ground(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(clear background, the central cell or None, its nucleus) of a PBC crop, as boolean maps.

    PBC has no masks, but an even, clear ground: what differs from its colour is a cell. Where the central cell lies free,
    its component is its outline; where it touches a red cell, None.
    """
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (0, 0), 1.0), cv2.COLOR_RGB2LAB).astype(np.float32)
    bright = lab[..., 0] >= np.percentile(lab[..., 0], 70)
    ground = np.median(lab[bright], axis=0)
    distance = np.linalg.norm((lab - ground) * (1.0, 1.3, 1.3), axis=2)
    clear = distance < 11
    density = red_density(image)
    height, width = clear.shape
    middle = density[height // 2 - 22 : height // 2 + 22, width // 2 - 22 : width // 2 + 22]
    nucleus = density > 0.55 * np.percentile(middle, 85)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    # Opening cuts the thin bridges to neighbours.
    cells = cv2.morphologyEx((~clear).astype(np.uint8), cv2.MORPH_OPEN, disc)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cells, connectivity=4)
    inside = labels[height // 2 - 10 : height // 2 + 10, width // 2 - 10 : width // 2 + 10]
    inside = inside[inside > 0]
    if inside.size < 80:
        return clear, None, nucleus
    chosen = int(np.bincount(inside).argmax())
    cell = (labels == chosen).astype(np.uint8)
    contours, _ = cv2.findContours(cell, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=cv2.contourArea)
    cell = cv2.drawContours(np.zeros_like(cell), [outline], -1, 1, -1)
    x, y, w, h = stats[chosen, :4]
    area = float(cell.sum())
    free = x > 1 and y > 1 and x + w < width - 1 and y + h < height - 1
    solid = area / max(1.0, cv2.contourArea(cv2.convexHull(outline)))
    area_um2 = area * CELL_MICRONS_PER_PIXEL**2
    # A red cell at its side makes a dent (solidity) and lowers the nucleus's share.
    share = float((nucleus & (cell > 0)).sum()) / max(1.0, area)
    if not (free and 20 < area_um2 < 330 and solid > 0.93 and share > 0.15):
        return clear, None, nucleus
    return clear, cell > 0, nucleus


def _pbc(root: Path) -> list[Field]:
    fields = []
    for row in _rows(root / "pbc" / "labels.csv"):
        small = _resize(_read(root / "pbc" / row["file"]), RBC_DIAMETER_UM / RBC_PX["pbc"] / CELL_MICRONS_PER_PIXEL)
        height, width = small.shape[:2]
        x, y = width / 2, height / 2
        parts, instances = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
        attributes = {k: v for k, v in row.items() if k not in {"file", "class", "split"} and v}
        cell = Cell(x, y, label=row["class"], attributes=attributes)
        if row["class"] != "platelet":
            clear, outline, nucleus = _outline_on_clear_ground(small)
            parts[_disc(parts.shape, x, y, 11.0) & ~clear] = UNKNOWN
            if outline is not None:
                rim = cv2.dilate(outline.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
                parts[_disc(parts.shape, x, y, 11.0)] = BACKGROUND
                parts[rim] = UNKNOWN
                # Granules of basophils and eosinophils pass for nucleus: there the part stays open.
                fine = row["class"] in {"neutrophil", "lymphocyte", "monocyte", "erythroblast"}
                parts[outline] = CYTOPLASM if fine else WBC_PART_UNKNOWN
                if fine:
                    # The nucleus's own outline is a threshold's, not a person's: a micron around it stays open.
                    about_half = np.ones((7, 7), np.uint8)
                    parts[outline & (cv2.dilate(nucleus.astype(np.uint8), about_half) > 0)] = WBC_PART_UNKNOWN
                    parts[outline & (cv2.erode(nucleus.astype(np.uint8), about_half) > 0)] = NUCLEUS
                instances[outline] = 1
                cell.instance = 1
        fields.append(Field("pbc", row["file"], row["split"], small, [cell], parts, instances, mask_weight=0.4))
    return fields


def add_sources(parser: argparse.ArgumentParser) -> None:
    """The options that say where pictures come from; `load_sources` reads them."""
    parser.add_argument("--data", type=Path, help="folder with pbc, bcisc, bccd …")
    parser.add_argument("--own", type=Path, nargs="*", default=[], help="folders of other laboratories (data.read_laboratory)")
    parser.add_argument("--microns-per-pixel", type=float, help="of the pictures in --own whose table does not say")


def load_sources(args: argparse.Namespace) -> list[Field]:
    fields = load_fields(args.data, args.runs / "cache") if args.data else []
    for folder in args.own:
        fields += read_laboratory(folder, args.microns_per_pixel)
    return fields


LABS = {
    "pbc": _pbc,
    "bcisc": _bcisc,
    "bccd": _bccd,
    "allidb": _allidb,
    "zheng1": _zheng1,
    "raabin": _raabin,
    "sigtuple": _sigtuple,
}


def read_laboratory(folder: Path, microns_per_pixel: float | None = None) -> list[Field]:
    """A laboratory's own pictures: `labels.csv` beside them, one row a cell.

    Columns: `file`; `class` (one of constants.CLASSES, or empty); `split` (train or val; empty: every fifth file is val); `x`, `y`
    (the cell's centre in pixels; empty: the picture's middle); `mask` (a grey picture of the same size: 128 cytoplasm, 255
    nucleus, or 255 alone for the whole cell; empty: outline unknown); `microns_per_pixel` (or the argument); the morphology
    columns of WBCAtt and `subtype`, where known. Only `file` is required. Throws ValueError naming the row that does not fit.
    """
    lab = folder.resolve().name
    by_file: dict[str, list[tuple[int, dict[str, str]]]] = defaultdict(list)
    for number, row in enumerate(_rows(folder / "labels.csv"), start=2):
        if not row.get("file"):
            raise ValueError(f"{folder / 'labels.csv'}, line {number}: no file is named")
        by_file[row["file"]].append((number, row))
    fields = []
    for index, (name, rows) in enumerate(by_file.items()):
        image = _read(folder / name)
        line, first = rows[0]
        scale = float(first.get("microns_per_pixel") or microns_per_pixel or 0)
        if not 0.01 < scale < 2:
            raise ValueError(
                f"{folder / 'labels.csv'}, line {line}: microns_per_pixel is missing or not plausible ({scale}). "
                "Give it in the table or as --microns-per-pixel."
            )
        small = _resize(image, scale / CELL_MICRONS_PER_PIXEL)
        fx, fy = small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]
        parts, instances = np.full(small.shape[:2], UNKNOWN, np.uint8), np.zeros(small.shape[:2], np.uint8)
        cells = []
        for number, (line, row) in enumerate(rows, start=1):
            label = row.get("class") or None
            if label is not None and label not in CLASSES:
                raise ValueError(f"{folder / 'labels.csv'}, line {line}: class {label!r} is none of {', '.join(CLASSES)}")
            x = float(row.get("x") or image.shape[1] / 2) * fx
            y = float(row.get("y") or image.shape[0] / 2) * fy
            known = {"file", "class", "split", "x", "y", "mask", "microns_per_pixel"}
            cell = Cell(x, y, label, attributes={k: v for k, v in row.items() if k not in known and v})
            if row.get("mask"):
                mask = cv2.imread(str(folder / row["mask"]), cv2.IMREAD_GRAYSCALE)
                if mask is None or mask.shape != image.shape[:2]:
                    raise ValueError(f"{folder / 'labels.csv'}, line {line}: mask {row['mask']} is missing or of another size")
                mask = _resize_mask(mask, small)
                has_nucleus = bool(((mask > 64) & (mask < 192)).any())
                drawn = _parts(mask, has_nucleus)
                white = drawn != BACKGROUND
                parts[white] = drawn[white]
                parts[~white & (parts == UNKNOWN)] = BACKGROUND
                instances[white], cell.instance = number, number
            cells.append(cell)
        split = first.get("split") or ("val" if index % 5 == 4 else "train")
        fields.append(Field(lab, name, split, small, cells, parts, instances, group=name))
    density = _nucleus_density(fields)
    for item in fields:
        _hide_unexplained(item, density)
    return fields


READINGS = Path(__file__).parent / "readings.csv"
READING_WITHIN_UM = 3.0


def apply_readings(fields: list[Field], path: Path = READINGS) -> None:
    """Classes that were read again from the pictures, or for the first time (docs/decisions/0014): they replace those of the set.

    A row names a place by its share of the picture's width and height; its class is that of the nearest cell. An empty class
    says that the readers did not agree: such a cell teaches no class.
    """
    by_name = {(item.lab, item.name): item for item in fields}
    for row in _rows(path):
        item = by_name.get((row["lab"], row["file"]))
        if item is None or not item.cells:
            continue
        height, width = item.image.shape[:2]
        x, y = float(row["x"]) * width, float(row["y"]) * height
        cell = min(item.cells, key=lambda c: (c.x - x) ** 2 + (c.y - y) ** 2)
        if ((cell.x - x) ** 2 + (cell.y - y) ** 2) ** 0.5 * CELL_MICRONS_PER_PIXEL > READING_WITHIN_UM:
            continue
        cell.label, cell.weight = row["class"] or None, float(row["weight"])


def load_fields(root: Path, cache: Path) -> list[Field]:
    """All fields of all laboratories, from the cache where it is there. `root` is the folder that holds `pbc`, `bccd` …"""
    path = cache / f"fields-v{CACHE_VERSION}.pickle"
    if path.exists():
        with path.open("rb") as handle:
            fields = pickle.load(handle)
        apply_readings(fields)
        return fields
    fields: list[Field] = []
    for lab, read in LABS.items():
        items = read(root)
        density = _nucleus_density(items)
        for item in items:
            places = _hide_unexplained(item, density)
            if item.healthy:
                # No location is marked in healthy fields, but whatever has a nucleus there is not a blast.
                item.cells += [Cell(x, y, not_blast=True) for x, y in places]
        print(f"{lab:9s} {len(items):5d} fields {sum(len(i.cells) for i in items):5d} cells, nucleus density {density:.2f}")
        fields += items
    cache.mkdir(parents=True, exist_ok=True)
    for item in fields:
        item.group = item.group or item.name
    with path.open("wb") as handle:
        pickle.dump(fields, handle, protocol=5)
    apply_readings(fields)
    return fields
