"""Measures a *running service* on the validation splits and writes `evaluation.json` and the table of `MODEL_CARD.md`.

    npm start &                                   # in another terminal
    python -m leukodiff_training.evaluate --data DIR --url http://127.0.0.1:3000 --out ../models/sg-cldff/1.0.0

Every image is posted as a laboratory would post it: no scale is given, nothing but the file. Rules:

* A crop's cell is the one whose box centre is nearest the crop's centre; no cell is an error.
* PBC: 8 classes; a platelet image is right when no white cell is counted (`totalWbc` is 0).
* BCISC: 5 classes on the single-cell crops that carry a class; any other answer is an error.
* WBC intersection over union: pixels of that cell in its mask against the drawn mask; mean over images; 0 where no cell.
* BCCD: boxes of white cells (also unidentified ones) against drawn WBC boxes, greedy by confidence, intersection over union ≥ 0.5.
* Rescaled: BCCD, ALL-IDB and BCISC fields at ×0.5, ×0.71, ×1.41 and ×2; of the white cells found at ×1, those found again
  (centre within a quarter of its width plus height) and those named the same.
* ALL-IDB fields: a blast is found when its centroid lies inside the mask of a found cell. Debris among the cells is left out.

Intervals: exact binomial (Clopper–Pearson) for shares, bootstrap over images (2,000 draws, seed 0) for means and F1.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import tempfile
import time
import urllib.request
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.stats import beta

from .constants import FIVE_PART

# The bullets of this module's description, so that the report cannot state other rules than the code's reader sees.
RULES = (__doc__ or "").split("\n\nIntervals")[0].split("\n* ")[1:]
WHITE = {
    "neutrophil",
    "lymphocyte",
    "monocyte",
    "eosinophil",
    "basophil",
    "immature_granulocyte",
    "blast",
    "unidentified",
}
DEBRIS = {"Im182", "Im184", "Im190", "Im193"}
TARGETS = {
    "pbc_accuracy": 0.95,
    "bcisc_accuracy": 0.85,
    "zheng1_iou": 0.85,
    "bcisc_iou": 0.85,
    "bccd_f1": 0.90,
    "allidb_blast_recall": 0.85,
    "rescaled_cells_found": 0.98,
    "rescaled_same_class": 0.95,
}


# -- the service ----------------------------------------------------------------------------------------------------------


class Service:
    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.model: dict[str, Any] | None = None  # as the last analysis named it

    def get(self, path: str) -> bytes:
        url = path if path.startswith("http") else self.url + path
        with urllib.request.urlopen(urllib.request.Request(url, headers=self.headers), timeout=120) as answer:
            return answer.read()

    def analyse(self, files: list[Path], fields: dict[str, str] | None = None) -> dict[str, Any]:
        """Posts files as one analysis, waits for it and returns the finished document with all its cells."""
        boundary = uuid.uuid4().hex
        body = bytearray()
        for name, value in (fields or {}).items():
            body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for file in files:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{file.name}"\r\n'
            body += f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + file.read_bytes() + b"\r\n"
        body += f"--{boundary}--\r\n".encode()
        headers = {**self.headers, "Content-Type": f"multipart/form-data; boundary={boundary}", "Prefer": "wait=30"}
        request = urllib.request.Request(f"{self.url}/analyze", data=bytes(body), headers=headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            document = json.loads(answer.read())
        while document["status"] not in ("completed", "failed"):
            time.sleep(0.5)
            document = json.loads(self.get(f"/analyses/{document['id']}"))
        self.model = document["model"]
        cells, path = [], f"/analyses/{document['id']}/cells?limit=200"
        while path:
            page = json.loads(self.get(path))
            cells += page["items"]
            following = page.get("links", {}).get("next")
            path = following["href"] if isinstance(following, dict) else following
        document["cells"] = cells
        return document

    def mask(self, cell: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
        """The cell's label map on the whole image."""
        link = cell["links"]["mask"]
        data = self.get(link["href"] if isinstance(link, dict) else link)
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        whole = np.zeros(shape, np.uint8)
        x, y = cell["box"]["x"], cell["box"]["y"]
        whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask[: shape[0] - y, : shape[1] - x]
        return whole


