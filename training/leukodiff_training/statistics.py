"""Shares, intervals and scores, as the reports state them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import beta, rankdata


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


def mask_overlap(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two boolean masks."""
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def calibration_error(pairs: list[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error over equally wide bins of confidence."""
    total = 0.0
    for i in range(bins):
        inside = [(c, r) for c, r in pairs if i / bins < c <= (i + 1) / bins]
        if inside:
            total += len(inside) * abs(mean([c for c, _ in inside]) - mean([float(r) for _, r in inside]))
    return total / max(1, len(pairs))


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative (Mann–Whitney); ties count half."""
    ranks, count = rankdata(score), int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / max(1, count * (len(score) - count)))
