"""Measures a *running service* on the validation splits and writes `evaluation.json` and the table of `MODEL_CARD.md`.

    npm start &                                   # in another terminal
    python -m leukodiff_training.evaluate --data DIR --url http://127.0.0.1:3000 --out ../models/sg-cldff/VERSION

Every image is posted as a laboratory would post it: no scale is given, nothing but the file. Rules:

* A crop's cell is the one whose box centre is nearest the crop's centre; no cell is an error.
* PBC: 8 classes; a platelet image is right when no white cell is counted (`totalWbc` is 0).
* BCISC: 5 classes on the single-cell crops that carry a class; any other answer is an error.
* WBC intersection over union: pixels of that cell in its mask against the drawn cell nearest the crop's centre (a crop may
  show, and its mask hold, several); mean over images; 0 where no cell is found.
* BCCD: boxes of white cells (also unidentified ones) against drawn WBC boxes, greedy by confidence, intersection over union ≥ 0.5.
  Classes twice: as published, and as read again (`readings.csv`: both readers agreed; neither was a haematologist).
* ALL-IDB fields: a blast is found when its centroid lies inside the mask of a found cell. Debris among the cells is left out. A
  field is called leukaemic where at least one cell is named blast and blasts are 20 % of its white cells or more.
* Morphology: PBC cells with WBCAtt attributes, as the service described them; an undescribed cell is an error.
* False blasts and immature granulocytes: share of the white cells of laboratories that have none.
* Calibration, self-knowledge: named nucleated cells of PBC, BCISC and BCCD (read again) with a class, pooled.
* Rescaled: BCCD, ALL-IDB and BCISC fields at ×0.5, ×0.71, ×1.41 and ×2; of the white cells found at ×1, those found again
  (centre within a quarter of its width plus height) and those named the same.
* Distorted: a quarter of PBC, all of BCISC and BCCD (read again), with a colour cast, a vignette, blur, JPEG at quality 40, and at
  half and double size: accuracy against that of the same images as they are.
* Unknown: drawn pictures of families that training never drew (`outliers.HELD_OUT`) at 640×480, against BCCD fields: AUROC of the
  highest confidence of a white cell (0 where none is found), and confident white cells found in them.

Intervals: exact binomial (Clopper–Pearson) for shares, bootstrap over images (2,000 draws, seed 0) for means and F1.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .client import WHITE, Service, each, nearest
from .constants import ATTRIBUTES, FIVE_PART
from .data import READINGS
from .statistics import (
    area_under_curve,
    bootstrap,
    calibration_error,
    confusion,
    intersection_over_union,
    macro_f1,
    mask_overlap,
    mean,
    share,
)
from .train import ATTRIBUTE_COLUMNS, central_component

# The bullets of this module's description, so that the report cannot state other rules than the code's reader sees.
RULES = (__doc__ or "").split("\n\nIntervals")[0].split("\n* ")[1:]
DEBRIS = {"Im182", "Im184", "Im190", "Im193"}
# Which laboratories show no such cell. PBC has immature granulocytes, ALL-IDB's fields of leukaemia have blasts.
ABSENT = {
    *(("blast", lab) for lab in ("pbc", "bcisc", "bccd", "zheng1", "allidb healthy")),
    *(("immature_granulocyte", lab) for lab in ("bcisc", "bccd", "zheng1", "allidb healthy")),
}
# Value to reach; where small is good, `AT_MOST` says so.
TARGETS = {
    "pbc_accuracy": 0.985,
    "pbc_macro_f1": 0.98,
    "pbc_mean_attribute_macro_f1": 0.85,
    "pbc_band_or_segmented": 0.80,
    "bcisc_accuracy": 0.96,
    "bcisc_iou": 0.93,
    "zheng1_iou": 0.94,
    "zheng1_nucleus_iou": 0.92,
    "bccd_f1": 0.97,
    "bccd_class_read_again": 0.95,
    "allidb_blast_recall": 0.95,
    "allidb_cell_iou": 0.92,
    "allidb_fields_called_rightly": 0.97,
    "rescaled_cells_found": 0.98,
    "rescaled_same_class": 0.95,
    "calibration_error": 0.03,
    "false_blast": 0.01,
    "false_immature_granulocyte": 0.01,
    "auroc_consistency": 0.75,
    "auroc_consistency_times_confidence": 0.90,
    "accuracy_of_90_percent_most_trusted": 0.995,
    "distorted_worst_loss": 0.03,
    "unknown_auroc": 0.95,
}
AT_MOST = {"calibration_error", "false_blast", "false_immature_granulocyte", "distorted_worst_loss"}


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


def readings(lab: str) -> dict[str, list[tuple[float, float, str]]]:
    """(x, y, class) of the cells of each file that were read again; x and y are shares of width and height."""
    found = defaultdict(list)
    with READINGS.open(newline="") as handle:
        for row in csv.DictReader(handle):
            if row["lab"] == lab:
                found[row["file"]].append((float(row["x"]), float(row["y"]), row["class"]))
    return found


def leukaemic(cells: list[dict[str, Any]]) -> bool:
    """Is a field called leukaemic? At least one cell is named blast, and blasts are a fifth of the white cells or more.

    20 % is the share of blasts at which an acute leukaemia is diagnosed (WHO classification, marrow or blood).
    """
    white = [cell for cell in cells if cell["class"] in WHITE]
    blasts = sum(cell["class"] == "blast" for cell in white)
    return blasts > 0 and blasts >= 0.2 * len(white)


def morphology(described: list[tuple[dict[str, str], dict[str, Any]]]) -> dict[str, Any]:
    """Accuracy and macro-F1 of each attribute, on cells whose attributes are known, however they were named."""
    result: dict[str, Any] = {}
    scores = []
    for name, column in zip(ATTRIBUTES, ATTRIBUTE_COLUMNS, strict=True):
        pairs = []
        for row, cell in described:
            found = cell["subtype"] if name == "subtype" else (cell["morphology"] or {}).get("attributes", {}).get(name)
            if row[column]:
                pairs.append((row[column], found["value"] if found else "none"))
        entry = {**share(sum(t == p for t, p in pairs), len(pairs)), "macroF1": macro_f1(pairs), "confusion": confusion(pairs)}
        result[f"pbc_{name}"] = entry
        if name != "subtype":
            scores.append(entry["macroF1"])
    result["pbc_mean_attribute_macro_f1"] = {"value": mean(scores), "n": len(scores)}
    neutrophils = [(row["subtype"], cell["subtype"]) for row, cell in described if row["class"] == "neutrophil" and row["subtype"]]
    right = sum(bool(found) and found["value"] == truth for truth, found in neutrophils)
    result["pbc_band_or_segmented"] = share(right, len(neutrophils))
    return result


@dataclass
class Ledger:
    """What was said of single cells, pooled over the measures: calibration, self-knowledge, false alarms."""

    cells: list[dict[str, Any]] = field(default_factory=list)
    present: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, lab: str, truth: str, cell: dict[str, Any] | None) -> None:
        """A cell whose class is known; None: it was not found."""
        found = cell or {"class": "none", "confidence": 0.0, "saliencyConsistency": 0.0, "rejectScore": None}
        self.cells.append(
            {
                "lab": lab,
                "truth": truth,
                "class": found["class"],
                "confidence": found["confidence"],
                "consistency": found["saliencyConsistency"],
                "reject": found["rejectScore"],
            }
        )

    def seen(self, lab: str, cells: list[dict[str, Any]]) -> None:
        self.present[lab].update(cell["class"] for cell in cells if cell["class"] in WHITE)

    def results(self) -> dict[str, Any]:
        """Platelets are left out: whether one is named is decided by the count, not by its confidence."""
        named = [c for c in self.cells if c["truth"] != "platelet" and c["class"] not in ("none", "unidentified")]
        right = np.array([c["class"] == c["truth"] for c in named])
        confidence = np.array([c["confidence"] for c in named])
        consistency = np.array([c["consistency"] for c in named])
        both = confidence * consistency
        trusted = np.argsort(-both, kind="stable")[: math.floor(0.9 * len(both))]
        result: dict[str, Any] = {
            "calibration_error": {"value": calibration_error(list(zip(confidence, right, strict=True))), "n": len(named)},
            "accuracy_of_90_percent_most_trusted": share(int(right[trusted].sum()), len(trusted)),
        }
        if 0 < right.sum() < len(right):
            result |= {
                "auroc_consistency": {"value": area_under_curve(consistency, right), "n": len(named), "wrong": int((~right).sum())},
                "auroc_consistency_times_confidence": {"value": area_under_curve(both, right), "n": len(named)},
            }
        for name in ("blast", "immature_granulocyte"):
            labs = [lab for lab in self.present if (name, lab) in ABSENT]
            total = sum(sum(self.present[lab].values()) for lab in labs)
            if total:
                result[f"false_{name}"] = share(sum(self.present[lab][name] for lab in labs), total)
        return result


def pbc(service: Service, root: Path, ledger: Ledger) -> dict[str, Any]:
    rows = {root / "pbc" / r["file"]: r for r in rows_of(root / "pbc" / "labels.csv")}
    pairs, images, described = [], [], []
    for file, image, cells in each(service, list(rows)):
        truth = rows[file]["class"]
        images.append(image)
        if truth == "platelet":
            counted = [c for c in cells if c["class"] in WHITE]
            pairs.append((truth, counted[0]["class"] if counted else "platelet"))
            continue
        cell = nearest(image, [c for c in cells if c["class"] not in {"platelet", "artefact"}]) or nearest(image, cells)
        pairs.append((truth, cell["class"] if cell else "none"))
        ledger.add("pbc", truth, cell)
        if cell:
            ledger.seen("pbc", [cell])
            described.append((rows[file], cell))
    right = sum(t == p for t, p in pairs)
    return {
        "pbc_accuracy": share(right, len(pairs)),
        "pbc_macro_f1": bootstrap(pairs, macro_f1),
        "pbc_false_blast": share(sum(p == "blast" for _, p in pairs), len(pairs)),
        **morphology(described),
        "pbc_confusion": confusion(pairs),
        "pbc_scale": scales(images),
    }


def bcisc(service: Service, root: Path, ledger: Ledger) -> dict[str, Any]:
    rows = {root / "bcisc" / r["file"]: r for r in rows_of(root / "bcisc" / "cells.csv")}
    pairs, overlaps, images = [], [], []
    for file, image, cells in each(service, list(rows)):
        row = rows[file]
        images.append(image)
        cell = nearest(image, cells)
        if row["class"]:
            pairs.append((row["class"], cell["class"] if cell else "none"))
            ledger.add("bcisc", row["class"], cell)
            ledger.seen("bcisc", [cell] if cell else [])
        if row["mask"]:
            overlaps.append(outline_overlap(service, root / "bcisc" / row["mask"], image, cell))
    right = sum(t == p and t in FIVE_PART for t, p in pairs)
    return {
        "bcisc_accuracy": share(right, len(pairs)),
        "bcisc_iou": bootstrap(overlaps, mean),
        "bcisc_confusion": confusion(pairs),
        "bcisc_scale": scales(images),
    }


def outline_overlap(service: Service, path: Path, image: dict[str, Any], cell: dict[str, Any] | None) -> float:
    truth = central_component(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 64)
    return mask_overlap(service.mask(cell, truth.shape) > 0, truth) if cell else 0.0


def zheng1(service: Service, root: Path, ledger: Ledger) -> dict[str, Any]:
    rows = {root / "zheng1" / r["file"]: r for r in rows_of(root / "zheng1" / "labels.csv")}
    overlaps, nuclei, pairs, images = [], [], [], []
    for file, image, cells in each(service, list(rows)):
        images.append(image)
        cell = nearest(image, cells)
        path = root / "zheng1" / rows[file]["mask"]
        overlaps.append(outline_overlap(service, path, image, cell))
        truth = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) >= 192
        found = service.mask(cell, truth.shape) == 255 if cell else np.zeros_like(truth)
        nuclei.append(mask_overlap(found, truth))
        pairs.append((rows[file]["class_weak"], cell["class"] if cell else "none"))
        ledger.seen("zheng1", [cell] if cell else [])
    return {
        "zheng1_iou": bootstrap(overlaps, mean),
        "zheng1_nucleus_iou": bootstrap(nuclei, mean),
        "zheng1_weak_class_agreement": share(sum(t == p for t, p in pairs), len(pairs)),
        "zheng1_scale": scales(images),
    }


def bccd(service: Service, root: Path, ledger: Ledger) -> dict[str, Any]:
    rows = {root / "bccd" / r["file"]: r for r in rows_of(root / "bccd" / "images.csv")}
    truth = defaultdict(list)
    with (root / "bccd" / "boxes.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            if row["kind"] == "WBC":
                truth[row["file"]].append(tuple(float(row[k]) for k in ("xmin", "ymin", "xmax", "ymax")))
    read_again = readings("bccd")
    counts, images, pairs, again = [], [], [], []
    for file, image, cells in each(service, list(rows)):
        images.append(image)
        ledger.seen("bccd", cells)
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
                for x, y, name in read_again.get(rows[file]["file"], []):
                    x, y = x * image["width"], y * image["height"]
                    if name and best[0] <= x < best[2] and best[1] <= y < best[3]:
                        again.append((name, cell["class"]))
                        ledger.add("bccd", name, cell)
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
        "bccd_class_as_published_confusion": confusion(pairs),
        "bccd_class_read_again": share(sum(t == p for t, p in again), len(again)),
        "bccd_confusion": confusion(again),
        "bccd_scale": scales(images),
    }


def allidb(service: Service, root: Path, ledger: Ledger) -> dict[str, Any]:
    rows = {root / "allidb" / r["file"]: r for r in rows_of(root / "allidb" / "fields.csv")}
    centroids = defaultdict(list)
    with (root / "allidb" / "centroids.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            centroids[row["file"]].append((float(row["x"]), float(row["y"])))
    inside = total = named = healthy_cells = healthy_blasts = fields_right = 0
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
        fields_right += leukaemic(cells) == (rows[file]["leukaemia"] == "1")
        if rows[file]["leukaemia"] == "0":
            ledger.seen("allidb healthy", cells)
            healthy_cells += sum(c["class"] in WHITE for c in cells)
            healthy_blasts += sum(c["class"] == "blast" for c in cells)
    single = {
        root / "allidb" / r["file"]: r
        for r in rows_of(root / "allidb" / "cells.csv")
        if Path(r["file"]).name.split("_")[0] not in DEBRIS
    }
    overlaps = [
        outline_overlap(service, root / "allidb" / single[f]["mask"], image, nearest(image, cells))
        for f, image, cells in each(service, list(single))
    ]
    result = {
        "allidb_blast_recall": share(inside, total),
        "allidb_blast_named_blast": share(named, total),
        "allidb_fields_called_rightly": share(fields_right, len(images)),
        "allidb_cell_iou": bootstrap(overlaps, mean),
        "allidb_scale": scales(images),
    }
    if healthy_cells:
        result["allidb_healthy_false_blast"] = share(healthy_blasts, healthy_cells)
    return result


MEASURES = {"pbc": pbc, "bcisc": bcisc, "zheng1": zheng1, "bccd": bccd, "allidb": allidb}
# These need no truth of their own, or look at what the others collected.
STRESS = ("rescale", "distort", "unknown")


# -- the report -----------------------------------------------------------------------------------------------------------


def reached(name: str, value: float) -> str:
    target = TARGETS.get(name)
    if target is None:
        return ""
    good = value <= target if name in AT_MOST else value >= target
    return f"{'≤' if name in AT_MOST else '≥'} {target} {'✓' if good else '✗ missed'}"


def table(results: dict[str, Any]) -> str:
    lines = ["| measure | value | 95 % interval | n | target |", "|---|---|---|---|---|"]
    for name, entry in results.items():
        if not isinstance(entry, dict) or "value" not in entry:
            continue
        interval = entry.get("ci95")
        bounds = f"{interval['low']:.3f}–{interval['high']:.3f}" if interval else ""
        lines.append(
            f"| {name.replace('_', ' ')} | {entry['value']:.3f} | {bounds} | {entry['n']} | {reached(name, entry['value'])} |"
        )
    return "\n".join(lines)


def by_class(rows: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Sensitivity and positive predictive value of each class of a confusion matrix (truth → answer → count)."""
    result: dict[str, Any] = {}
    for name, row in rows.items():
        answered = sum(other.get(name, 0) for other in rows.values())
        result[name] = {"sensitivity": share(row.get(name, 0), sum(row.values()))}
        if answered:
            result[name]["positivePredictiveValue"] = share(row.get(name, 0), answered)
    return result


