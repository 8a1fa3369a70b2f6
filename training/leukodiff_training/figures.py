"""The figures that the model card embeds: confusion, calibration, and what is gained by trusting fewer cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 - after the choice of the backend

BLUE, ORANGE, GREY = "#3b4cc0", "#c8553d", "#777777"


def draw(cells: list[dict[str, Any]], results: dict[str, Any], folder: Path) -> None:
    confusions(results, folder / "confusion.png")
    trust([c for c in cells if c["truth"] != "platelet" and c["class"] not in ("none", "unidentified")], folder / "trust.png")


def confusions(results: dict[str, Any], path: Path) -> None:
    sets = [(name, results[f"{name}_confusion"]) for name in ("pbc", "bcisc", "bccd") if results.get(f"{name}_confusion")]
    widths = [len(_columns(rows)) for _, rows in sets]
    figure, axes = plt.subplots(1, len(sets), figsize=(2 + 0.62 * sum(widths), 5.2), width_ratios=widths, layout="constrained")
    for axis, (name, rows) in zip(np.atleast_1d(axes), sets, strict=True):
        columns = _columns(rows)
        counts = np.array([[row.get(column, 0) for column in columns] for row in rows.values()], float)
        axis.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1.25, aspect="equal")
        for (y, x), count in np.ndenumerate(counts):
            if count:
                axis.text(x, y, f"{count:.0f}", ha="center", va="center", fontsize=8)
        axis.set_xticks(range(len(columns)), [c.replace("_", " ") for c in columns], rotation=60, ha="right", fontsize=8)
        axis.set_yticks(range(len(rows)), [r.replace("_", " ") for r in rows], fontsize=8)
        axis.set_title({"pbc": "PBC", "bcisc": "BCISC", "bccd": "BCCD, read again"}[name], fontsize=10)
        axis.set_xlabel("answered", fontsize=9)
    np.atleast_1d(axes)[0].set_ylabel("labelled", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _columns(rows: dict[str, dict[str, int]]) -> list[str]:
    others = sorted({name for row in rows.values() for name in row} - set(rows))
    return [*rows, *others]


def trust(cells: list[dict[str, Any]], path: Path) -> None:
    """Reliability diagram and risk–coverage curves of all cells with a known class."""
    right = np.array([c["class"] == c["truth"] for c in cells])
    confidence = np.array([c["confidence"] for c in cells])
    both = confidence * np.array([c["consistency"] for c in cells])
    figure, (left, middle) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    edges = np.linspace(0, 1, 11)
    left.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.sum() >= 5:
            left.plot(confidence[inside].mean(), right[inside].mean(), "o", color=BLUE, ms=3 + np.sqrt(inside.sum()) / 3)
    left.set(
        xlabel="confidence",
        ylabel="share that is right",
        title="Reliability (size: number of cells)",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
    )
    for score, name, colour in ((confidence, "confidence", BLUE), (both, "confidence × consistency", ORANGE)):
        order = np.argsort(-score, kind="stable")
        risk = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
        middle.plot(np.arange(1, len(order) + 1) / len(order), risk, color=colour, label=name)
    middle.set(
        xlabel="share of the cells that is trusted", ylabel="share of them that is wrong", title="Risk and coverage", xlim=(0, 1)
    )
    middle.legend(frameon=False, fontsize=9)
    for axis in (left, middle):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
