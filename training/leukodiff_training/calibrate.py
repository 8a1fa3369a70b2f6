"""Temperature and thresholds from the validation splits: writes `settings.json` into the run's folder.

    python -m leukodiff_training.calibrate --data DIR --runs DIR [--cells sg-cldff]

* `temperature` minimises the negative log likelihood of the class over the validation cells of all laboratories, each
  laboratory weighing the same.
* `lowConfidenceBelow` is where, below it, fewer than 80 % of the validation cells are right.
* `unidentifiedBelow` is where, below it, the model is wrong more often than right; 0.4 at the least, since on laboratories that it
  was trained without it is right of every other cell between 0.35 and 0.5.
* `lowConsistencyBelow` is the 5th percentile of the saliency consistency of rightly classified nucleated cells (a platelet
  has no outline to agree with).
* `rejectAbove` is the 99.7th percentile of the reject score of validation cells, 0.5 at the least: few true cells are declined.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .constants import CLASS_INDEX
from .crossval import answers
from .data import add_sources, load_sources
from .export import DEFAULTS, load_networks


def best_temperature(logits: np.ndarray, label: np.ndarray, lab: np.ndarray) -> float:
    candidates = np.exp(np.linspace(np.log(0.3), np.log(3.0), 120))

    def loss(temperature: float) -> float:
        nll = F.cross_entropy(torch.from_numpy(logits / temperature), torch.from_numpy(label), reduction="none").numpy()
        return float(np.mean([nll[lab == name].mean() for name in np.unique(lab)]))

    return float(min(candidates, key=loss))


def threshold(confidence: np.ndarray, right: np.ndarray, wanted: float, window: int = 25) -> float:
    """The greatest confidence below which the running share of right cells is under `wanted`; 0.35 at the least."""
    window = min(window, len(confidence))
    order = np.argsort(confidence)
    running = np.convolve(right[order].astype(float), np.ones(window) / window, mode="valid")
    under = np.nonzero(running < wanted)[0]
    return max(0.35, float(confidence[order][under[-1] + window // 2])) if len(under) else 0.35


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--saliency", default="saliency")
    parser.add_argument("--cells", default="sg-cldff")
    args = parser.parse_args(arguments)
    saliency, network = load_networks(args.runs, args.saliency, args.cells)
    rows = answers(network, saliency, [item for item in load_sources(args) if item.split == "val"])
    if not rows or not (rows["label"] >= 0).any():
        raise SystemExit("no validation cell has a class: nothing can be calibrated. Mark some files as val in labels.csv.")
    out = {name: rows[name][rows["label"] >= 0] for name in ("logits", "consistency", "reject", "label", "lab")}
    temperature = best_temperature(out["logits"], out["label"], out["lab"])
    p = torch.softmax(torch.from_numpy(out["logits"] / temperature), dim=1).numpy()
    confidence, right = p.max(axis=1), p.argmax(axis=1) == out["label"]
    nucleated = out["label"] < CLASS_INDEX["platelet"]
    agreeing = out["consistency"][right & nucleated]
    settings = DEFAULTS | {
        "temperature": round(temperature, 3),
        "unidentifiedBelow": round(min(0.5, max(0.4, threshold(confidence, right, 0.5))), 2),
        "lowConfidenceBelow": round(min(0.9, threshold(confidence, right, 0.8)), 2),
        "lowConsistencyBelow": round(float(np.percentile(agreeing, 5)), 2) if len(agreeing) else DEFAULTS["lowConsistencyBelow"],
        "rejectAbove": round(max(0.5, float(np.percentile(out["reject"], 99.7))), 2),
    }
    path = args.runs / args.cells / "settings.json"
    path.write_text(json.dumps(settings, indent=2) + "\n")
    for name in np.unique(out["lab"]):
        here = out["lab"] == name
        print(f"{name:9s} {right[here].mean():.3f} of {here.sum()}, mean confidence {confidence[here].mean():.3f}")
    print(settings)


if __name__ == "__main__":
    main()
