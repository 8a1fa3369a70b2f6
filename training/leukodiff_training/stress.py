"""What the service makes of the same smears otherwise: other magnifications, lamps, focus, compression; and of no smear at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .client import WHITE, Service, each, middle_of, nearest
from .evaluate import microns, readings, rows_of
from .outliers import HELD_OUT, drawn
from .statistics import area_under_curve, share


def cast(image: np.ndarray) -> np.ndarray:
    """A warm lamp: blue at three quarters, red up by a tenth. Images are BGR."""
    return np.clip(image * np.array([0.75, 0.95, 1.1]), 0, 255).astype(np.uint8)


def vignette(image: np.ndarray) -> np.ndarray:
    """Down to half the light in the corners, more in blue than in red."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    radius = (x**2 + y**2)[..., None] / 2
    return (image * (1 - radius * np.array([0.55, 0.5, 0.45]))).astype(np.uint8)


def blur(image: np.ndarray) -> np.ndarray:
    """Out of focus by a tenth of a red cell's radius or so: σ of 1 % of a crop's side, 1.5 px at most."""
    return cv2.GaussianBlur(image, (0, 0), min(1.5, 0.008 * min(image.shape[:2])))


def jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)


def half(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def double(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)


DISTORTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cast": cast,
    "vignette": vignette,
    "blur": blur,
    "jpeg40": jpeg,
    "half": half,
    "double": double,
}


def distort(service: Service, root: Path) -> dict[str, Any]:
    """Class accuracy of the same cells, a distortion each, against the files as they are."""
    files: dict[Path, list[tuple[float, float, str]]] = {}
    for row in rows_of(root / "pbc" / "labels.csv")[::4]:
        if row["class"] != "platelet":
            files[root / "pbc" / row["file"]] = [(0.5, 0.5, row["class"])]
    for row in rows_of(root / "bcisc" / "cells.csv"):
        if row["class"]:
            files[root / "bcisc" / row["file"]] = [(0.5, 0.5, row["class"])]
    again = readings("bccd")
    for row in rows_of(root / "bccd" / "images.csv"):
        files[root / "bccd" / row["file"]] = [place for place in again.get(row["file"], []) if place[2]]
    result: dict[str, Any] = {}
    plain = _right(service, list(files.items()), lambda image: image)
    result["distorted_not_at_all"] = share(sum(plain), len(plain))
    losses = {}
    for name, change in DISTORTIONS.items():
        right = _right(service, list(files.items()), change)
        result[f"distorted_{name}"] = share(sum(right), len(right))
        losses[name] = (sum(plain) - sum(right)) / len(plain)
    worst = max(losses, key=lambda name: losses[name])
    result["distorted_worst_loss"] = {"value": losses[worst], "n": len(plain), "distortion": worst}
    return result


def _right(
    service: Service,
    files: list[tuple[Path, list[tuple[float, float, str]]]],
    change: Callable[[np.ndarray], np.ndarray],
) -> list[bool]:
    right: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        places = {}
        for number, (file, cells) in enumerate(files):
            path = Path(folder) / f"{number}.png"
            cv2.imwrite(str(path), change(cv2.imread(str(file))))
            places[path] = cells
        for path, image, cells in each(service, list(places), size=16):
            for x, y, truth in places[path]:
                point = x * image["width"], y * image["height"]
                inside = [c for c in cells if c["class"] not in {"platelet", "artefact"} and _holds(c["box"], point)]
                single = len(places[path]) == 1 and (x, y) == (0.5, 0.5)
                cell = nearest(image, inside or (cells if single else []))
                right.append(cell is not None and cell["class"] == truth)
    return right


def _holds(box: dict[str, float], point: tuple[float, float]) -> bool:
    return box["x"] <= point[0] < box["x"] + box["width"] and box["y"] <= point[1] < box["y"] + box["height"]


def unknown(service: Service, root: Path, count: int = 60) -> dict[str, Any]:
    """Pictures from nowhere against smears: does the service find cells that it is sure of?"""
    rng = np.random.default_rng(11)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number in range(count):
            path = Path(folder) / f"{number}.png"
            cv2.imwrite(str(path), drawn(640, rng, HELD_OUT)[:480, :, ::-1])
            paths.append(path)
        nowhere = [cells for _, _, cells in each(service, paths)]
    smears = [root / "bccd" / row["file"] for row in rows_of(root / "bccd" / "images.csv")]
    known = [cells for _, _, cells in each(service, smears)]

    def surest(cells: list[dict[str, Any]]) -> float:
        return max((c["confidence"] for c in cells if c["class"] in WHITE and c["class"] != "unidentified"), default=0.0)

    scores = np.array([surest(cells) for cells in [*known, *nowhere]])
    positive = np.arange(len(scores)) < len(known)
    confident = sum(surest(cells) >= 0.8 for cells in nowhere)
    return {
        "unknown_auroc": {"value": area_under_curve(scores, positive), "n": len(scores)},
        "unknown_pictures_with_a_confident_cell": share(confident, count),
    }


def rescale(service: Service, root: Path, factors: tuple[float, ...] = (0.5, 0.71, 1.41, 2.0)) -> dict[str, Any]:
    """The same field at other magnifications: which of the white cells found at ×1 are found again, and named the same?"""
    files = [root / "bccd" / r["file"] for r in rows_of(root / "bccd" / "images.csv")][::2]
    files += [root / "allidb" / r["file"] for r in rows_of(root / "allidb" / "fields.csv")]
    files += [root / "bcisc" / r["file"] for r in rows_of(root / "bcisc" / "fields.csv")][::3]
    found = same = total = 0
    by_factor: dict[str, dict[str, int]] = {}
    scale_errors = []
    with tempfile.TemporaryDirectory() as folder:
        reference = {f: (image, cells) for f, image, cells in each(service, files, size=8)}
        for factor in factors:
            resized = {}
            for file in files:
                picture = cv2.imread(str(file))
                how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
                path = Path(folder) / f"{factor}-{file.stem}.png"
                cv2.imwrite(str(path), cv2.resize(picture, None, fx=factor, fy=factor, interpolation=how))
                resized[path] = file
            counts = {"cells": 0, "found": 0, "sameClass": 0}
            for path, image, cells in each(service, list(resized), size=8):
                before_image, before = reference[resized[path]]
                one, other = microns(before_image), microns(image)
                if one and other:
                    scale_errors.append(abs(float(np.log2(other * factor / one))))
                for cell in (c for c in before if c["class"] in WHITE):
                    box, (x, y) = cell["box"], (factor * v for v in middle_of(cell))
                    reach = 0.25 * (box["width"] + box["height"]) * factor
                    again = [
                        c
                        for c in cells
                        if c["class"] in WHITE and abs(middle_of(c)[0] - x) < reach and abs(middle_of(c)[1] - y) < reach
                    ]
                    counts["cells"] += 1
                    counts["found"] += bool(again)
                    counts["sameClass"] += any(c["class"] == cell["class"] for c in again)
            by_factor[str(factor)] = counts
            total, found, same = total + counts["cells"], found + counts["found"], same + counts["sameClass"]
    return {
        "rescaled_cells_found": share(found, total),
        "rescaled_same_class": share(same, total),
        "rescaled_by_factor": by_factor,
        "rescaled_scale_error_octaves": {"median": float(np.median(scale_errors)), "p90": float(np.percentile(scale_errors, 90))},
    }
