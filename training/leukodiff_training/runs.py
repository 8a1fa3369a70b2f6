"""What every run keeps: its plan and its results as JSON, curves as PNG, and a checkpoint from which it resumes."""

from __future__ import annotations

import copy
import json
import platform
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

T = TypeVar("T")


class Average:
    """Exponential moving average of a network's weights and statistics; what is evaluated and shipped."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        source = network.state_dict()
        for name, value in self.network.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(source[name], 1 - decay)
            else:
                value.copy_(source[name])


class Run:
    """A folder with `plan.json`, `results.json` (a list, one entry an epoch), `curves.png` and `checkpoint.pt`."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder = folder
        self.results: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(plan, indent=2, default=str) + "\n")

    def resume(self, network: nn.Module, average: Average, optimiser: torch.optim.Optimizer) -> int:
        """Loads the last checkpoint into what is given and returns the epoch to go on with; 0 for a fresh run."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"])
        average.network.load_state_dict(state["average"])
        average.updates = state["updates"]
        optimiser.load_state_dict(state["optimiser"])
        self.results = json.loads((self.folder / "results.json").read_text())[: state["epoch"] + 1]
        print(f"resuming {self.folder.name} after epoch {state['epoch']}")
        return state["epoch"] + 1

    def save(self, network: nn.Module, average: Average, optimiser: torch.optim.Optimizer, result: dict[str, Any]) -> None:
        """Keeps an epoch. The checkpoint is first written to a temporary name: a run that is killed while saving still resumes."""
        temporary = self.folder / "checkpoint.tmp"
        torch.save(
            {
                "epoch": result["epoch"],
                "network": network.state_dict(),
                "average": average.network.state_dict(),
                "updates": average.updates,
                "optimiser": optimiser.state_dict(),
            },
            temporary,
        )
        temporary.replace(self.folder / "checkpoint.pt")
        self.results.append({"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **result})
        (self.folder / "results.json").write_text(json.dumps(self.results, indent=1) + "\n")
        self.plot()

    def plot(self) -> None:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        names = [k for k, v in self.results[-1].items() if isinstance(v, float) and k not in {"seconds"}]
        columns = 4
        rows = -(-len(names) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.6 * rows), squeeze=False, layout="constrained")
        for axis in axes.flat[len(names) :]:
            axis.axis("off")
        for axis, name in zip(axes.flat, names, strict=False):
            points = [(r["epoch"], r[name]) for r in self.results if isinstance(r.get(name), float)]
            axis.plot([p[0] for p in points], [p[1] for p in points], marker=".", color="#3b4cc0")
            axis.set_title(name.replace("_", " "), fontsize=9)
            axis.set_xlabel("epoch", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
        figure.savefig(self.folder / "curves.png", dpi=110)
        plt.close(figure)


def finished(root: Path) -> Iterator[tuple[Path, dict[str, Any], dict[str, np.ndarray]]]:
    """Folder, plan and `left-out.npz` (crossval.py) of every run under `root` that was trained without something."""
    for folder in sorted(path.parent for path in root.glob("*/left-out.npz")):
        with np.load(folder / "left-out.npz") as file:
            yield folder, json.loads((folder / "plan.json").read_text()), {name: file[name] for name in file.files}


def report_head(command: str) -> dict[str, Any]:
    """When, where and how the figures of a report were made."""
    return {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} cores",
        "command": command,
    }


def prefetched(source: Iterable[T], depth: int = 4) -> Iterator[T]:
    """Draws from `source` in a thread, so that augmentation (OpenCV and NumPy release the interpreter lock) runs beside the
    network's arithmetic."""
    waiting: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)

    def work() -> None:
        try:
            for item in source:
                waiting.put((True, item))
            waiting.put((False, None))
        except BaseException as error:  # noqa: BLE001 - handed to the consumer
            waiting.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    while True:
        more, item = waiting.get()
        if not more:
            if item is not None:
                raise item  # type: ignore[misc]
            return
        yield item  # type: ignore[misc]


def progress(text: str, done: int, total: int, started: float) -> None:
    """One line that overwrites itself on a terminal and stays short in a log."""
    seconds = time.time() - started
    left = seconds / max(done, 1) * (total - done)
    line = f"{text} {done}/{total} {seconds:.0f} s, {left:.0f} s left"
    if sys.stdout.isatty():
        print("\r" + line.ljust(110), end="\n" if done == total else "", flush=True)
    else:
        print(line, flush=True)
