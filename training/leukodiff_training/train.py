"""Trains SG-CLDFF on crops of every laboratory, with a trained saliency network as its prior.

    python -m leukodiff_training.train --data DIR --runs DIR --saliency DIR/saliency/checkpoint.pt [--name sg-cldff]

Prints one line an epoch, keeps plan, results, curves and a checkpoint in RUNS/NAME and resumes from it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import losses
from .augment import StainSwap, camera, photometric, sample_labels, window
from .composites import beside, on_other_ground
from .constants import (
    ATTRIBUTES,
    BACKGROUND,
    CELL_MICRONS_PER_PIXEL,
    CLASS_INDEX,
    CLASSES,
    CROP_SIZE,
    CYTOPLASM,
    FIELD_MICRONS_PER_PIXEL,
    FIELD_STRIDE,
    MASK_STRIDE,
    NUCLEUS,
    UNKNOWN,
    WBC_PART_UNKNOWN,
)
from .data import Cell, Field, add_sources, is_white, load_sources
from .export import start_from
from .outliers import LEARNT, drawn, spoilt
from .precision import arithmetic, has_bfloat16, keep_depthwise_in_float32
from .runs import Average, Run, prefetched, progress
from .saliency import SaliencyNetwork
from .sgcldff import SGCLDFF
from .statistics import mask_overlap
from .train_saliency import field_input, peaks, stain_swap

CONTEXT = 192  # the prior is computed on a little more than the crop: a third of it is 64, a multiple of 16
MARGIN = (CONTEXT - CROP_SIZE) // 2
LAB_SHARE = {"pbc": 0.40, "bcisc": 0.13, "raabin": 0.13, "bccd": 0.10, "zheng1": 0.08, "allidb": 0.12, "sigtuple": 0.04}
OWN_SHARE = 0.4  # of each laboratory that is added, before the shares are made to sum to one
NEGATIVE_SHARE = 0.07
OUTLIER_SHARE = 0.03
OTHER_GROUND_SHARE = 0.3  # of the cells that have an outline
BORDER_SHARE = 0.07  # of all crops: cut by the picture's border, which the service continues
BESIDE_SHARE = 0.12  # of the cells that have an outline: with a second cell of the laboratory that touches it
# Rare or confused classes count more (class-aware weighting on top of balanced draws).
CLASS_WEIGHTS = {"immature_granulocyte": 1.2, "monocyte": 1.1, "platelet": 0.7, "artefact": 0.7}


@dataclass(frozen=True)
class Draw:
    item: Field
    cell: Cell | None  # None: a place without a white cell
    x: float
    y: float
    label: str | None
    outlier: bool = False  # to be spoilt, or replaced by a picture that is no smear


# As WBCAtt and PBC name them, in the order of ATTRIBUTES.
ATTRIBUTE_COLUMNS = (
    "cell_size",
    "cell_shape",
    "nucleus_shape",
    "nuclear_cytoplasmic_ratio",
    "chromatin_density",
    "cytoplasm_vacuole",
    "cytoplasm_texture",
    "cytoplasm_colour",
    "granule_type",
    "granule_colour",
    "granularity",
    "subtype",
)


def attribute_labels(cell: Cell | None) -> np.ndarray:
    """Index of each attribute's value, −1 where it is not known."""
    labels = np.full(len(ATTRIBUTES), -1, np.int64)
    for i, (column, values) in enumerate(zip(ATTRIBUTE_COLUMNS, ATTRIBUTES.values(), strict=True)):
        value = cell.attributes.get(column) if cell else None
        if value:
            labels[i] = values.index(value)
    return labels


def neighbourhood(x: float, y: float) -> tuple[tuple[slice, slice], tuple[int, int]]:
    """What a window around a place can show, as rows and columns of the field, and its corner: fields are large."""
    x0, y0 = max(0, int(x) - CONTEXT), max(0, int(y) - CONTEXT)
    return (slice(y0, int(y) + CONTEXT), slice(x0, int(x) + CONTEXT)), (x0, y0)


