"""A laboratory's own pictures: the table that names them, and the one command that fits the network to them."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from leukodiff_training import constants as c
from leukodiff_training import finetune
from leukodiff_training.data import read_laboratory

COLUMNS = ["file", "class", "split", "x", "y", "mask", "microns_per_pixel", "granularity"]


def laboratory(folder: Path, rows: list[dict[str, str]], pictures: int = 6) -> Path:
    """Pictures of one drawn cell each, at 0.2 µm per pixel, with masks, and a table of `rows`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[0:160, 0:160]
    for number in range(pictures):
        image = np.full((160, 160, 3), 225, np.uint8)
        disc, core = ((xs - 80) ** 2 + (ys - 80) ** 2 < r**2 for r in (30, 18))
        image[disc], image[core] = (200, 150, 180), (130, 40, 90 + 10 * number)
        image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        cv2.imwrite(str(folder / f"{number}-mask.png"), (disc * 128 + core * 127).astype(np.uint8))
    with (folder / "labels.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def row(number: int, **more: str) -> dict[str, str]:
    return {"file": f"{number}.png", "class": "lymphocyte", "microns_per_pixel": "0.2", **more}


def test_a_table_of_ones_own_pictures(tmp_path: Path) -> None:
    rows = [row(0, mask="0-mask.png"), row(1, granularity="yes"), row(2, x="40", y="60"), row(2, x="120", y="60", **{"class": ""})]
    fields = read_laboratory(laboratory(tmp_path / "ours", rows))
    assert [(item.lab, item.name, len(item.cells)) for item in fields] == [("ours", f"{n}.png", 1 + (n == 2)) for n in range(3)]
    masked, described, two = fields
    assert masked.image.shape[:2] == (200, 200)  # 0.2 µm per pixel at 0.16
    nucleus = (masked.parts == c.NUCLEUS).sum() * c.CELL_MICRONS_PER_PIXEL**2
    assert nucleus == pytest.approx(np.pi * 3.6**2, rel=0.05)
    assert masked.cells[0].instance == 1 and masked.parts[5, 5] == c.BACKGROUND
    assert described.cells[0].attributes == {"granularity": "yes"} and described.parts[100, 100] == c.UNKNOWN
    assert [(cell.x, cell.label) for cell in two.cells] == [(50.0, "lymphocyte"), (150.0, None)]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"class": "lymphocite"}, "line 2: class 'lymphocite'"),
        ({"microns_per_pixel": ""}, "--microns-per-pixel"),
        ({"microns_per_pixel": "16"}, "not plausible"),
        ({"mask": "none.png"}, "none.png is missing"),
        ({"file": ""}, "line 2: no file"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, changed: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_laboratory(laboratory(tmp_path / "ours", [row(0, **changed)]))


def test_one_command_gives_a_model_that_loads(tmp_path: Path) -> None:
    names = ("lymphocyte", "monocyte")
    rows = [row(n, **{"class": names[n % 2], "mask": f"{n}-mask.png", "split": "val" if n > 3 else "train"}) for n in range(6)]
    ours = laboratory(tmp_path / "ours", rows)
    out = tmp_path / "1.1.0-ours"
    quick = ["--epochs", "1", "--draws", "32"]
    finetune.main(["--own", str(ours), "--runs", str(tmp_path / "runs"), "--out", str(out), *quick])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["version"] == "1.1.0-ours"
    session = onnxruntime.InferenceSession(out / manifest["files"]["cells"]["path"])
    answer = session.run(
        ["probabilities"],
        {"crops": np.full((1, 160, 160, 3), 200, np.uint8), "prior": np.zeros((1, 160, 160), np.float32)},
    )
    assert np.isclose(answer[0].sum(), 1, atol=1e-4)
    assert (tmp_path / "runs" / "finetune-1.1.0-ours" / "plan.json").exists()
