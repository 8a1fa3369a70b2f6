"""Fits the shipped network to a laboratory's own pictures, in one command: train, calibrate, export, check.

    python -m leukodiff_training.finetune --own DIR --runs DIR --out ../models/sg-cldff/1.3.1-ours

`DIR/labels.csv` names the pictures and what is known of them (data.read_laboratory). With `--data` the public sets are mixed in,
which keeps what the network knew of other laboratories: recommended whenever they are at hand. The saliency network stays.
The result is a model folder that the service loads: `MODEL_DIR=models/sg-cldff/1.3.1-ours npm start`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from . import calibrate, export, train

SHIPPED = sorted((Path(__file__).parents[2] / "models" / "sg-cldff").glob("*/manifest.json"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--own", type=Path, nargs="+", required=True, help="folders with labels.csv")
    parser.add_argument("--microns-per-pixel", type=float, help="of pictures whose table does not say")
    parser.add_argument("--data", type=Path, help="folder of the public sets, to mix in")
    parser.add_argument("--runs", type=Path, required=True, help="where the run, its checkpoint and its curves are kept")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--model", type=Path, default=SHIPPED[-1].parent if SHIPPED else None, help="model folder to start from")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--draws", type=int, default=2000, help="crops an epoch")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    args = parser.parse_args(arguments)

    saliency, cells = args.model / "saliency.onnx", args.model / "sg-cldff.onnx"
    name = f"finetune-{args.out.name}"
    sources = ["--own", *map(str, args.own)]
    if args.data:
        sources += ["--data", str(args.data)]
    if args.microns_per_pixel:
        sources += ["--microns-per-pixel", str(args.microns_per_pixel)]
    plan = ["--epochs", str(args.epochs), "--draws", str(args.draws), "--learning-rate", str(args.learning_rate)]
    runs = ["--runs", str(args.runs)]
    train.main([*sources, *runs, *plan, "--saliency", str(saliency), "--initial", str(cells), "--name", name])
    calibrate.main([*sources, *runs, "--saliency", str(saliency), "--cells", name])
    settings = args.runs / name / "settings.json"
    # What belongs to the saliency network stays as it was shipped.
    shipped = json.loads((args.model / "manifest.json").read_text())["saliency"]
    kept = {key: shipped[key] for key in ("centreThreshold", "scaleConfidence")}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | kept, indent=2) + "\n")
    export.main([*runs, "--saliency", str(saliency), "--cells", name, "--settings", str(settings), "--out", str(args.out)])


if __name__ == "__main__":
    main()
