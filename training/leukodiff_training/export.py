"""Writes the two ONNX files and `manifest.json` that the service loads, and checks them against PyTorch.

    python -m leukodiff_training.export --runs DIR --out ../models/sg-cldff/1.0.0 [--calibration FILE]

Normalisation, cues, soft-max, Grad-CAM and saliency consistency are inside the graphs, so that Python and TypeScript cannot
drift apart. Initialisers keep their state-dict names: training can restart from the shipped files (`weights_from_onnx`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import constants as c
from .saliency import SaliencyNetwork, upsample
from .sgcldff import SGCLDFF, consistency, normalised

OPSET = 18
TOLERANCE = 1e-3  # on logits
# Constant folding stays off: it would transpose weights and drop their names. onnxruntime folds when it loads.


class CellGraph(nn.Module):
    """SG-CLDFF as the service runs it: bytes and prior in; probabilities, parts, Grad-CAM, consistency and more out.

    Two looks at every cell: the crop as it is, and its counterfactual, mirrored, with everything but the segmented cell painted
    over by the clear slide. The class is the mean of both; that they agree is most of the consistency.
    """

    # Share of the crop that a cell must fill for the second look to count in full: 33 µm², less than a small lymphocyte.
    counts_from = 0.05

    def __init__(self, network: SGCLDFF, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.register_buffer("correction", torch.tensor([c.PRIOR_CORRECTION.get(name, 0.0) for name in c.CLASSES]))

    def forward(self, crops: Tensor, prior: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        rgb = crops.permute(0, 3, 1, 2).float()
        prior = prior[:, None]
        first = network(rgb, prior)
        segmentation = torch.softmax(first.segmentation, dim=1)
        cell = 1 - segmentation[:, :1]
        fine = upsample(cell, c.MASK_STRIDE)
        alone = network.constancy.on_clear_ground(rgb, fine).flip(3)
        second = network.heads(network.fused(alone, (prior * fine).flip(3)), first.segmentation.flip(3))
        counts = torch.clamp(cell.mean(dim=(1, 2, 3)) / self.counts_from, 0, 1)[:, None]
        one, other = first.logits - self.correction, second.logits - self.correction
        logits = one + 0.5 * counts * (other - one)
        attributes = first.attributes + 0.5 * counts * (second.attributes - first.attributes)
        p, q = torch.softmax(one / self.temperature, dim=1), torch.softmax(other / self.temperature, dim=1)
        agreement = torch.sqrt(p * q).sum(dim=1)  # Bhattacharyya's coefficient
        cam = normalised(network.grad_cam(first.evidence, logits.argmax(dim=1)))
        coarse = F.avg_pool2d(cell, c.CROP_SIZE // c.MASK_STRIDE // c.CAM_SIZE)[:, 0]
        salient = F.avg_pool2d(prior, c.CROP_SIZE // c.CAM_SIZE)[:, 0]
        # Only the prior around this cell speaks about it: neighbours are salient too, and rightly.
        near = F.max_pool2d(coarse[:, None], 5, 1, 2)[:, 0]
        score, parts = consistency(cam, salient * near, coarse, agreement)
        described = torch.cat(
            [torch.softmax(part, dim=1) for part in attributes.split([len(v) for v in c.ATTRIBUTES.values()], dim=1)], dim=1
        )
        return (
            torch.softmax(logits / self.temperature, dim=1),
            logits,
            segmentation,
            cam,
            score,
            parts,
            described,
            torch.sigmoid(-first.known),
        )


CELL_OUTPUTS = ("probabilities", "logits", "segmentation", "cam", "consistency", "consistency_parts", "attributes", "reject")


def load_networks(runs: Path, saliency: str = "saliency", cells: str = "sg-cldff") -> tuple[SaliencyNetwork, SGCLDFF]:
    """The averaged weights of two runs, each by its name, or by the path of a shipped ONNX file."""
    prior, network = SaliencyNetwork(), SGCLDFF(pretrained=False)
    for target, name, prefix in ((prior, saliency, ""), (network, cells, "network.")):
        # A run's folder, or a shipped file.
        path = Path(name) if name.endswith(".onnx") else runs / name / "checkpoint.pt"
        missing = start_from(target, path, prefix)
        if missing:
            raise SystemExit(f"{path} is of another version of the network: it lacks {', '.join(missing[:5])}")
    return prior.eval(), network.eval()


def weights_from_onnx(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """A state dict from a shipped file, to fine-tune from it. `prefix` is cut from the names (`network.` for the cell graph)."""
    graph = onnx.load(path).graph
    values = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer}
    for node in graph.node:
        # The exporter stores equal tensors once and names the others by an Identity.
        if node.op_type == "Identity" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def start_from(network: nn.Module, path: Path, prefix: str = "") -> list[str]:
    """Loads a shipped ONNX file (`prefix`: of its names) or a run's averaged weights.

    Returns the names that the network has and the file has not.
    """
    if path.suffix == ".onnx":
        state = weights_from_onnx(path, prefix)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)["average"]
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting and "num_batches_tracked" not in name]


def export_saliency(network: SaliencyNetwork, path: Path) -> None:
    example = torch.randint(0, 255, (1, 64, 96, 3), dtype=torch.uint8)
    torch.onnx.export(
        network,
        (example,),
        path,
        input_names=["field"],
        output_names=["saliency", "centres", "scale"],
        dynamic_axes={
            "field": {0: "batch", 1: "height", 2: "width"},
            "saliency": {0: "batch", 1: "half_height", 2: "half_width"},
            "centres": {0: "batch", 1: "half_height", 2: "half_width"},
            "scale": {0: "batch"},
        },
        opset_version=OPSET,
        dynamo=False,
        do_constant_folding=False,
        keep_initializers_as_inputs=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )


def export_cells(graph: CellGraph, path: Path) -> None:
    crops = torch.randint(0, 255, (2, c.CROP_SIZE, c.CROP_SIZE, 3), dtype=torch.uint8)
    prior = torch.rand(2, c.CROP_SIZE, c.CROP_SIZE)
    names = list(CELL_OUTPUTS)
    torch.onnx.export(
        graph,
        (crops, prior),
        path,
        input_names=["crops", "prior"],
        output_names=names,
        dynamic_axes={name: {0: "batch"} for name in ["crops", "prior", *names]},
        opset_version=OPSET,
        dynamo=False,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )


def parity(prior: SaliencyNetwork, graph: CellGraph, folder: Path, batches: tuple[int, ...] = (1, 3, 16)) -> dict[str, float]:
    """Largest absolute difference between PyTorch and onnxruntime on random smears-like input, an output each."""
    generator = np.random.default_rng(0)
    worst: dict[str, float] = {}
    session = onnxruntime.InferenceSession(folder / "saliency.onnx", providers=["CPUExecutionProvider"])
    for height, width in ((64, 64), (96, 160), (320, 208)):
        field = generator.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        field = np.ascontiguousarray((field * 0.3 + 150).astype(np.uint8))
        with torch.no_grad():
            expected = prior(torch.from_numpy(field))
        for name, a, b in zip(("saliency", "centres", "scale"), expected, session.run(None, {"field": field}), strict=True):
            worst[name] = max(worst.get(name, 0.0), float(np.abs(a.numpy() - b).max()))
    session = onnxruntime.InferenceSession(folder / "sg-cldff.onnx", providers=["CPUExecutionProvider"])
    for count in batches:
        crops = generator.integers(60, 256, (count, c.CROP_SIZE, c.CROP_SIZE, 3), dtype=np.uint8)
        salient = generator.random((count, c.CROP_SIZE, c.CROP_SIZE), dtype=np.float32)
        with torch.no_grad():
            expected = graph(torch.from_numpy(crops), torch.from_numpy(salient))
        found = session.run(None, {"crops": crops, "prior": salient})
        for output, a, b in zip(session.get_outputs(), expected, found, strict=True):
            worst[output.name] = max(worst.get(output.name, 0.0), float(np.abs(a.numpy() - b).max()))
    return worst


def file_entry(path: Path) -> dict[str, object]:
    data = path.read_bytes()
    return {"path": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def manifest(folder: Path, version: str, settings: dict[str, float]) -> dict[str, object]:
    return {
        "name": "sg-cldff",
        "version": version,
        "created": time.strftime("%Y-%m-%d", time.gmtime()),
        "opset": OPSET,
        "files": {"saliency": file_entry(folder / "saliency.onnx"), "cells": file_entry(folder / "sg-cldff.onnx")},
        "saliency": {
            "input": "field",
            "outputs": {"saliency": "saliency", "centres": "centres", "scale": "scale"},
            "micronsPerPixel": c.FIELD_MICRONS_PER_PIXEL,
            "stride": c.FIELD_STRIDE,
            "multipleOf": c.FIELD_MULTIPLE,
            "centreThreshold": settings["centreThreshold"],
            "minDistanceUm": 4.5,
            "scaleBins": {
                "firstOctave": c.SCALE_FIRST_OCTAVE,
                "octavesPerBin": c.SCALE_OCTAVES_PER_BIN,
                "count": c.SCALE_BINS,
            },
            "scaleConfidence": settings["scaleConfidence"],
        },
        "cells": {
            "inputs": {"crops": "crops", "prior": "prior"},
            "outputs": {
                "probabilities": "probabilities",
                "segmentation": "segmentation",
                "cam": "cam",
                "consistency": "consistency",
                "attributes": "attributes",
                "reject": "reject",
            },
            "size": c.CROP_SIZE,
            "micronsPerPixel": c.CELL_MICRONS_PER_PIXEL,
            "maskStride": c.MASK_STRIDE,
            "camSize": c.CAM_SIZE,
            "classes": c.CLASSES,
            "temperature": settings["temperature"],
            "unidentifiedBelow": settings["unidentifiedBelow"],
            "lowConfidenceBelow": settings["lowConfidenceBelow"],
            "lowConsistencyBelow": settings["lowConsistencyBelow"],
            "rejectAbove": settings["rejectAbove"],
            "attributes": [{"name": name, "values": list(values)} for name, values in c.ATTRIBUTES.items()],
            "subtypes": c.SUBTYPES,
        },
        "data": [
            "PBC (Acevedo et al. 2020, doi:10.1016/j.dib.2020.105474), CC BY 4.0",
            "BCISC (Klipić et al.), Apache-2.0",
            "BCCD, MIT; class labels from a derived public set without a stated licence, weighted low",
            "ALL-IDB (Labati et al. 2011): research use; masks by Putzu and Loddo, MIT",
            "Zheng et al. 2018, dataset 1, repository GPL-3.0, acknowledgement asked",
            "Raabin-WBC (Kouzehkanan et al. 2022) by way of TXL-PBC, MIT; free with citation",
            "SigTuple contest data, MIT on the repository",
            "ImageNet weights of EfficientNet-Lite0, Apache-2.0",
        ],
        "licence": "Apache-2.0 for the weights; the data sets' own terms apply to their images, none of which is shipped",
        "intendedUse": "research and development; not a medical device",
    }


DEFAULTS = {
    "centreThreshold": 0.3,
    "scaleConfidence": 0.35,
    "temperature": 1.0,
    "unidentifiedBelow": 0.5,
    "lowConfidenceBelow": 0.8,
    "lowConsistencyBelow": 0.4,
    "rejectAbove": 0.5,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--saliency", default="saliency", help="name of the saliency run")
    parser.add_argument("--cells", default="sg-cldff", help="name of the SG-CLDFF run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", type=Path, help="JSON with temperature and thresholds, as calibrate.py writes it")
    args = parser.parse_args(arguments)
    settings = DEFAULTS | (json.loads(args.settings.read_text()) if args.settings else {})
    args.out.mkdir(parents=True, exist_ok=True)
    prior, network = load_networks(args.runs, args.saliency, args.cells)
    graph = CellGraph(network, settings["temperature"]).eval()
    export_saliency(prior, args.out / "saliency.onnx")
    export_cells(graph, args.out / "sg-cldff.onnx")
    worst = parity(prior, graph, args.out)
    print({k: f"{v:.1e}" for k, v in worst.items()})
    if worst["logits"] > TOLERANCE:
        raise SystemExit(f"PyTorch and onnxruntime differ by {worst['logits']:.1e} on logits, more than {TOLERANCE:.0e}")
    (args.out / "manifest.json").write_text(
        json.dumps(manifest(args.out, args.out.name, settings), indent=2, ensure_ascii=False) + "\n"
    )


if __name__ == "__main__":
    main()