def class_table(results: dict[str, Any]) -> str:
    def cell(entry: dict[str, Any] | None) -> str:
        if entry is None:
            return "never answered"
        low, high = entry["ci95"].values()
        return f"{entry['value']:.3f} ({low:.3f}–{high:.3f}), {entry['count']} of {entry['n']}"

    lines = ["| laboratory | class | sensitivity | positive predictive value |", "|---|---|---|---|"]
    for lab in ("pbc", "bcisc", "bccd"):
        for name, entry in results.get(f"{lab}_classes", {}).items():
            shares = [cell(entry.get(key)) for key in ("sensitivity", "positivePredictiveValue")]
            lines.append(f"| {lab} | {name.replace('_', ' ')} | {shares[0]} | {shares[1]} |")
    return "\n".join(lines)


def between(text: str, name: str, content: str) -> str:
    """`text` with `content` between its markers `<!-- name -->` and `<!-- /name -->`; as it is where it has none."""
    before, opened, rest = text.partition(f"<!-- {name} -->")
    _, closed, after = rest.partition(f"<!-- /{name} -->")
    return f"{before}{opened}\n{content}\n{closed}{after}" if opened and closed else text


def main() -> None:
    from . import figures, stress

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--key", help="API key, where the service asks for one")
    parser.add_argument("--out", type=Path, required=True, help="folder of evaluation.json and MODEL_CARD.md")
    parser.add_argument("--only", choices=[*MEASURES, *STRESS], nargs="*", default=[*MEASURES, *STRESS])
    args = parser.parse_args()
    service = Service(args.url, args.key)
    path = args.out / "evaluation.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    results, ledger = report.get("results", {}), Ledger()
    for name in args.only:
        print(name)
        if name in MEASURES:
            results |= MEASURES[name](service, args.data, ledger)
        else:
            results |= getattr(stress, name)(service, args.data)
    if set(MEASURES) <= set(args.only):
        results |= ledger.results()
        figures.draw(ledger.cells, results, args.out)
    results |= {f"{lab}_classes": by_class(results[f"{lab}_confusion"]) for lab in MEASURES if f"{lab}_confusion" in results}
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
        card.write_text(between(between(card.read_text(), "evaluation", text), "classes", class_table(results)))


if __name__ == "__main__":
    main()