def each(service: Service, files: list[Path], size: int = 24) -> Iterator[tuple[Path, dict[str, Any], list[dict[str, Any]]]]:
    """(file, its image entry, its cells), posted in analyses of `size` images."""
    for start in range(0, len(files), size):
        chunk = files[start : start + size]
        document = service.analyse(chunk)
        cells = defaultdict(list)
        for cell in document["cells"]:
            cells[cell["image"]].append(cell)
        for image, file in zip(document["images"], chunk, strict=True):
            yield file, image, cells[image["index"]]
        print(f"\r{start + len(chunk)}/{len(files)}", end="", flush=True)
    print()


def middle_of(cell: dict[str, Any]) -> tuple[float, float]:
    box = cell["box"]
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def nearest(image: dict[str, Any], cells: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The cell whose box centre is nearest the image's centre."""
    middle = image["width"] / 2, image["height"] / 2
    return min(cells, key=lambda cell: math.dist(middle_of(cell), middle), default=None)


# -- statistics -----------------------------------------------------------------------------------------------------------


def share(right: int, total: int) -> dict[str, Any]:
    """Value, count and exact 95 % interval of a share (Clopper and Pearson 1934)."""
    low = 0.0 if right == 0 else float(beta.ppf(0.025, right, total - right + 1))
    high = 1.0 if right == total else float(beta.ppf(0.975, right + 1, total - right))
    return {"value": right / total, "count": right, "n": total, "ci95": {"low": low, "high": high}}


def bootstrap(values: list[Any], measure: Callable[[list[Any]], float], draws: int = 2000) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    samples = [measure([values[i] for i in rng.integers(len(values), size=len(values))]) for _ in range(draws)]
    low, high = np.percentile(samples, [2.5, 97.5])
    return {"value": measure(values), "n": len(values), "ci95": {"low": float(low), "high": float(high)}}


def mean(values: list[float]) -> float:
    return float(np.mean(values))


def macro_f1(pairs: list[tuple[str, str]]) -> float:
    names = sorted({truth for truth, _ in pairs})
    scores = []
    for name in names:
        hit = sum(t == name == p for t, p in pairs)
        scores.append(2 * hit / max(1, sum(t == name for t, _ in pairs) + sum(p == name for _, p in pairs)))
    return float(np.mean(scores))


def confusion(pairs: list[tuple[str, str]]) -> dict[str, dict[str, int]]:
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for truth, found in pairs:
        rows[truth][found] += 1
    return {truth: dict(row) for truth, row in sorted(rows.items())}


def intersection_over_union(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


# -- the measures ---------------------------------------------------------------------------------------------------------


def rows_of(path: Path, split: str = "val") -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return [row for row in csv.DictReader(handle) if row["split"] == split]


def scales(images: list[dict[str, Any]]) -> dict[str, Any]:
    """How often the scale was estimated, and its median and spread: one laboratory has (nearly) one scale."""
    sources = Counter(scale_source(i) for i in images)
    values = [v for i in images if (v := microns(i)) is not None]
    spread = (
        {}
        if not values
        else {
            "median": float(np.median(values)),
            "p10": float(np.percentile(values, 10)),
            "p90": float(np.percentile(values, 90)),
        }
    )
    return {"sources": dict(sources), "micronsPerPixel": spread}


def microns(image: dict[str, Any]) -> float | None:
    value = image["micronsPerPixel"]
    return value["value"] if isinstance(value, dict) else value


def scale_source(image: dict[str, Any]) -> str:
    value = image["micronsPerPixel"]
    return value["source"] if isinstance(value, dict) else image.get("scaleSource", "unknown")


def pbc(service: Service, root: Path) -> dict[str, Any]:
    rows = {root / "pbc" / r["file"]: r for r in rows_of(root / "pbc" / "labels.csv")}
    pairs, images, confidences = [], [], []
    for file, image, cells in each(service, list(rows)):
        truth = rows[file]["class"]
        images.append(image)
        if truth == "platelet":
            counted = [c for c in cells if c["class"] in WHITE]
            pairs.append((truth, counted[0]["class"] if counted else "platelet"))
            continue
        cell = nearest(image, [c for c in cells if c["class"] not in {"platelet", "artefact"}]) or nearest(image, cells)
        pairs.append((truth, cell["class"] if cell else "none"))
        if cell:
            confidences.append((cell["confidence"], truth == cell["class"]))
    right = sum(t == p for t, p in pairs)
    return {
        "pbc_accuracy": share(right, len(pairs)),
        "pbc_macro_f1": bootstrap(pairs, macro_f1),
        "pbc_false_blast": share(sum(p == "blast" for _, p in pairs), len(pairs)),
        "pbc_calibration_error": {"value": calibration_error(confidences), "n": len(confidences)},
        "pbc_confusion": confusion(pairs),
        "pbc_scale": scales(images),
    }


def calibration_error(pairs: list[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error over equally wide bins of confidence."""
    total = 0.0
    for i in range(bins):
        inside = [(c, r) for c, r in pairs if i / bins < c <= (i + 1) / bins]
        if inside:
            total += len(inside) * abs(mean([c for c, _ in inside]) - mean([float(r) for _, r in inside]))
    return total / max(1, len(pairs))


def bcisc(service: Service, root: Path) -> dict[str, Any]:
    rows = {root / "bcisc" / r["file"]: r for r in rows_of(root / "bcisc" / "cells.csv")}
    pairs, overlaps, images = [], [], []
    for file, image, cells in each(service, list(rows)):
        row = rows[file]
        images.append(image)
        cell = nearest(image, cells)
        if row["class"]:
            pairs.append((row["class"], cell["class"] if cell else "none"))
        if row["mask"]:
            overlaps.append(mask_overlap(service, root / "bcisc" / row["mask"], image, cell))
    right = sum(t == p and t in FIVE_PART for t, p in pairs)
    return {
        "bcisc_accuracy": share(right, len(pairs)),
        "bcisc_iou": bootstrap(overlaps, mean),
        "bcisc_confusion": confusion(pairs),
        "bcisc_scale": scales(images),
    }


def mask_overlap(service: Service, path: Path, image: dict[str, Any], cell: dict[str, Any] | None) -> float:
    truth = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 64
    if cell is None:
        return 0.0
    found = service.mask(cell, truth.shape) > 0
    return float((truth & found).sum() / (truth | found).sum())


def zheng1(service: Service, root: Path) -> dict[str, Any]:
    rows = {root / "zheng1" / r["file"]: r for r in rows_of(root / "zheng1" / "labels.csv")}
    overlaps, nuclei, pairs, images = [], [], [], []
    for file, image, cells in each(service, list(rows)):
        images.append(image)
        cell = nearest(image, cells)
        path = root / "zheng1" / rows[file]["mask"]
        overlaps.append(mask_overlap(service, path, image, cell))
        truth = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) >= 192
        found = service.mask(cell, truth.shape) == 255 if cell else np.zeros_like(truth)
        nuclei.append(float((truth & found).sum() / max(1, (truth | found).sum())))
        pairs.append((rows[file]["class_weak"], cell["class"] if cell else "none"))
    return {
        "zheng1_iou": bootstrap(overlaps, mean),
        "zheng1_nucleus_iou": bootstrap(nuclei, mean),
        "zheng1_weak_class_agreement": share(sum(t == p for t, p in pairs), len(pairs)),
        "zheng1_scale": scales(images),
    }


def bccd(service: Service, root: Path) -> dict[str, Any]:
    rows = {root / "bccd" / r["file"]: r for r in rows_of(root / "bccd" / "images.csv")}
    truth = defaultdict(list)
    with (root / "bccd" / "boxes.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            if row["kind"] == "WBC":
                truth[row["file"]].append(tuple(float(row[k]) for k in ("xmin", "ymin", "xmax", "ymax")))
    counts, images, pairs = [], [], []
    for file, image, cells in each(service, list(rows)):
        images.append(image)
        open_boxes = list(truth[rows[file]["file"]])
        hit = extra = 0
        for cell in sorted((c for c in cells if c["class"] in WHITE), key=lambda c: -c["confidence"]):
            box = cell["box"]
            drawn = (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
            best = max(open_boxes, key=lambda b: intersection_over_union(drawn, b), default=None)
            if best and intersection_over_union(drawn, best) >= 0.5:
                open_boxes.remove(best)
                hit += 1
                if rows[file]["class"]:
                    pairs.append((rows[file]["class"], cell["class"]))
            else:
                extra += 1
        counts.append((hit, extra, len(open_boxes)))

    def f1(values: list[tuple[int, int, int]]) -> float:
        hit, extra, missed = (sum(v[i] for v in values) for i in range(3))
        return 2 * hit / max(1, 2 * hit + extra + missed)

    return {
        "bccd_f1": {
            **bootstrap(counts, f1),
            "found": sum(c[0] for c in counts),
            "extra": sum(c[1] for c in counts),
            "missed": sum(c[2] for c in counts),
        },
        "bccd_class_as_published": share(sum(t == p for t, p in pairs), len(pairs)),
        "bccd_confusion": confusion(pairs),
        "bccd_scale": scales(images),
    }


def allidb(service: Service, root: Path) -> dict[str, Any]:
    rows = {root / "allidb" / r["file"]: r for r in rows_of(root / "allidb" / "fields.csv")}
    centroids = defaultdict(list)
    with (root / "allidb" / "centroids.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            centroids[row["file"]].append((float(row["x"]), float(row["y"])))
    inside = total = named = healthy_cells = healthy_blasts = 0
    images = []
    for file, image, cells in each(service, list(rows), size=4):
        images.append(image)
        masks = [
            (cell, service.mask(cell, (image["height"], image["width"])))
            for cell in cells
            if cell["class"] not in {"artefact", "platelet"}
        ]
        for x, y in centroids[rows[file]["file"]]:
            at = [cell for cell, mask in masks if mask[min(mask.shape[0] - 1, int(y)), min(mask.shape[1] - 1, int(x))]]
            total += 1
            inside += bool(at)
            named += any(cell["class"] == "blast" for cell in at)
        if rows[file]["leukaemia"] == "0":
            healthy_cells += sum(c["class"] in WHITE for c in cells)
            healthy_blasts += sum(c["class"] == "blast" for c in cells)
    single = {
        root / "allidb" / r["file"]: r
        for r in rows_of(root / "allidb" / "cells.csv")
        if Path(r["file"]).name.split("_")[0] not in DEBRIS
    }
    overlaps = [
        mask_overlap(service, root / "allidb" / single[f]["mask"], image, nearest(image, cells))
        for f, image, cells in each(service, list(single))
    ]
    result = {
        "allidb_blast_recall": share(inside, total),
        "allidb_blast_named_blast": share(named, total),
        "allidb_cell_iou": bootstrap(overlaps, mean),
        "allidb_scale": scales(images),
    }
    if healthy_cells:
        result["allidb_healthy_false_blast"] = share(healthy_blasts, healthy_cells)
    return result


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


MEASURES = {"pbc": pbc, "bcisc": bcisc, "zheng1": zheng1, "bccd": bccd, "allidb": allidb, "rescale": rescale}


# -- the report -----------------------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    lines = ["| measure | value | 95 % interval | n | target |", "|---|---|---|---|---|"]
    for name, entry in results.items():
        if not isinstance(entry, dict) or "value" not in entry:
            continue
        interval = entry.get("ci95")
        target = TARGETS.get(name)
        reached = "" if target is None else f"≥ {target} {'✓' if entry['value'] >= target else '✗ missed'}"
        bounds = f"{interval['low']:.3f}–{interval['high']:.3f}" if interval else ""
        lines.append(f"| {name.replace('_', ' ')} | {entry['value']:.3f} | {bounds} | {entry['n']} | {reached} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--key", help="API key, where the service asks for one")
    parser.add_argument("--out", type=Path, required=True, help="folder of evaluation.json and MODEL_CARD.md")
    parser.add_argument("--only", choices=list(MEASURES), nargs="*", default=list(MEASURES))
    args = parser.parse_args()
    service = Service(args.url, args.key)
    path = args.out / "evaluation.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    results = report.get("results", {})
    for name in args.only:
        print(name)
        results |= MEASURES[name](service, args.data)
    report = {
        "model": service.model,
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "command": "python -m leukodiff_training.evaluate --data DIR --url URL --out models/sg-cldff/VERSION",
        "rules": [" ".join(rule.split()) for rule in RULES],
        "split": "val",
        "targets": TARGETS,
        "results": results,
    }
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    text = table(results)
    print(text)
    card = args.out / "MODEL_CARD.md"
    if card.exists():
        before, _, rest = card.read_text().partition("<!-- evaluation -->")
        _, _, after = rest.partition("<!-- /evaluation -->")
        card.write_text(f"{before}<!-- evaluation -->\n{text}\n<!-- /evaluation -->{after}")


if __name__ == "__main__":
    main()
