"""A running service, as the evaluation talks to it: posts files, reads results and masks."""

from __future__ import annotations

import json
import math
import time
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .constants import CLASSES

# Classes that count as white cells: the service's denominator, and those that it declined to name.
WHITE = {*CLASSES, "unidentified"} - {"erythroblast", "platelet", "artefact"}


class Service:
    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.model: dict[str, Any] | None = None  # as the last analysis named it

    def get(self, path: str) -> bytes:
        url = path if path.startswith("http") else self.url + path
        with urllib.request.urlopen(urllib.request.Request(url, headers=self.headers), timeout=120) as answer:
            return answer.read()

    def analyse(self, files: list[Path], fields: dict[str, str] | None = None) -> dict[str, Any]:
        """Posts files as one analysis, waits for it and returns the finished document with all its cells."""
        boundary = uuid.uuid4().hex
        body = bytearray()
        for name, value in (fields or {}).items():
            body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for file in files:
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{file.name}"\r\n'
            body += f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + file.read_bytes() + b"\r\n"
        body += f"--{boundary}--\r\n".encode()
        headers = {**self.headers, "Content-Type": f"multipart/form-data; boundary={boundary}", "Prefer": "wait=30"}
        request = urllib.request.Request(f"{self.url}/analyze", data=bytes(body), headers=headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            document = json.loads(answer.read())
        while document["status"] not in ("completed", "failed"):
            time.sleep(0.5)
            document = json.loads(self.get(f"/analyses/{document['id']}"))
        self.model = document["model"]
        cells, path = [], f"/analyses/{document['id']}/cells?limit=200"
        while path:
            page = json.loads(self.get(path))
            cells += page["items"]
            following = page.get("links", {}).get("next")
            path = following["href"] if isinstance(following, dict) else following
        document["cells"] = cells
        return document

    def mask(self, cell: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
        """The cell's label map on the whole image."""
        link = cell["links"]["mask"]
        data = self.get(link["href"] if isinstance(link, dict) else link)
        mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        whole = np.zeros(shape, np.uint8)
        x, y = cell["box"]["x"], cell["box"]["y"]
        whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask[: shape[0] - y, : shape[1] - x]
        return whole


def each(service: Service, files: list[Path], size: int = 24) -> Iterator[tuple[Path, dict[str, Any], list[dict[str, Any]]]]:
    """(file, its image entry, its cells), posted in analyses of `size` images."""
    for start in range(0, len(files), size):
        chunk = files[start : start + size]
        document = service.analyse(chunk)
        cells = defaultdict(list)
        for cell in document["cells"]:
            cells[cell["image"]].append(cell)
        for image, file in zip(document["images"], chunk, strict=True):
            yield file, image, cells[image["index"]]
        print(f"\r{start + len(chunk)}/{len(files)}", end="", flush=True)
    print()


def middle_of(cell: dict[str, Any]) -> tuple[float, float]:
    box = cell["box"]
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def nearest(image: dict[str, Any], cells: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The cell whose box centre is nearest the image's centre."""
    middle = image["width"] / 2, image["height"] / 2
    return min(cells, key=lambda cell: math.dist(middle_of(cell), middle), default=None)
