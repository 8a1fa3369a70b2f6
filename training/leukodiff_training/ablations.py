"""What each part of SG-CLDFF is worth: the same short training with it and without it, on the same draws.

    python -m leukodiff_training.ablations --runs DIR --out ../models/sg-cldff/VERSION/ablations.json

Every run in DIR is one of `train.py --leave-out LAB [--without-prior | --without-fusion | --without-alignment |
--without-attention] --seed N`, from ImageNet weights, with equal epochs and draws. Figures of the laboratory that was left out
(centred crops, true scale) and of the validation split of the others; mean over the seeds, lowest and highest.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from .crossval import self_knowledge, summary
from .runs import finished, report_head
from .statistics import mean

PARTS = ("prior", "fusion", "alignment", "attention")
TITLES = {
    "whole": "whole",
    "prior": "without saliency prior",
    "fusion": "without cross-layer fusion",
    "alignment": "without alignment term",
    "attention": "without attention stages",
}


def figures(folder: Path, rows: dict[str, np.ndarray]) -> dict[str, float]:
    """What one finished run reached."""
    [(lab, entry)] = summary(rows).items()
    last = json.loads((folder / "results.json").read_text())[-1]
    return {
        f"{lab} (left out), accuracy": entry["accuracy"]["value"],
        f"{lab} (left out), IoU": entry["iou"]["value"],
        "pbc accuracy": last["pbc_accuracy"],
        "zheng1 IoU": last["zheng1_iou"],
        "zheng1 nucleus IoU": last["zheng1_nucleus_iou"],
        "Grad-CAM energy in the cell": entry["energy"]["value"],
        "AUROC of the consistency": self_knowledge(rows)["auroc"]["consistency"],
    }


def variant(plan: dict[str, Any]) -> str:
    without = [part for part in PARTS if plan[f"without_{part}"]]
    if len(without) > 1:
        raise SystemExit(f"run {plan['name']} lacks {' and '.join(without)}: one part at a time, please")
    return without[0] if without else "whole"


def table(report: dict[str, Any]) -> str:
    """Markdown: a row a variant, a column a figure, `mean (lowest–highest)`."""
    names = list(report["variants"]["whole"]["figures"])
    lines = ["| | seeds | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for key, entry in report["variants"].items():
        cells = [f"{f['mean']:.3f} ({f['low']:.3f}–{f['high']:.3f})" for f in entry["figures"].values()]
        lines.append(f"| {TITLES[key]} | {len(entry['seeds'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    reached: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    budgets = set()
    for folder, plan, rows in finished(args.runs):
        budgets.add((tuple(plan["leave_out"]), plan["epochs"] * plan["draws"], str(plan["initial"])))
        reached[variant(plan)][plan["seed"]] = figures(folder, rows)
    if len(budgets) != 1:
        raise SystemExit(f"the runs in {args.runs} differ in what they left out, drew or started from: {sorted(budgets)}")
    [(left_out, draws, _)] = budgets
    report = {
        **report_head("python -m leukodiff_training.ablations --runs DIR --out FILE"),
        "leftOut": list(left_out),
        "draws": draws,
        "variants": {
            key: {
                "seeds": sorted(reached[key]),
                "figures": {
                    name: {"mean": mean(values), "low": min(values), "high": max(values)}
                    for name in next(iter(reached[key].values()))
                    if (values := [figure[name] for figure in reached[key].values()])
                },
            }
            for key in ("whole", *PARTS)
            if reached[key]
        },
    }
    args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
