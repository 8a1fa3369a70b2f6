"""Measures a network on what it was trained without, and pools such runs into the figures of the model card.

    python -m leukodiff_training.crossval --runs DIR --out ../models/sg-cldff/VERSION/cross-validation.json

`train.py --leave-out LAB` and `train.py --folds K --fold I` leave `left-out.npz` in their run's folder: a row a cell, with what the
exported graph answers for the cell's centred crop at the true scale. The saliency network of these runs had seen all laboratories;
it knows no classes. `--data` and `--model` add the same of a shipped model on the validation split: where Grad-CAM points, and the
morphology, without the way through the service.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .constants import ATTRIBUTES, CLASS_INDEX, CLASSES, FIVE_PART, NUCLEUS, UNKNOWN
from .data import Field, load_fields
from .export import CellGraph, load_networks
from .runs import finished, report_head
from .saliency import SaliencyNetwork
from .sgcldff import SGCLDFF
from .statistics import area_under_curve, confusion, mask_overlap, share
from .train import Draw, attribute_labels, central_component, example, prior_of


@torch.no_grad()
def answers(
    network: SGCLDFF,
    saliency: SaliencyNetwork,
    fields: list[Field],
    size: int = 32,
    instead: Callable[[torch.Tensor], torch.Tensor] = lambda prior: prior,
) -> dict[str, np.ndarray]:
    """What the exported graph says of every cell with a class or an outline, at temperature 1.

    `instead` makes of the priors N×160×160 of some crops those that the graph is given.
    """
    graph = CellGraph(network, 1.0).eval()
    draws = [Draw(item, cell, cell.x, cell.y, cell.label) for item in fields for cell in item.cells if cell.label or cell.instance]
    rows: dict[str, list[Any]] = defaultdict(list)
    for start in range(0, len(draws), size):
        chunk = draws[start : start + size]
        examples = [example(d, None) for d in chunk]
        rgb, prior = prior_of(saliency, torch.from_numpy(np.stack([e["context"] for e in examples])))
        outputs = graph(rgb.permute(0, 2, 3, 1).to(torch.uint8), instead(prior[:, 0]))
        _, logits, segmentation, cam, score, parts, described, reject = (o.numpy() for o in outputs)
        for i, (draw, e) in enumerate(zip(chunk, examples, strict=True)):
            rows["lab"].append(draw.item.lab)
            rows["name"].append(draw.item.name)
            rows["place"].append((draw.x, draw.y))
            rows["label"].append(CLASS_INDEX[draw.label] if draw.label and draw.cell and draw.cell.weight > 0 else -1)
            rows["logits"].append(logits[i])
            rows["consistency"].append(score[i])
            rows["parts"].append(parts[i])
            rows["attributes"].append(described[i])
            rows["attribute_labels"].append(attribute_labels(draw.cell))
            rows["reject"].append(reject[i])
            # Where is the evidence? The CAM's maximum and its energy against the drawn cell.
            truth, iou, nucleus_iou, pointed, inside = e["parts"], np.nan, np.nan, np.nan, np.nan
            known, white = truth != UNKNOWN, (truth > 0) & (truth != UNKNOWN)
            if draw.cell is not None and draw.cell.instance and white.any():
                found = central_component(segmentation[i, 0] < 0.5)
                iou = mask_overlap(found & known, white)
                if (truth == NUCLEUS).any():
                    nucleus_iou = mask_overlap((segmentation[i, 2] > segmentation[i, 1]) & found & known, truth == NUCLEUS)
                drawn = white.reshape(20, 4, 20, 4).mean(axis=(1, 3))
                pointed = float(drawn.flat[cam[i].argmax()] > 0)
                inside = float((cam[i] * np.minimum(1, drawn * 2)).sum() / (cam[i].sum() + 1e-6))
            for name, value in (("iou", iou), ("nucleus_iou", nucleus_iou), ("pointed", pointed), ("energy", inside)):
                rows[name].append(value)
    return {name: np.array(values) for name, values in rows.items()}


def measure(network: SGCLDFF, saliency: SaliencyNetwork, fields: list[Field], folder: Path) -> None:
    rows = answers(network.eval(), saliency, fields)
    np.savez_compressed(folder / "left-out.npz", **rows)
    for lab, entry in summary(rows).items():
        print(lab, json.dumps(entry))


def summary(rows: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Figures a laboratory: class accuracy (five-part where the label is one of the five), false blasts, overlaps."""
    result: dict[str, dict[str, Any]] = {}
    for lab in sorted(set(rows["lab"])):
        here = rows["lab"] == lab
        label, predicted = rows["label"][here], rows["logits"][here].argmax(axis=1)
        five = (label >= 0) & (label < len(FIVE_PART))
        entry: dict[str, Any] = {}
        if five.any():
            entry["five_part_accuracy"] = share(int((label == predicted)[five].sum()), int(five.sum()))
            not_blast = five & (lab != "pbc")
            if not_blast.any():
                for name in ("blast", "immature_granulocyte", "erythroblast"):
                    entry[f"false_{name}"] = share(int((predicted[not_blast] == CLASS_INDEX[name]).sum()), int(not_blast.sum()))
        named = label >= 0
        if named.any():
            entry["accuracy"] = share(int((label == predicted)[named].sum()), int(named.sum()))
            pairs = [(CLASSES[t], CLASSES[p]) for t, p in zip(label[named], predicted[named], strict=True)]
            entry["confusion"] = confusion(pairs)
        for name in ("iou", "nucleus_iou", "pointed", "energy"):
            values = rows[name][here]
            values = values[~np.isnan(values)]
            if len(values):
                entry[name] = {"value": float(values.mean()), "n": len(values)}
        truth = rows["attribute_labels"][here]
        if (truth >= 0).any():
            entry["attributes"] = attribute_scores(rows["attributes"][here], truth)
        result[lab] = entry
    return result


