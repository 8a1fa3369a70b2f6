"""Trains the saliency network on tiles of whole fields and crops of every laboratory.

    python -m leukodiff_training.train_saliency --data DIR --runs DIR [--name saliency] [--epochs 14]

A killed run resumes with the same command.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .augment import StainSwap, photometric, window
from .constants import (
    BACKGROUND,
    CELL_MICRONS_PER_PIXEL,
    FIELD_MICRONS_PER_PIXEL,
    FIELD_MULTIPLE,
    FIELD_STRIDE,
    SCALE_BINS,
    SCALE_FIRST_OCTAVE,
    SCALE_OCTAVES_PER_BIN,
    UNKNOWN,
)
from .data import Field, is_white, load_fields
from .export import start_from
from .precision import arithmetic, has_bfloat16
from .runs import Average, Run, prefetched, progress
from .saliency import SaliencyNetwork

LAB_SHARE = {"pbc": 0.27, "bcisc": 0.16, "bccd": 0.15, "allidb": 0.17, "zheng1": 0.08, "raabin": 0.12, "sigtuple": 0.05}
MAX_TILE = 144
CENTRE_SIGMA_UM = 1.4
DETECT_WITHIN_OCTAVES = 0.6  # maps are taught near the working scale only; the scale head everywhere


def cells_for_detection(item: Field) -> list:
    return [cell for cell in item.cells if cell.label != "platelet"]


def tile(
    item: Field, octave: float, size: int, rng: np.random.Generator, augment: bool, swap: StainSwap | None = None
) -> dict[str, np.ndarray]:
    """One training example: a window of `item` at 0.48·2^octave µm per pixel with its targets at stride 2."""
    height, width = item.image.shape[:2]
    scale = CELL_MICRONS_PER_PIXEL / (FIELD_MICRONS_PER_PIXEL * 2.0**octave)
    extent = size / scale
    cells = cells_for_detection(item)
    if cells and rng.random() < 0.75:
        anchor = cells[rng.integers(len(cells))]
        centre = np.array([anchor.x, anchor.y]) + rng.uniform(-0.4, 0.4, 2) * extent
    else:
        centre = rng.uniform(0, 1, 2) * (width, height)
    # Keep the window on the image as far as it fits: the service sees no more border than there is.
    for axis, length in enumerate((width, height)):
        half = min(extent, length) / 2
        centre[axis] = np.clip(centre[axis], half, length - half)
    angle = rng.integers(4) * np.pi / 2 + (rng.normal(0, 0.1) if augment else 0.0)
    mirror = bool(rng.random() < 0.5)
    view, (parts,), matrix = window(item.image, (centre[0], centre[1]), size, scale, angle, mirror, [item.parts], UNKNOWN)
    if augment:
        view = photometric(view, rng, swap=swap, lab=item.lab)

    micron = 1.0 / (FIELD_MICRONS_PER_PIXEL * 2.0**octave)  # window pixels in one micron
    positive = is_white(parts).astype(np.float32)
    known = (parts != UNKNOWN).astype(np.float32)
    near = np.zeros((size, size), np.uint8)
    grid = np.mgrid[0:size:FIELD_STRIDE, 0:size:FIELD_STRIDE].astype(np.float32) + (FIELD_STRIDE - 1) / 2
    heat = np.zeros(grid.shape[1:], np.float32)
    for cell in cells:
        x, y = matrix @ np.array([cell.x - 0.5, cell.y - 0.5, 1.0])
        if not (-size * 0.2 < x < size * 1.2 and -size * 0.2 < y < size * 1.2):
            continue
        if not cell.instance:
            # Extent unknown: its core is salient for sure; of a drawn box, the inscribed ellipse.
            if cell.box:
                axes = np.array([cell.box[2] - cell.box[0], cell.box[3] - cell.box[1]]) * scale / 2
                turned = abs(np.sin(angle)) > 0.5
                axes = axes[::-1] if turned else axes
                shape = np.zeros((size, size), np.uint8)
                cv2.ellipse(
                    shape,
                    (round(x), round(y)),
                    (max(1, round(axes[0] * 0.92)), max(1, round(axes[1] * 0.92))),
                    0,
                    0,
                    360,
                    1,
                    -1,
                )
                positive[shape > 0] = 1
                known[shape > 0] = 1
                reach = float(max(axes)) * 1.2
            else:
                core = np.zeros((size, size), np.uint8)
                cv2.circle(core, (round(x), round(y)), max(1, round(3.5 * micron)), 1, -1)
                if core.any() and (parts[core > 0] == BACKGROUND).mean() < 0.5:
                    positive[core > 0] = 1
                    known[core > 0] = 1
                reach = 11.0 * micron
        else:
            reach = 6.0 * micron
        cv2.circle(near, (round(x), round(y)), max(1, round(reach)), 1, -1)
        if 0 <= x < size and 0 <= y < size:
            sigma = CENTRE_SIGMA_UM * micron
            heat = np.maximum(heat, np.exp(-((grid[1] - x) ** 2 + (grid[0] - y) ** 2) / (2 * sigma**2)))

    def pooled(a: np.ndarray) -> np.ndarray:
        return a.reshape(size // FIELD_STRIDE, FIELD_STRIDE, size // FIELD_STRIDE, FIELD_STRIDE).mean(axis=(1, 3))

    # Where a centre may or may not be is known on background and around known cells; elsewhere nothing is said.
    says = ((parts == BACKGROUND) | (near > 0)).astype(np.float32)
    bins = SCALE_FIRST_OCTAVE + SCALE_OCTAVES_PER_BIN * np.arange(SCALE_BINS)
    octave_target = np.exp(-((bins - np.clip(octave, bins[0], bins[-1])) ** 2) / (2 * 0.15**2))
    detect = float(abs(octave) < DETECT_WITHIN_OCTAVES)
    return {
        "field": view,
        "saliency": pooled(positive),
        "known": (pooled(known) > 0.5).astype(np.float32) * detect,
        "heat": heat,
        "says": (pooled(says) > 0.5).astype(np.float32) * detect,
        "scale": (octave_target / octave_target.sum()).astype(np.float32),
        "octave": np.float32(octave),
    }


def fitting_tile(item: Field, octave: float) -> int:
    """The largest tile side, a multiple of 16, that the image fills at this scale (a little border allowed)."""
    smallest = min(item.image.shape[:2]) * CELL_MICRONS_PER_PIXEL / (FIELD_MICRONS_PER_PIXEL * 2.0**octave)
    return min(MAX_TILE, int((smallest + 10) // FIELD_MULTIPLE) * FIELD_MULTIPLE)


def batches(
    fields: list[Field], draws: int, pixels: int, rng: np.random.Generator, swap: StainSwap | None = None
) -> Iterator[dict[str, Tensor]]:
    """Laboratory-balanced batches; tiles of one size stand together, about `pixels` input pixels a batch."""
    by_lab = defaultdict(list)
    for item in fields:
        by_lab[item.lab].append(item)
    labs = [lab for lab in LAB_SHARE if by_lab[lab]]
    share = np.array([LAB_SHARE[lab] for lab in labs])
    share /= share.sum()
    waiting: dict[int, list[dict[str, np.ndarray]]] = defaultdict(list)
    for _ in range(draws):
        lab = labs[rng.choice(len(labs), p=share)]
        item = by_lab[lab][rng.integers(len(by_lab[lab]))]
        if lab == "allidb" and rng.random() < 0.6:  # whole fields rather than its single cells
            whole = [f for f in (by_lab[lab][i] for i in rng.integers(len(by_lab[lab]), size=8)) if "fields/" in f.name]
            item = whole[0] if whole else item
        octave = rng.normal(0, 0.25) if rng.random() < 0.5 else rng.uniform(-2.3, 2.3)
        size = fitting_tile(item, octave)
        if size < 32:
            continue
        if size > 48 and rng.random() < 0.3:
            size = int(rng.integers(3, size // FIELD_MULTIPLE + 1)) * FIELD_MULTIPLE
        waiting[size].append(tile(item, octave, size, rng, augment=True, swap=swap))
        if len(waiting[size]) * size * size >= pixels:
            yield collate(waiting.pop(size))


def stain_swap(fields: list[Field], sample: int = 60) -> StainSwap:
    """From at most `sample` pictures a laboratory, evenly spread over its list."""
    by_lab: dict[str, list[np.ndarray]] = defaultdict(list)
    for item in fields:
        by_lab[item.lab].append(item.image)
    return StainSwap.of({lab: images[:: max(1, len(images) // sample)] for lab, images in by_lab.items()})


def collate(examples: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(np.stack([e[key] for e in examples])) for key in examples[0]}


def loss(network: SaliencyNetwork, batch: dict[str, Tensor], bfloat16: bool = False) -> tuple[Tensor, dict[str, float]]:
    with arithmetic(bfloat16):
        saliency, centres, scale = network.maps(batch["field"])
    saliency, centres, scale = saliency[:, 0].float(), centres[:, 0].float(), scale.float()
    known, target = batch["known"], batch["saliency"]
    bce = F.binary_cross_entropy_with_logits(saliency, target, weight=known, reduction="sum") / (known.sum() + 1)
    p = torch.sigmoid(saliency) * known
    dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + (target * known).sum() + 1)
    # Penalty-reduced focal loss on the centre map (CornerNet, arXiv:1808.01244, eq. 1).
    heat, says = batch["heat"], batch["says"]
    q = torch.sigmoid(centres).clamp(1e-5, 1 - 1e-5)
    peak = (heat > 0.9).float()
    focal = -(peak * (1 - q) ** 2 * torch.log(q) + (1 - peak) * (1 - heat) ** 4 * q**2 * torch.log(1 - q)) * says
    focal = focal.sum() / ((peak * says).sum() + 1)
    scale_loss = -(batch["scale"] * F.log_softmax(scale, dim=1)).sum(dim=1).mean()
    total = bce + 0.5 * dice + 0.5 * focal + 0.5 * scale_loss
    return total, {"saliency": bce.item() + 0.5 * dice.item(), "centre": focal.item(), "scale": scale_loss.item()}


def peaks(heat: np.ndarray, threshold: float, distance: float) -> list[tuple[float, float, float]]:
    """Local maxima of `heat` above `threshold`, the greatest first, none nearer than `distance` pixels to a greater one."""
    local = cv2.dilate(heat, np.ones((3, 3), np.uint8))
    ys, xs = np.nonzero((heat >= local) & (heat >= threshold))
    order = np.argsort(-heat[ys, xs])
    kept: list[tuple[float, float, float]] = []
    for i in order:
        x, y = float(xs[i]), float(ys[i])
        if all((x - a) ** 2 + (y - b) ** 2 >= distance**2 for a, b, _ in kept):
            kept.append((x, y, float(heat[ys[i], xs[i]])))
    return kept


def field_input(item: Field, octave: float = 0.0) -> np.ndarray:
    """The field as the service feeds it: resized to 0.48·2^octave µm per pixel, padded to multiples of 16 by its edge."""
    scale = CELL_MICRONS_PER_PIXEL / (FIELD_MICRONS_PER_PIXEL * 2.0**octave)
    size = (max(1, round(item.image.shape[1] * scale)), max(1, round(item.image.shape[0] * scale)))
    small = cv2.resize(item.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    pad = [(-small.shape[i]) % FIELD_MULTIPLE for i in range(2)]
    return cv2.copyMakeBorder(small, 0, pad[0], 0, pad[1], cv2.BORDER_REPLICATE)


@torch.no_grad()
def validate(network: SaliencyNetwork, fields: list[Field], threshold: float = 0.3) -> dict[str, float]:
    """Recall of known centres, extra peaks on known background, and scale error, a laboratory each."""
    network.eval()
    result: dict[str, float] = {}
    by_lab = defaultdict(list)
    for item in fields:
        if item.split == "val":
            by_lab[item.lab].append(item)
    pixel = FIELD_MICRONS_PER_PIXEL * FIELD_STRIDE
    for lab, items in by_lab.items():
        hit = known = extra = 0
        errors = []
        for item in items[:120]:
            _, centres, scale = network(torch.from_numpy(field_input(item))[None])
            bins = SCALE_FIRST_OCTAVE + SCALE_OCTAVES_PER_BIN * torch.arange(SCALE_BINS)
            errors.append(abs(float((scale.exp() * bins).sum())))
            cells = [c for c in cells_for_detection(item) if not c.not_blast or c.instance]
            points = np.array([[c.x, c.y] for c in cells]) * CELL_MICRONS_PER_PIXEL
            found = [((x + 0.5) * pixel, (y + 0.5) * pixel) for x, y, _ in peaks(centres[0].numpy(), threshold, 4.5 / pixel)]
            known += len(cells)
            for point in points:
                hit += any((point[0] - x) ** 2 + (point[1] - y) ** 2 < 16 for x, y in found)
            for x, y in found:
                u = min(item.parts.shape[1] - 1, int(x / CELL_MICRONS_PER_PIXEL))
                v = min(item.parts.shape[0] - 1, int(y / CELL_MICRONS_PER_PIXEL))
                extra += int(item.parts[v, u] == BACKGROUND)
        result[f"{lab}_recall"] = hit / max(known, 1)
        result[f"{lab}_extra_per_field"] = extra / max(len(items[:120]), 1)
        result[f"{lab}_scale_error_octaves"] = float(np.median(errors))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pbc, bcisc, bccd …")
    parser.add_argument("--runs", type=Path, required=True, help="where runs and the data cache are kept")
    parser.add_argument("--name", default="saliency")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--draws", type=int, default=5000, help="tiles an epoch")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--initial", type=Path, help="ONNX file or checkpoint to start from")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    cv2.setNumThreads(1)
    fields = load_fields(args.data, args.runs / "cache")
    train = [f for f in fields if f.split == "train"]
    swap = stain_swap(train)
    bfloat16 = has_bfloat16()
    network = SaliencyNetwork().to(memory_format=torch.channels_last)
    if args.initial:
        start_from(network, args.initial)
    average = Average(network, 0.998)
    optimiser = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=1e-3)
    run = Run(args.runs / args.name, vars(args))
    first = run.resume(network, average, optimiser)
    for epoch in range(first, args.epochs):
        started, rng = time.time(), np.random.default_rng([args.seed, epoch])
        network.train()
        sums: dict[str, float] = defaultdict(float)
        steps = seen = 0
        for batch in prefetched(batches(train, args.draws, 24 * 80 * 80, rng, swap)):
            done = (epoch + seen / args.draws) / args.epochs
            warm = min(1.0, (epoch * 100 + steps + 1) / 60)
            for group in optimiser.param_groups:
                group["lr"] = args.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))) + 1e-6
            total, parts = loss(network, batch, bfloat16)
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            average.update(network)
            steps, seen = steps + 1, seen + len(batch["field"])
            for key, value in parts.items():
                sums[key] += value
            if steps % 50 == 0:
                progress(f"epoch {epoch} loss {total.item():.3f}", seen, args.draws, started)
        result = {"epoch": epoch, "seconds": time.time() - started, **{f"loss_{k}": v / steps for k, v in sums.items()}}
        result |= validate(average.network, fields)
        print({k: round(v, 3) for k, v in result.items()}, flush=True)
        run.save(network, average, optimiser, result)


if __name__ == "__main__":
    main()
