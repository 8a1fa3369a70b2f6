"""The least that a peer does with an image: the networks' work with the same two ONNX files, written as a Python team would write it.

Decoding, the field at 0.48 um per pixel through the saliency network, peaks of its centre map, a crop of 160 px with its prior for
each, all crops of an image in one run of the cells network, class and confidence, the cell's outline as the connected region under its
centre, box and area, PNGs of mask, crop and Grad-CAM, everything stored in PostgreSQL in one transaction. What the service's answer
holds beyond that is in `whole.py`.
"""

import hashlib
import json
import os
import uuid
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

# The networks' threads are the ones that count.
cv2.setNumThreads(1)

MODEL_DIR = Path(os.environ["MODEL_DIR"])
THREADS = int(os.environ.get("PEER_THREADS", "1"))
BATCH = 16


class Pipeline:
    def __init__(self) -> None:
        self.manifest = json.loads((MODEL_DIR / "manifest.json").read_text())
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        files = self.manifest["files"]
        self.saliency, self.cells = (
            ort.InferenceSession(MODEL_DIR / files[name]["path"], options, providers=["CPUExecutionProvider"])
            for name in ("saliency", "cells")
        )

    def analyze(self, data: bytes, microns_per_pixel: float) -> dict:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("not an image")
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        peaks, saliency, scale, field = self.locate(image, microns_per_pixel)
        cells = self.describe_all(image, peaks, saliency, scale, microns_per_pixel)
        return {
            "width": image.shape[1],
            "height": image.shape[0],
            "cells": cells,
            "saliency": png((saliency * 255).astype(np.uint8)),
            **self.conclude(cells, image, field),
        }

    def conclude(self, cells: list[dict], image: np.ndarray, field: np.ndarray) -> dict:
        """What else the answer holds."""
        return {}

    def locate(self, image: np.ndarray, microns_per_pixel: float):
        spec = self.manifest["saliency"]
        factor = microns_per_pixel / spec["micronsPerPixel"]
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        shrunk = field = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        pad = [-length % spec["multipleOf"] for length in field.shape[:2]]
        field = cv2.copyMakeBorder(field, 0, pad[0], 0, pad[1], cv2.BORDER_REPLICATE)
        outputs = spec["outputs"]
        saliency, centres = self.saliency.run(
            [outputs["saliency"], outputs["centres"]], {spec["input"]: np.ascontiguousarray(field[None])}
        )
        height, width = field.shape[0] // spec["stride"], field.shape[1] // spec["stride"]
        saliency, centres = saliency.reshape(height, width), centres.reshape(height, width)
        top = (centres >= cv2.dilate(centres, np.ones((3, 3)))) & (centres >= spec["centreThreshold"])
        scale = spec["stride"] / factor
        places = sorted(np.argwhere(top), key=lambda at: -centres[at[0], at[1]])
        nearest = spec["minDistanceUm"] / microns_per_pixel
        peaks: list[tuple[float, float]] = []
        for y, x in places:
            px, py = (x + 0.5) * scale, (y + 0.5) * scale
            if px < image.shape[1] and py < image.shape[0] and all(np.hypot(px - a, py - b) >= nearest for a, b in peaks):
                peaks.append((px, py))
        return peaks, saliency, scale, shrunk

    def describe_all(self, image, peaks, saliency, scale, microns_per_pixel) -> list[dict]:
        cells = []
        for first in range(0, len(peaks), BATCH):
            cells += self.describe(image, peaks[first : first + BATCH], saliency, scale, microns_per_pixel)
        return cells

    def describe(self, image, peaks, saliency, scale, microns_per_pixel) -> list[dict]:
        spec = self.manifest["cells"]
        size = spec["size"]
        zoom = microns_per_pixel / spec["micronsPerPixel"]
        crops = np.empty((len(peaks), size, size, 3), np.uint8)
        prior = np.empty((len(peaks), size, size), np.float32)
        half = size / 2 / zoom
        for i, (x, y) in enumerate(peaks):
            crop = np.float32([[zoom, 0, -(x - half) * zoom], [0, zoom, -(y - half) * zoom]])
            crops[i] = cv2.warpAffine(image, crop, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            of_map = np.float32([[zoom * scale, 0, crop[0, 2]], [0, zoom * scale, crop[1, 2]]])
            prior[i] = cv2.warpAffine(saliency, of_map, (size, size), flags=cv2.INTER_LINEAR)
        names = list(spec["outputs"].values())
        feeds = {spec["inputs"]["crops"]: crops, spec["inputs"]["prior"]: prior}
        outputs = dict(zip(names, self.cells.run(names, feeds), strict=True))
        found = []
        for i, (x, y) in enumerate(peaks):
            segmentation = outputs[spec["outputs"]["segmentation"]][i]
            shape = self.shape(segmentation, (x - half, y - half), spec["maskStride"] / zoom, image.shape[:2])
            if shape is None:
                continue
            probabilities = outputs[spec["outputs"]["probabilities"]][i]
            best = int(probabilities.argmax())
            found.append(
                {
                    "class": spec["classes"][best],
                    "confidence": float(probabilities[best]),
                    "probabilities": [float(p) for p in probabilities],
                    "consistency": float(np.ravel(outputs[spec["outputs"]["consistency"]])[i]),
                    "reject": float(np.ravel(outputs[spec["outputs"]["reject"]])[i]),
                    **shape,
                    **self.describe_attributes(outputs[spec["outputs"]["attributes"]][i], best),
                    "crop": png(cv2.cvtColor(crops[i], cv2.COLOR_RGB2BGR)),
                    "cam": png(
                        (np.clip(outputs[spec["outputs"]["cam"]][i].reshape(spec["camSize"], -1), 0, 1) * 255).astype(np.uint8)
                    ),
                }
            )
        return found

    def shape(self, segmentation: np.ndarray, origin: tuple[float, float], step: float, image_size: tuple[int, int]) -> dict | None:
        """The connected region under the middle of a crop: `step` posted pixels a place, the first place at `origin`."""
        labels = segmentation.argmax(axis=0).astype(np.uint8)
        _, regions = cv2.connectedComponents((labels > 0).astype(np.uint8))
        middle = labels.shape[0] // 2
        if regions[middle, middle] == 0:
            return None
        inside = regions == regions[middle, middle]
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        box = [origin[0] + columns[0] * step, origin[1] + rows[0] * step]
        box += [(columns[-1] - columns[0] + 1) * step, (rows[-1] - rows[0] + 1) * step]
        mask = np.where(inside, labels * np.uint8(127), 0)[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        mask = cv2.resize(mask, (max(1, round(box[2])), max(1, round(box[3]))), interpolation=cv2.INTER_NEAREST)
        return {"box": [float(value) for value in box], "area": float(inside.sum() * step**2), "mask": png(mask)}

    def describe_attributes(self, values: np.ndarray, best: int) -> dict:
        """What else is said of a cell."""
        return {}


def open_pipeline() -> Pipeline:
    """The job of PEER_JOB: `whole` or `least`."""
    if os.environ.get("PEER_JOB", "whole") == "least":
        return Pipeline()
    from whole import WholePipeline

    return WholePipeline()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


SCHEMA = """
CREATE TABLE IF NOT EXISTS peer_images (
  id uuid PRIMARY KEY, status text NOT NULL, bytes bytea NOT NULL, sha256 char(64) NOT NULL, microns float8 NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(), result json, saliency bytea);
CREATE INDEX IF NOT EXISTS peer_images_status ON peer_images (status);
CREATE TABLE IF NOT EXISTS peer_cells (
  image uuid NOT NULL REFERENCES peer_images, number int NOT NULL, class text NOT NULL, confidence float8 NOT NULL,
  document json NOT NULL, mask bytea NOT NULL, crop bytea NOT NULL, cam bytea NOT NULL, PRIMARY KEY (image, number));
"""


def insert_image(connection, data: bytes, microns: float) -> uuid.UUID:
    key = uuid.uuid4()
    digest = hashlib.sha256(data).hexdigest()
    connection.execute(
        "INSERT INTO peer_images (id, status, bytes, sha256, microns) VALUES (%s, 'queued', %s, %s, %s)",
        (key, data, digest, microns),
    )
    return key


def store(connection, key: uuid.UUID, result: dict) -> dict:
    """Result and cells in the transaction of `connection`; returns the document that a client reads."""
    pictures = ("mask", "crop", "cam")
    cells = [{name: value for name, value in cell.items() if name not in pictures} for cell in result["cells"]]
    document = {"id": str(key), **{name: value for name, value in result.items() if name != "saliency"}, "cells": cells}
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO peer_cells VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (key, n, cell["class"], cell["confidence"], json.dumps(document["cells"][n]), *(cell[name] for name in pictures))
                for n, cell in enumerate(result["cells"])
            ],
        )
        cursor.execute(
            "UPDATE peer_images SET status = 'completed', result = %s, saliency = %s WHERE id = %s",
            (json.dumps(document), result["saliency"], key),
        )
    return document