def attribute_scores(described: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Accuracy and macro-F1 of each morphology attribute."""
    scores, first = {}, 0
    for column, (name, values) in enumerate(ATTRIBUTES.items()):
        known = truth[:, column] >= 0
        if known.any():
            t, p = truth[known, column], described[known, first : first + len(values)].argmax(axis=1)
            f1 = [2 * ((t == v) & (p == v)).sum() / max(1, (t == v).sum() + (p == v).sum()) for v in sorted(set(t))]
            scores[name] = {"accuracy": float((t == p).mean()), "macroF1": float(np.mean(f1)), "n": int(known.sum())}
        first += len(values)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--data", type=Path, help="with --model: also what that model says of the validation cells")
    parser.add_argument("--model", type=Path, help="folder of exported networks")
    args = parser.parse_args()
    report: dict[str, Any] = {
        **report_head("python -m leukodiff_training.crossval --runs DIR --data DIR --model models/sg-cldff/VERSION --out FILE"),
        "leaveOneLaboratoryOut": {},
        "crossValidated": {},
    }
    if args.model and args.data:
        saliency, network = load_networks(args.runs, str(args.model / "saliency.onnx"), str(args.model / "sg-cldff.onnx"))
        inside = [item for item in load_fields(args.data, args.runs / "cache") if item.split == "val"]
        report["validation"] = summary(answers(network, saliency, inside))
    folds, outside = [], []
    for _, plan, rows in finished(args.runs):
        if len(plan["leave_out"]) > 1:
            continue  # where other runs start from, not one of a laboratory left out
        (folds if plan["folds"] else outside).append(rows)
        if not plan["folds"]:
            report["leaveOneLaboratoryOut"] |= {
                lab: entry
                | {
                    "trainedWithout": plan["leave_out"],
                    "draws": plan["epochs"] * plan["draws"],
                    "startedFrom": Path(plan["initial"]).parent.name if plan["initial"] else "ImageNet",
                }
                for lab, entry in summary(rows).items()
            }
    if folds:
        pooled = {name: np.concatenate([rows[name] for rows in folds]) for name in folds[0]}
        report["crossValidated"] = summary(pooled)
    together = folds + outside
    if together:
        pooled = {name: np.concatenate([rows[name] for rows in together]) for name in together[0]}
        # A network cannot tell its errors on classes that only the laboratory left out shows (blasts, erythroblasts, immature
        # granulocytes): every laboratory has the five of the differential.
        five = (pooled["label"] >= 0) & (pooled["label"] < len(FIVE_PART))
        report["selfKnowledge"] = self_knowledge({name: values[five] for name, values in pooled.items()})
        report["selfKnowledgeOfEveryClass"] = self_knowledge(pooled)
    args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(report, indent=1, ensure_ascii=False))


def self_knowledge(rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """Does the network know when it is wrong? AUROC of each score for wrong predictions, accuracy of the most trusted cells."""
    named = rows["label"] >= 0
    p = torch.softmax(torch.from_numpy(rows["logits"][named]), dim=1).numpy()
    right = p.argmax(axis=1) == rows["label"][named]
    confidence, score, parts = p.max(axis=1), rows["consistency"][named], rows["parts"][named]
    together = confidence * score
    trusted = np.argsort(-together)[: int(0.9 * len(together))]
    return {
        "n": int(named.sum()),
        "wrong": int((~right).sum()),
        "auroc": {
            "consistency": area_under_curve(score, right),
            "evidence": area_under_curve(parts[:, 0], right),
            "prior": area_under_curve(parts[:, 1], right),
            "counterfactual": area_under_curve(parts[:, 2], right),
            "confidence": area_under_curve(confidence, right),
            "consistencyTimesConfidence": area_under_curve(together, right),
        },
        "accuracyOfMostTrusted90Percent": share(int(right[trusted].sum()), len(trusted)),
    }


if __name__ == "__main__":
    main()
