"""Times the exported networks on this machine's processor; run it while nothing else runs.

    python -m leukodiff_training.speed --model ../models/sg-cldff/VERSION

Medians over interleaved rounds, so that a slow moment strikes all of them. Writes `speed.json` into the model's folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime

BATCHES = (1, 2, 4, 8, 16, 32)
# A 640×480 camera frame at 0.07 µm per pixel, and one at 0.2: what the saliency network makes of them at 0.48.
FIELDS = {"camera frame, 640×480 at 0.07 µm": (80, 96), "camera frame, 640×480 at 0.2 µm": (208, 272)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    load = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
    saliency = onnxruntime.InferenceSession(args.model / "saliency.onnx", **load)
    cells = onnxruntime.InferenceSession(args.model / "sg-cldff.onnx", **load)
    rng = np.random.default_rng(0)

    def field(shape: tuple[int, int]) -> dict[str, np.ndarray]:
        return {"field": rng.integers(0, 255, (1, *shape, 3), dtype=np.uint8)}

    def crops(count: int) -> dict[str, np.ndarray]:
        rgb = rng.integers(60, 255, (count, 160, 160, 3), dtype=np.uint8)
        return {"crops": rgb, "prior": rng.random((count, 160, 160), dtype=np.float32)}

    work = {name: (saliency, field(shape)) for name, shape in FIELDS.items()}
    work |= {f"cells, batch {count}": (cells, crops(count)) for count in BATCHES}
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_number in range(args.rounds + 2):
        for name, (session, given) in work.items():
            started = time.perf_counter()
            session.run(None, given)
            if round_number >= 2:  # the first runs allocate
                times[name].append(time.perf_counter() - started)
    report = {
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} threads, onnxruntime {onnxruntime.__version__}",
        "command": "python -m leukodiff_training.speed --model models/sg-cldff/VERSION",
        "medianMs": {name: round(1000 * statistics.median(values), 2) for name, values in times.items()},
        "cellsPerSecond": {count: round(count / statistics.median(times[f"cells, batch {count}"]), 1) for count in BATCHES},
    }
    (args.model / "speed.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
