"""What each part of SG-CLDFF is worth: the same short training with it and without it, on the same draws.

    python -m leukodiff_training.ablations --runs DIR --data DIR --model ../models/sg-cldff/VERSION

Every run in DIR is one of `train.py --leave-out LAB [--without-prior | --without-fusion | --without-alignment |
--without-attention] --seed N`, from ImageNet weights, with equal epochs and draws. Runs of one seed start from the same weights and
draw the same crops, so they are compared seed by seed. Figures of the laboratory that was left out (centred crops, true scale) and
of the validation split of the others; mean over the seeds, lowest and highest.

A short training says how fast a part is learnt. What the finished network makes of its parts is asked of the shipped model, on the
validation cells: as it is, and with a part of it taken out or replaced, nothing trained anew. Writes `ablations.json` beside it.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .backbone import SwinBlock, WindowAttention
from .crossval import answers, self_knowledge, summary
from .data import load_fields
from .export import load_networks
from .runs import finished, report_head
from .sgcldff import SGCLDFF
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


class EvenAttention(nn.Module):
    """Window attention that heeds every place of its window alike: a mean, with the learnt values and output."""

    def __init__(self, attention: WindowAttention) -> None:
        super().__init__()
        self.qkv, self.out = attention.qkv, attention.out

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """`tokens` (B·windows)×25×C → the same; what a shift made neighbours counts too, so `mask` has no say."""
        values = self.qkv(tokens).chunk(3, dim=-1)[2]
        return self.out(values.mean(dim=1, keepdim=True)).expand_as(tokens)


def swin_blocks(network: SGCLDFF) -> list[SwinBlock]:
    return [module for module in network.backbone.modules() if isinstance(module, SwinBlock)]


def without_attention(network: SGCLDFF) -> None:
    network.backbone.attention16 = network.backbone.attention32 = nn.Identity()


def with_even_attention(network: SGCLDFF) -> None:
    for block in swin_blocks(network):
        block.attention = EvenAttention(block.attention)


def without_perceptrons(network: SGCLDFF) -> None:
    for block in swin_blocks(network):
        block.gain2.data.zero_()


def without_fusion(network: SGCLDFF) -> None:
    network.fusion.only_deepest = True


@dataclass(frozen=True)
class Change:
    """What the finished network is given in place of its cells' priors N×160×160, and what is done to a copy of it."""

    prior: Callable[[Tensor], Tensor] = lambda prior: prior
    network: Callable[[SGCLDFF], None] = lambda network: None


CHANGES = {
    "as it is": Change(),
    "no prior": Change(prior=torch.zeros_like),
    "another cell's prior": Change(prior=lambda prior: prior.roll(1, dims=0)),
    "attention stages passed by": Change(network=without_attention),
    "attention that heeds all of a window alike": Change(network=with_even_attention),
    "perceptrons of the attention stages passed by": Change(network=without_perceptrons),
    "only the deepest layer fused": Change(network=without_fusion),
}


def finished_network(data: Path, runs: Path, model: Path) -> dict[str, dict[str, float]]:
    """Figures of a shipped model on the validation split, by what was changed in it."""
    saliency, network = load_networks(runs, str(model / "saliency.onnx"), str(model / "sg-cldff.onnx"))
    fields = [item for item in load_fields(data, runs / "cache") if item.split == "val"]
    result = {}
    for name, change in CHANGES.items():
        changed = copy.deepcopy(network)
        change.network(changed)
        rows = answers(changed, saliency, fields, instead=change.prior)
        labs = summary(rows)
        result[name] = {
            "pbc accuracy": labs["pbc"]["accuracy"]["value"],
            "bcisc accuracy": labs["bcisc"]["accuracy"]["value"],
            "bcisc IoU": labs["bcisc"]["iou"]["value"],
            "zheng1 IoU": labs["zheng1"]["iou"]["value"],
            "zheng1 nucleus IoU": labs["zheng1"]["nucleus_iou"]["value"],
            "allidb IoU": labs["allidb"]["iou"]["value"],
            "Grad-CAM energy in the cell": labs["bcisc"]["energy"]["value"],
            "AUROC of the consistency": self_knowledge(rows)["auroc"]["consistency"],
        }
    return result


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": mean(values), "low": min(values), "high": max(values)}


def compared(reached: dict[str, dict[int, dict[str, float]]]) -> dict[str, Any]:
    """`reached` holds the figures of each variant and seed; the result their spread, and that of the differences from the whole."""
    whole = reached["whole"]
    names = next(iter(whole.values())).keys()
    result = {}
    for key in ("whole", *PARTS):
        runs = reached[key]
        result[key] = {
            "seeds": sorted(runs),
            "figures": {name: spread([run[name] for run in runs.values()]) for name in names},
        }
        if key != "whole":
            result[key]["minusWhole"] = {name: spread([runs[seed][name] - whole[seed][name] for seed in runs]) for name in names}
    return result


def table(report: dict[str, Any]) -> str:
    """Markdown: the whole network, then what each variant adds to it or takes away, `mean (lowest to highest)`."""
    whole = report["variants"]["whole"]["figures"]
    lines = ["| | seeds | " + " | ".join(whole) + " |", "|---" * (len(whole) + 2) + "|"]
    for key, entry in report["variants"].items():
        sign, figures = ("", entry["figures"]) if key == "whole" else ("+", entry["minusWhole"])
        cells = [f"{f['mean']:{sign}.3f} ({f['low']:{sign}.3f} to {f['high']:{sign}.3f})" for f in figures.values()]
        lines.append(f"| {TITLES[key]} | {len(entry['seeds'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def finished_table(figures: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(figures.values())))
    lines = ["| finished network | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {change} | " + " | ".join(f"{value:.3f}" for value in entry.values()) + " |" for change, entry in figures.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of exported networks; ablations.json is written there")
    args = parser.parse_args()
    reached: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    budgets = set()
    for folder, plan, rows in finished(args.runs):
        budgets.add((tuple(plan["leave_out"]), plan["epochs"] * plan["draws"], str(plan["initial"])))
        reached[variant(plan)][plan["seed"]] = figures(folder, rows)
    if len(budgets) != 1:
        raise SystemExit(f"the runs in {args.runs} differ in what they left out, drew or started from: {sorted(budgets)}")
    seeds = {key: sorted(reached[key]) for key in ("whole", *PARTS)}
    if not all(found and set(found) <= set(seeds["whole"]) for found in seeds.values()):
        raise SystemExit(f"every variant needs a run, with a seed that the whole network has one with: {seeds}")
    [(left_out, draws, _)] = budgets
    report = {
        **report_head("python -m leukodiff_training.ablations --runs DIR --data DIR --model models/sg-cldff/VERSION"),
        "leftOut": list(left_out),
        "draws": draws,
        "variants": compared(reached),
        "finishedNetwork": finished_network(args.data, args.runs, args.model),
    }
    (args.model / "ablations.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(table(report), finished_table(report["finishedNetwork"]), sep="\n\n")


if __name__ == "__main__":
    main()
