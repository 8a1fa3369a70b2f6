"""What the service's answer holds beyond the least, as a Python team would make it with OpenCV, NumPy and SciPy.

Outlines on posted pixels from interpolated probabilities, spurs cut, touching cells taken apart and looked at on their own, holes
filled, a cell found twice kept once; morphology and subtype; sharpness, brightness, clipping and stain of the image; which cells the
counting frame counts, the differential with exact intervals, the reasons for a review. Left out all the same: keys, audit, webhooks,
turns of the laboratories, priorities, metrics, images of other formats and depths, a scale that is not given.
"""

import cv2
import numpy as np
from pipeline import Pipeline, png
from scipy.special import betaincinv

NUCLEUS, CYTOPLASM = 255, 128
SMALLEST_RADIUS_UM = 2.2
SPUR_UM = 0.6
EXTRA_ROUNDS = 2
OTHERS = ("platelet", "smudge", "artefact")
NOT_IN_DIFFERENTIAL = (*OTHERS, "erythroblast", "unidentified")
DENSITY = -np.log10((np.arange(256) + 1) / 256)


class WholePipeline(Pipeline):
    def __init__(self) -> None:
        super().__init__()
        self.grid_um = self.manifest["cells"]["micronsPerPixel"] * self.manifest["cells"]["maskStride"]
        size = 2 * round(SPUR_UM / self.grid_um) + 1
        self.disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))

    def locate(self, image, microns_per_pixel):
        peaks, saliency, scale, field = super().locate(image, microns_per_pixel)
        return [refined(saliency, peak, scale) for peak in peaks], saliency, scale, field

    def describe_all(self, image, peaks, saliency, scale, microns_per_pixel) -> list[dict]:
        cells, seen, after = [], list(peaks), peaks
        nearest = SMALLEST_RADIUS_UM / microns_per_pixel
        for _ in range(EXTRA_ROUNDS + 1):
            if not after:
                break
            found = super().describe_all(image, after, saliency, scale, microns_per_pixel)
            after = []
            for x, y in (place for cell in found for place in cell.pop("neighbours")):
                if all(np.hypot(x - a, y - b) >= nearest for a, b in seen):
                    seen.append((x, y))
                    after.append((x, y))
            cells += found
        return sorted(once(cells), key=lambda cell: (cell["box"][1], cell["box"][0]))

    def shape(self, segmentation, origin, step, image_size):
        inside, neighbours = self.central_part((segmentation[0] < 0.5).astype(np.uint8))
        if inside is None:
            return None
        planes = segmentation.copy()
        planes[:, ~inside] = np.float32([1, 0, 0])[:, None]
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        first_row, last_row = max(0, rows[0] - 1), min(len(inside), rows[-1] + 2)
        first_column, last_column = max(0, columns[0] - 1), min(len(inside), columns[-1] + 2)
        # The region's posted pixels, interpolated between the places of the grid.
        left, top = max(0, int(origin[0] + first_column * step)), max(0, int(origin[1] + first_row * step))
        right = min(image_size[1], int(np.ceil(origin[0] + last_column * step)))
        bottom = min(image_size[0], int(np.ceil(origin[1] + last_row * step)))
        if right <= left or bottom <= top:
            return None
        shift = (0.5 - origin[0] + left) / step - 0.5, (0.5 - origin[1] + top) / step - 0.5
        to_grid = np.float32([[1 / step, 0, shift[0]], [0, 1 / step, shift[1]]])
        fine = cv2.warpAffine(
            np.ascontiguousarray(planes.transpose(1, 2, 0)),
            to_grid,
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cell = (fine[..., 0] < 0.5).astype(np.uint8)
        count, regions, _, centroids = cv2.connectedComponentsWithStats(cell)
        if count < 2:
            return None
        middle = origin[0] + len(inside) * step / 2 - left, origin[1] + len(inside) * step / 2 - top
        region = 1 + int(np.argmin(np.hypot(*(centroids[1:] - middle).T)))
        contours, _ = cv2.findContours((regions == region).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = cv2.drawContours(np.zeros_like(cell), contours, -1, 1, cv2.FILLED)
        x, y, width, height = cv2.boundingRect(filled)
        part = np.s_[y : y + height, x : x + width]
        nucleus = (fine[..., 2] > fine[..., 1])[part]
        mask = np.where(filled[part], np.where(nucleus, np.uint8(NUCLEUS), np.uint8(CYTOPLASM)), np.uint8(0))
        area = int(np.count_nonzero(mask))
        return {
            "box": [left + x, top + y, width, height],
            "area": area,
            "nuclearAreaRatio": float(np.count_nonzero(mask == NUCLEUS) / max(1, area)),
            "mask": png(mask),
            "neighbours": [(origin[0] + (u + 0.5) * step, origin[1] + (v + 0.5) * step) for u, v in neighbours],
        }

    def central_part(self, foreground: np.ndarray):
        """The part of a blob that lies in the middle, and the centres of those that touch it."""
        opened = cv2.morphologyEx(foreground, cv2.MORPH_OPEN, self.disc)
        foreground = opened if opened.any() else foreground
        middle = len(foreground) // 2
        _, blobs = cv2.connectedComponents(foreground)
        if blobs[middle, middle] == 0:
            return None, []
        blob = (blobs == blobs[middle, middle]).astype(np.uint8)
        distance = cv2.distanceTransform(blob, cv2.DIST_L2, 3)
        radius = SMALLEST_RADIUS_UM / self.grid_um
        tops = (distance >= cv2.dilate(distance, np.ones((2 * round(radius) + 1,) * 2))) & (distance >= radius)
        count, seeds, _, centres = cv2.connectedComponentsWithStats(tops.astype(np.uint8))
        if count < 3:
            return blob.astype(bool), []
        seeds[blob == 0] = count
        parts = cv2.watershed(cv2.cvtColor((255 - distance * 4).clip(0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR), seeds)
        own = parts[middle, middle]
        if own in (-1, count):
            own = 1 + int(np.argmin(np.hypot(*(centres[1:] - middle).T)))
        return parts == own, [tuple(centres[i]) for i in range(1, count) if i != own]

    def describe_attributes(self, values: np.ndarray, best: int) -> dict:
        spec = self.manifest["cells"]
        if spec["classes"][best] in OTHERS:
            return {"subtype": None, "morphology": None}
        described, subtype, first = {}, None, 0
        for attribute in spec["attributes"]:
            names = attribute["values"]
            part = values[first : first + len(names)]
            first += len(names)
            if attribute["name"] == "subtype":
                allowed = [i for i, name in enumerate(names) if name in spec["subtypes"].get(spec["classes"][best], [])]
                if allowed:
                    top = max(allowed, key=lambda i: part[i])
                    subtype = {"value": names[top], "probability": float(part[top] / max(1e-9, part[allowed].sum()))}
            else:
                top = int(part.argmax())
                described[attribute["name"]] = {"value": names[top], "probability": float(part[top])}
        return {"subtype": subtype, "morphology": described}

    def conclude(self, cells: list[dict], image: np.ndarray, field: np.ndarray) -> dict:
        for cell in cells:
            cell["counted"] = is_counted(cell["box"], image.shape)
            cell["flags"] = self.flags(cell, image.shape)
        counted = differential([cell["class"] for cell in cells if cell["counted"]], self.manifest["cells"]["classes"])
        return {"quality": quality(field), "differential": counted, "review": review(counted, cells)}

    def flags(self, cell: dict, shape: tuple[int, ...]) -> list[str]:
        spec = self.manifest["cells"]
        x, y, width, height = cell["box"]
        flags = {
            "border": x <= 0 or y <= 0 or x + width >= shape[1] or y + height >= shape[0],
            "low_confidence": cell["confidence"] < spec["lowConfidenceBelow"],
            "low_consistency": cell["consistency"] < spec["lowConsistencyBelow"],
            "out_of_distribution": cell["reject"] > spec["rejectAbove"],
        }
        return [name for name, raised in flags.items() if raised]


def refined(saliency: np.ndarray, peak: tuple[float, float], scale: float) -> tuple[float, float]:
    """A peak below the map's resolution: the centroid of the map around it."""
    x, y = int(peak[0] / scale), int(peak[1] / scale)
    part = saliency[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
    total = float(part.sum())
    if total <= 0:
        return peak
    rows, columns = np.indices(part.shape)
    u, v = float((part * columns).sum()) / total, float((part * rows).sum()) / total
    return (max(0, x - 1) + u + 0.5) * scale, (max(0, y - 1) + v + 0.5) * scale


def once(cells: list[dict]) -> list[dict]:
    """Of two boxes that share more than half of the smaller one, the surer stays."""
    kept: list[dict] = []
    for cell in sorted(cells, key=lambda cell: -cell["confidence"]):
        x, y, width, height = cell["box"]
        for other in kept:
            a, b, wide, high = other["box"]
            across, down = min(x + width, a + wide) - max(x, a), min(y + height, b + high) - max(y, b)
            if across > 0 and down > 0 and across * down > 0.5 * min(width * height, wide * high):
                break
        else:
            kept.append(cell)
    return kept


def is_counted(box: list[int], shape: tuple[int, ...]) -> bool:
    x, y, width, height = box
    if x + width < shape[1] and y + height < shape[0]:
        return True
    return x <= shape[1] / 2 <= x + width and y <= shape[0] / 2 <= y + height


def quality(field: np.ndarray) -> dict:
    luminance = cv2.cvtColor(field, cv2.COLOR_RGB2GRAY)
    green = field[..., 1]
    laplacian = cv2.Laplacian(cv2.GaussianBlur(green, (3, 3), 0), cv2.CV_32F)
    histogram = np.bincount(luminance.ravel(), minlength=256)
    clear = luminance >= np.argmax(histogram[128:]) + 128 - 12
    density = DENSITY[field[..., :2]]
    stained, ground = density[~clear], density[clear]
    stain = None
    if len(stained) >= 64 and len(ground):
        red, green_density = stained.mean(0) - ground.mean(0)
        stain = {"density": float(green_density), "balance": float(red / green_density)} if green_density > 0 else None
    return {
        "sharpness": float(100 * laplacian.var() / max(1e-9, green.var())),
        "brightness": float(luminance.mean() / 255),
        "clipped": float(((field == 0) | (field == 255)).any(axis=2).mean()),
        "background": float(clear.mean()),
        "stain": stain,
    }


def differential(names: list[str], classes: list[str]) -> dict:
    white = [name for name in classes if name not in NOT_IN_DIFFERENTIAL]
    counts = np.array([names.count(name) for name in white])
    total = int(counts.sum())
    if total == 0:
        return {"totalWbc": 0, "classes": []}
    # Clopper and Pearson's intervals of all classes at once.
    low = np.where(counts > 0, betaincinv(np.maximum(counts, 1), total - counts + 1, 0.025), 0)
    high = np.where(counts < total, betaincinv(counts + 1, np.maximum(total - counts, 1), 0.975), 1)
    rows = zip(white, counts, low, high, strict=True)
    return {
        "totalWbc": total,
        "classes": [
            {
                "class": name,
                "count": int(count),
                "percent": round(100 * count / total, 2),
                "ci95": [round(100 * float(a), 2), round(100 * float(b), 2)],
            }
            for name, count, a, b in rows
        ],
    }


def review(counted: dict, cells: list[dict]) -> list[str]:
    percent = {row["class"]: row["percent"] for row in counted["classes"]}
    confidences = [cell["confidence"] for cell in cells]
    reasons = {
        "no_wbc_found": counted["totalWbc"] == 0,
        "blasts_present": percent.get("blast", 0) > 0,
        "immature_granulocytes_present": percent.get("immature_granulocyte", 0) >= 1,
        "below_target": counted["totalWbc"] < 100,
        "low_mean_confidence": bool(confidences) and float(np.mean(confidences)) < 0.8,
    }
    return [name for name, given in reasons.items() if given]