def cell_parts(item: Field, cell: Cell | None) -> np.ndarray:
    """What each pixel is for the *central* cell: other cells are background, pixels without a label stay unknown."""
    parts = item.parts.copy()
    white = is_white(parts)
    if cell is not None and cell.instance:
        parts[white & (item.instances != cell.instance)] = BACKGROUND
    else:
        # A mask whose cells could not be told apart (ALL-IDB fields) says nothing about one cell's outline.
        parts[white & (item.instances == 0)] = UNKNOWN
        parts[white & (item.instances > 0)] = BACKGROUND
    if cell is None or cell.label == "platelet":
        parts[:] = BACKGROUND
    return parts


def example(
    draw: Draw,
    rng: np.random.Generator | None,
    swap: StainSwap | None = None,
    ground: Callable[[np.random.Generator], np.ndarray] | None = None,
    neighbour: Callable[[str, np.random.Generator], tuple[np.ndarray, np.ndarray] | None] | None = None,
) -> dict[str, np.ndarray]:
    """A crop with context and its targets. With `rng` augmented, without it plain and centred.

    `ground` draws a window of `CONTEXT` pixels that shows a smear without a white cell in it, `neighbour` one of a laboratory's
    cells in the middle of such a window, and where it is.
    """
    item, cell = draw.item, draw.cell
    x, y, scale, angle, mirror = draw.x, draw.y, 1.0, 0.0, False
    if rng is not None:
        x += rng.normal(0, 1.0) / CELL_MICRONS_PER_PIXEL
        y += rng.normal(0, 1.0) / CELL_MICRONS_PER_PIXEL
        scale = float(np.exp(np.clip(rng.normal(0, 0.22), -0.6, 0.5)))
        angle, mirror = rng.uniform(0, 2 * np.pi), bool(rng.random() < 0.5)
        if min(item.image.shape[:2]) < 200 and rng.random() < 0.7:
            angle = rng.integers(4) * np.pi / 2  # small crops: turning would show mostly continued border
    cut, (x0, y0) = neighbourhood(x, y)
    near = Field(item.lab, "", "", item.image[cut], [], item.parts[cut], item.instances[cut])
    parts = cell_parts(near, cell)
    view, (wide,), matrix = window(near.image, (x - x0, y - y0), CONTEXT, scale, angle, mirror, [parts], UNKNOWN)
    margin = MARGIN // MASK_STRIDE
    target = sample_labels(parts, matrix, CONTEXT, UNKNOWN, MASK_STRIDE)[margin:-margin, margin:-margin].copy()
    if rng is not None:
        white = is_white(wide)
        if cell is not None and cell.instance and white.any() and rng.random() < OTHER_GROUND_SHARE:
            view = on_other_ground(view, white, ground(rng) if ground and rng.random() < 0.6 else None)
            target[~is_white(target)] = BACKGROUND
        if neighbour and cell is not None and cell.instance and white.any() and rng.random() < BESIDE_SHARE:
            second = neighbour(item.lab, rng)
            if second:
                view, there = beside(view, white, *second, rng)
                there = sample_labels(there.astype(np.uint8), np.eye(2, 3), CONTEXT, 0, MASK_STRIDE)[margin:-margin, margin:-margin]
                target[(there > 0) & ~is_white(target)] = BACKGROUND
        if draw.outlier:
            view = spoilt(view, rng) if rng.random() < 0.4 else drawn(CONTEXT, rng, LEARNT)
            target[:] = UNKNOWN
            view = camera(view.astype(np.float32), rng)
        else:
            view = photometric(view, rng, swap=swap, lab=item.lab)
        if rng.random() < BORDER_SHARE:
            turns, beyond = int(rng.integers(4)), CONTEXT // 2 + int(rng.uniform(0.5, 6.0) / CELL_MICRONS_PER_PIXEL)
            view, target = (np.rot90(side, turns).copy() for side in (view, target))
            view[:, beyond:] = view[:, beyond - 1 : beyond]
            target[:, -(-(beyond - MARGIN) // MASK_STRIDE) :] = UNKNOWN
            view, target = (np.ascontiguousarray(np.rot90(side, -turns)) for side in (view, target))
    side = CROP_SIZE // MASK_STRIDE
    rows, columns, has_box = np.zeros(side, np.float32), np.zeros(side, np.float32), 0.0
    if cell is not None and cell.box and not cell.instance and not draw.outlier:
        ax, ay, bx, by = (v - o for v, o in zip(cell.box, (x0, y0, x0, y0), strict=True))
        # The matrix maps pixel centres; a box's edges lie between pixels.
        corners = matrix @ np.array([[ax - 0.5, bx - 0.5] * 2, [ay - 0.5, ay - 0.5, by - 0.5, by - 0.5], [1, 1, 1, 1]]) + 0.5
        corners = (corners - MARGIN) / MASK_STRIDE
        straight = min(angle % (np.pi / 2), np.pi / 2 - angle % (np.pi / 2)) < 0.1
        if straight:  # turned boxes are no boxes of the turned cell
            left, right = corners[0].min(), corners[0].max()
            top, bottom = corners[1].min(), corners[1].max()
            columns[max(0, round(left)) : max(0, round(right))] = 1
            rows[max(0, round(top)) : max(0, round(bottom))] = 1
            has_box = 1.0
    # The cell that an outlier was spoilt from has nothing to say of it.
    weight = (cell.weight if cell and not draw.outlier else 1.0) if draw.label else 0.0
    return {
        "context": view,
        "parts": target,
        "mask_weight": np.float32(item.mask_weight),
        "rows": rows,
        "columns": columns,
        "has_box": np.float32(has_box),
        "label": np.int64(CLASS_INDEX[draw.label] if draw.label and weight > 0 else -1),
        "weight": np.float32(weight),
        "not_blast": np.float32(bool(cell and cell.not_blast)),
        "attributes": np.full(len(ATTRIBUTES), -1, np.int64) if draw.outlier else attribute_labels(cell),
        "outlier": np.float32(draw.outlier),
    }


def collate(examples: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.stack([e[key] for e in examples])) for key in examples[0]}


# Sets that are too small for one validation split: cross-validated by slide, parent field or image.
CROSS_VALIDATED = ("bcisc", "bccd", "allidb", "zheng1")


def left_out(fields: list[Field], laboratories: list[str], folds: int, fold: int) -> list[Field]:
    """What a run does not see: whole laboratories, or one part of `folds` of the small sets, in which no group is divided."""
    chosen = [item for item in fields if item.lab in laboratories]
    if folds:
        for lab in CROSS_VALIDATED:
            groups = sorted({item.group for item in fields if item.lab == lab})
            order = np.random.default_rng(7).permutation(len(groups))
            here = {groups[i] for k, i in enumerate(order) if k % folds == fold}
            chosen += [item for item in fields if item.lab == lab and item.group in here]
    return chosen


class Sampler:
    """Laboratory-balanced, then class-balanced draws (square root of the counts), with places that hold no white cell."""

    def __init__(self, fields: list[Field], false_peaks: dict[int, list[tuple[float, float]]]) -> None:
        self.by_lab: dict[str, dict[str, list[Draw]]] = defaultdict(lambda: defaultdict(list))
        self.platelets: list[Draw] = []
        self.false_peaks: list[Draw] = []
        self.fields = fields
        self.swap = stain_swap(fields)
        for index, item in enumerate(fields):
            for cell in item.cells:
                if cell.label is None and not cell.instance and not cell.box and not cell.not_blast:
                    continue
                label = cell.label if cell.weight > 0 else None
                self.by_lab[item.lab][label or "unnamed"].append(Draw(item, cell, cell.x, cell.y, label))
            self.platelets += [Draw(item, None, x, y, "platelet") for x, y in item.platelets]
            self.false_peaks += [Draw(item, None, x, y, "artefact") for x, y in false_peaks.get(index, [])]
        self.labs = [lab for lab, groups in self.by_lab.items() if groups]
        share = np.array([LAB_SHARE.get(lab, OWN_SHARE) for lab in self.labs])
        self.share = share / share.sum()

    def draw(self, rng: np.random.Generator) -> Draw:
        kind = rng.random()
        if kind < NEGATIVE_SHARE:
            return self.negative(rng)
        chosen = self.cell(rng)
        if kind < NEGATIVE_SHARE + OUTLIER_SHARE:
            return replace(chosen, label="artefact", outlier=True)
        return chosen

    def cell(self, rng: np.random.Generator) -> Draw:
        groups = self.by_lab[self.labs[rng.choice(len(self.labs), p=self.share)]]
        names = list(groups)
        weights = np.sqrt([len(groups[name]) for name in names])
        group = groups[names[rng.choice(len(names), p=weights / weights.sum())]]
        return group[rng.integers(len(group))]

    def negative(self, rng: np.random.Generator) -> Draw:
        kind = rng.random()
        if kind < 0.3 and self.platelets:
            return self.platelets[rng.integers(len(self.platelets))]
        if kind < 0.7 and self.false_peaks:
            return self.false_peaks[rng.integers(len(self.false_peaks))]
        return self.empty(rng)

    def empty(self, rng: np.random.Generator) -> Draw:
        """A place that shows red cells or the bare slide."""
        radius = int(7.0 / CELL_MICRONS_PER_PIXEL)
        for _ in range(2000):
            item = self.fields[rng.integers(len(self.fields))]
            height, width = item.parts.shape
            x, y = rng.uniform(0, width), rng.uniform(0, height)
            around = item.parts[max(0, int(y) - radius) : int(y) + radius, max(0, int(x) - radius) : int(x) + radius]
            far = all((c.x - x) ** 2 + (c.y - y) ** 2 > (12 / CELL_MICRONS_PER_PIXEL) ** 2 for c in item.cells)
            if far and (around == BACKGROUND).all():
                return Draw(item, None, x, y, "artefact")
        # A laboratory of single cells without outlines knows no such place: a cell then, to be spoilt.
        return replace(self.cell(rng), label="artefact", outlier=True)

    def ground(self, rng: np.random.Generator) -> np.ndarray:
        place = self.empty(rng)
        turn, mirror = rng.integers(4) * np.pi / 2, bool(rng.random() < 0.5)
        cut, (x0, y0) = neighbourhood(place.x, place.y)
        return window(place.item.image[cut], (place.x - x0, place.y - y0), CONTEXT, 1.0, turn, mirror)[0]

    def neighbour(self, lab: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """One of the laboratory's cells with an outline, and where it is; None where ten draws find none."""
        groups = list(self.by_lab[lab].values())
        for _ in range(10):
            group = groups[rng.integers(len(groups))]
            draw = group[rng.integers(len(group))]
            if draw.cell is None or not draw.cell.instance:
                continue
            cut, (x0, y0) = neighbourhood(draw.x, draw.y)
            white = (draw.item.instances[cut] == draw.cell.instance).astype(np.uint8)
            turn, mirror = rng.integers(4) * np.pi / 2, bool(rng.random() < 0.5)
            centre = (draw.x - x0, draw.y - y0)
            view, (white,), _ = window(draw.item.image[cut], centre, CONTEXT, 1.0, turn, mirror, [white], 0)
            if white.any():
                return view, white > 0
        return None

    def batches(self, draws: int, size: int, rng: np.random.Generator) -> Iterator[dict[str, Tensor]]:
        for _ in range(draws // size):
            yield collate([example(self.draw(rng), rng, self.swap, self.ground, self.neighbour) for _ in range(size)])


@torch.no_grad()
def prior_of(saliency: SaliencyNetwork, context: Tensor) -> tuple[Tensor, Tensor]:
    """Crops N×3×160×160 (0–255) and their prior N×1×160×160 from windows N×192×192×3 uint8."""
    rgb = context.permute(0, 3, 1, 2).float()
    small = F.avg_pool2d(rgb, 3).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    salient, _, _ = saliency(small)
    salient = F.interpolate(salient[:, None], size=(CONTEXT, CONTEXT), mode="bilinear", align_corners=False)
    cut = slice(MARGIN, -MARGIN)
    return rgb[..., cut, cut].contiguous(memory_format=torch.channels_last), salient[..., cut, cut].contiguous()


def total_loss(
    network: SGCLDFF,
    saliency: SaliencyNetwork,
    batch: dict[str, Tensor],
    options: argparse.Namespace,
    class_weights: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    rgb, prior = prior_of(saliency, batch["context"])
    if network.training:
        # The service's prior is sometimes weak or missing: never rely on it alone.
        prior = prior * (torch.rand(len(prior), 1, 1, 1) > 0.1)
    # Behind it: whatever a variant lacks, it draws the same random numbers.
    if options.without_prior:
        prior = torch.zeros_like(prior)
    with arithmetic(options.bfloat16 and network.training):
        fused, segmentation = network.trunk(rgb, prior)
    out = network.heads(fused.float(), segmentation.float())
    label = batch["label"]
    classified = losses.classification(out.logits, label, batch["weight"], class_weights, batch["not_blast"])
    segmented = losses.segmentation(out.segmentation, batch["parts"], batch["mask_weight"])
    boxed = losses.box_projection(out.segmentation, batch["rows"], batch["columns"], batch["has_box"])
    cam = network.grad_cam(out.evidence, label.clamp(min=0))
    cell = F.avg_pool2d(1 - torch.softmax(out.segmentation.detach(), dim=1)[:, :1], 4)[:, 0]
    salient = F.avg_pool2d(prior, CROP_SIZE // cam.shape[-1])[:, 0]
    region = torch.maximum(cell, salient) if not options.without_prior else cell
    is_cell = ((label >= 0) & (label < CLASS_INDEX["platelet"])).float()
    aligned = losses.saliency_alignment(cam, region, is_cell)
    described = losses.attributes(out.attributes, batch["attributes"])
    known = losses.known(out.known, batch["outlier"])
    total = classified + segmented + 0.5 * boxed + 0.7 * described + 0.2 * known
    total = total + (0 if options.without_alignment else 0.2) * aligned
    values = {
        "class": classified,
        "segmentation": segmented,
        "box": boxed,
        "alignment": aligned,
        "attributes": described,
        "known": known,
    }
    return total, {k: v.item() for k, v in values.items()}


@torch.no_grad()
def predict(
    network: SGCLDFF,
    saliency: SaliencyNetwork,
    draws: list[Draw],
    flips: bool = False,
    size: int = 48,
    blind: bool = False,
):
    """Yields (draw, probabilities C, segmentation 3×80×80, example) for plain, centred crops."""
    network.eval()
    for start in range(0, len(draws), size):
        chunk = draws[start : start + size]
        examples = [example(d, None) for d in chunk]
        rgb, prior = prior_of(saliency, torch.from_numpy(np.stack([e["context"] for e in examples])))
        if blind:
            prior = torch.zeros_like(prior)
        out = network(rgb, prior)
        p, s = torch.softmax(out.logits, 1), torch.softmax(out.segmentation, 1)
        if flips:
            other = network(rgb.flip(3), prior.flip(3))
            p = (p + torch.softmax(other.logits, 1)) / 2
            s = (s + torch.softmax(other.segmentation, 1).flip(3)) / 2
        yield from zip(chunk, p.numpy(), s.numpy(), examples, strict=True)


def central_component(mask: np.ndarray) -> np.ndarray:
    """The component of a boolean mask that holds the middle or is nearest to it."""
    count, labels, _, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count < 2:
        return np.zeros_like(mask)
    middle = np.array(mask.shape[::-1]) / 2
    at_middle = labels[mask.shape[0] // 2, mask.shape[1] // 2]
    chosen = at_middle or 1 + int(np.argmin(((centres[1:] - middle) ** 2).sum(axis=1)))
    return labels == chosen


def validate(network: SGCLDFF, saliency: SaliencyNetwork, fields: list[Field], blind: bool = False) -> dict[str, float]:
    draws = [
        Draw(item, cell, cell.x, cell.y, cell.label)
        for item in fields
        if item.split == "val"
        for cell in item.cells
        if cell.label or cell.instance
    ]
    right: dict[str, list[float]] = defaultdict(list)
    for draw, p, s, e in predict(network, saliency, draws, blind=blind):
        lab = draw.item.lab
        if draw.label:
            right[f"{lab}_accuracy"].append(float(CLASSES[int(p.argmax())] == draw.label))
            if draw.label != "blast":
                right["false_blast"].append(float(CLASSES[int(p.argmax())] == "blast"))
        if draw.cell and draw.cell.instance and draw.item.split == "val":
            truth = e["parts"]
            known = truth != UNKNOWN
            is_cell = (truth > 0) & known
            found = central_component(s[0] < 0.5) & known
            right[f"{lab}_iou"].append(mask_overlap(found, is_cell))
            if (truth == NUCLEUS).any():
                found, nucleus = (s[2] > s[1]) & (s[0] < 0.5), truth == NUCLEUS
                right[f"{lab}_nucleus_iou"].append(mask_overlap(found, nucleus))
    return {name: float(np.mean(values)) for name, values in sorted(right.items())}


def self_train(network: SGCLDFF, saliency: SaliencyNetwork, fields: list[Field]) -> dict[str, int]:
    """Gives cells without a mask one from the network's own confident pixels (train split only).

    Kept where it is one plausible cell: 15–450 µm², around the known centre, and of the drawn box where there is one.
    """
    counts: dict[str, int] = defaultdict(int)
    draws = [
        Draw(item, cell, cell.x, cell.y, cell.label)
        for item in fields
        if item.split == "train" and item.lab in {"pbc", "bccd", "raabin"}
        for cell in item.cells
        if not cell.instance and cell.label != "platelet"
    ]
    for draw, _, s, _ in predict(network, saliency, draws):
        item, cell = draw.item, draw.cell
        assert cell is not None
        big = np.stack([cv2.resize(layer, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR) for layer in s])
        white = central_component(big[0] < 0.5)
        area = white.sum() * CELL_MICRONS_PER_PIXEL**2
        edge = np.concatenate([white[0], white[-1], white[:, 0], white[:, -1]]).mean()
        if (
            not 15 < area < 450
            or not white[CROP_SIZE // 2 - 12 : CROP_SIZE // 2 + 12, CROP_SIZE // 2 - 12 : CROP_SIZE // 2 + 12].any()
            or edge > 0.1
        ):
            continue
        x0, y0 = round(draw.x - CROP_SIZE / 2), round(draw.y - CROP_SIZE / 2)
        ys, xs = np.nonzero(white)
        if cell.box:
            found = np.array([xs.min() + x0, ys.min() + y0, xs.max() + 1 + x0, ys.max() + 1 + y0], float)
            box = np.array(cell.box)
            overlap = np.prod(np.maximum(0, np.minimum(found[2:], box[2:]) - np.maximum(found[:2], box[:2])))
            union = np.prod(found[2:] - found[:2]) + np.prod(box[2:] - box[:2]) - overlap
            if overlap / union < 0.7:
                continue
        height, width = item.parts.shape
        cut = (slice(max(0, y0), min(height, y0 + CROP_SIZE)), slice(max(0, x0), min(width, x0 + CROP_SIZE)))
        inner = (slice(cut[0].start - y0, cut[0].stop - y0), slice(cut[1].start - x0, cut[1].stop - x0))
        p, white = big[(slice(None), *inner)], white[inner]
        parts, instances = item.parts[cut], item.instances[cut]
        number = 1 + max((c.instance for c in item.cells), default=0)
        open_pixels = parts == UNKNOWN
        parts[open_pixels & (p[0] > 0.75) & ~white] = BACKGROUND
        sure = white & (p[0] < 0.25) & open_pixels
        parts[sure] = WBC_PART_UNKNOWN
        parts[sure & (p[1] > 0.7)] = CYTOPLASM
        parts[sure & (p[2] > 0.7)] = NUCLEUS
        instances[sure] = number
        cell.instance = number
        item.mask_weight = min(item.mask_weight, 0.4)
        counts[item.lab] += 1
    return dict(counts)


@torch.no_grad()
def false_peaks(saliency: SaliencyNetwork, fields: list[Field], per_field: int = 6) -> dict[int, list[tuple[float, float]]]:
    """Places on known background that the saliency network would propose: what the service will have to turn down."""
    pixel = FIELD_MICRONS_PER_PIXEL * FIELD_STRIDE
    result = {}
    for index, item in enumerate(fields):
        if item.lab == "pbc" and index % 8:
            continue
        _, centres, _ = saliency(torch.from_numpy(field_input(item))[None])
        places = []
        for x, y, _ in peaks(centres[0].numpy(), 0.08, 4.5 / pixel):
            u, v = (x + 0.5) * pixel / CELL_MICRONS_PER_PIXEL, (y + 0.5) * pixel / CELL_MICRONS_PER_PIXEL
            if u < item.parts.shape[1] and v < item.parts.shape[0] and item.parts[int(v), int(u)] == BACKGROUND:
                far = all((c.x - u) ** 2 + (c.y - v) ** 2 > (9 / CELL_MICRONS_PER_PIXEL) ** 2 for c in item.cells)
                if far:
                    places.append((u, v))
        if places:
            result[index] = places[:per_field]
    return result


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step: a rise over a tenth of the run, 100 steps at most, then half a cosine."""
    return min(1.0, (step + 1) / min(100.0, steps / 10)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def average_decay(steps: int) -> float:
    """Of the weights' moving average: it looks back over a tenth of a short run, over 500 steps of a long one."""
    return 1 - 1 / min(500.0, max(10.0, steps / 10))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--runs", type=Path, required=True, help="where runs and the data cache are kept")
    parser.add_argument("--saliency", type=Path, required=True, help="checkpoint or ONNX file of the saliency network")
    parser.add_argument("--name", default="sg-cldff")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--draws", type=int, default=3000, help="crops an epoch")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of new parts; pretrained stages get 0.4 of it")
    parser.add_argument("--self-train", type=int, nargs="*", default=[], help="epochs before which masks are made")
    parser.add_argument("--initial", type=Path, help="shipped sg-cldff.onnx or a checkpoint to start from")
    parser.add_argument("--leave-out", choices=list(LAB_SHARE), nargs="*", default=[], help="train without these laboratories")
    parser.add_argument("--folds", type=int, default=0, help="grouped cross-validation of the small sets in so many parts")
    parser.add_argument("--fold", type=int, default=0, help="the part that this run leaves out")
    parser.add_argument("--without-prior", action="store_true")
    parser.add_argument("--without-alignment", action="store_true")
    parser.add_argument("--without-attention", action="store_true")
    parser.add_argument("--without-fusion", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)

    torch.manual_seed(args.seed)
    cv2.setNumThreads(1)
    fields = load_sources(args)
    args.bfloat16 = has_bfloat16()
    out = left_out(fields, args.leave_out, args.folds, args.fold)
    hidden = {id(item) for item in out}
    # Cross-validation uses the small sets whole; elsewhere the validation split stays unseen.
    pooled = CROSS_VALIDATED if args.folds else ()
    train = [f for f in fields if (f.split == "train" or f.lab in pooled) and id(f) not in hidden]
    saliency = SaliencyNetwork().eval().requires_grad_(False)
    start_from(saliency, args.saliency)
    sampler = Sampler(train, false_peaks(saliency, train))
    print(f"{len(sampler.false_peaks)} false peaks, {len(sampler.platelets)} platelets", flush=True)
    network = SGCLDFF(True, not args.without_prior, not args.without_attention, not args.without_fusion)
    if args.initial:
        print("not in the initial weights:", start_from(network, args.initial, "network."))
    network = network.to(memory_format=torch.channels_last)
    average = Average(network, average_decay(args.epochs * (args.draws // args.batch)))
    if args.bfloat16:
        keep_depthwise_in_float32(network)
    pretrained = [p for n, p in network.named_parameters() if n.startswith(("backbone.stem", "backbone.stages"))]
    known = {id(p) for p in pretrained}
    fresh = [p for p in network.parameters() if id(p) not in known]
    optimiser = torch.optim.AdamW([{"params": pretrained, "share": 0.4}, {"params": fresh, "share": 1.0}], weight_decay=0.02)
    class_weights = torch.tensor([CLASS_WEIGHTS.get(name, 1.0) for name in CLASSES])
    run = Run(args.runs / args.name, vars(args))
    first = run.resume(network, average, optimiser)
    for epoch in range(first, args.epochs):
        # A run that resumes after a self-training epoch makes its masks again, from the weights it resumes with.
        due = epoch in args.self_train or (epoch == first and any(e < epoch for e in args.self_train))
        made = self_train(average.network, saliency, train) if due else {}
        if made:
            print(f"self-training made masks {made}", flush=True)
        started, rng = time.time(), np.random.default_rng([args.seed, epoch])
        network.train()
        sums: dict[str, float] = defaultdict(float)
        steps = args.draws // args.batch
        for step, batch in enumerate(prefetched(sampler.batches(args.draws, args.batch, rng))):
            at = epoch * steps + step
            rate = args.learning_rate * schedule(at, args.epochs * steps)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["share"] + 1e-6
            total, parts = total_loss(network, saliency, batch, args, class_weights)
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            average.update(network)
            for key, value in parts.items():
                sums[key] += value
            if step % 20 == 19:
                progress(f"epoch {epoch} loss {total.item():.3f}", (step + 1) * args.batch, args.draws, started)
        result = {"epoch": epoch, "seconds": time.time() - started, **{f"loss_{k}": v / steps for k, v in sums.items()}}
        result |= {"self_trained": made, **validate(average.network, saliency, fields, args.without_prior)}
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}, flush=True)
        run.save(network, average, optimiser, result)
    if out:
        from .crossval import measure  # it builds on what stands here

        measure(average.network, saliency, out, run.folder)


if __name__ == "__main__":
    main()
