"""Augmentation that stands in for other laboratories: stain, lamp, camera, focus, compression, scale.

Stain is jittered in optical density, where dyes add: a random channel mixing matrix, a gain and a shift of the clear
background turn one laboratory's picture into another's, a bent scale one contrast into another. On these data that is worth more
than anything else done to the network (decision 0025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

STRENGTH = 1.35  # of the stain's jitter; chosen on laboratories that a network was trained without (decision 0025)


def optical_density(image: np.ndarray) -> np.ndarray:
    """−ln of the transmitted share of light: dyes add here. The offset keeps black finite."""
    return -np.log((image.astype(np.float32) + 2.0) / 257.0)


def from_density(density: np.ndarray) -> np.ndarray:
    return np.exp(-np.clip(density, -0.3, 5.0)) * 257.0 - 2.0


def clear_density(density: np.ndarray) -> np.ndarray:
    """Density of the clear slide, a value a channel: the mean over what is less dense than the average."""
    flat = density.reshape(-1, 3)
    bright = flat.mean(axis=1) <= flat.mean()
    return flat[bright].mean(axis=0) if bright.any() else flat.mean(axis=0)


@dataclass(frozen=True)
class StainSwap:
    """Paints one laboratory's picture in another's stain: a linear map that carries the covariance of the one's stained
    pixels (as density above the clear slide) into the other's (whitening and colouring, as in Reinhard et al. 2001 but with
    the channels' correlation)."""

    roots: Mapping[str, tuple[np.ndarray, np.ndarray]]  # laboratory → second-moment matrix to the power ½ and −½

    @staticmethod
    def of(images: Mapping[str, list[np.ndarray]]) -> StainSwap:
        roots = {}
        for lab, pictures in images.items():
            moment = np.zeros((3, 3))
            for picture in pictures:
                density = optical_density(picture)
                stain = (density - clear_density(density)).reshape(-1, 3)
                stain = stain[stain.mean(axis=1) > 0.12]
                if len(stain):
                    moment += stain.T @ stain / len(stain)
            values, vectors = np.linalg.eigh(moment / max(1, len(pictures)) + 1e-4 * np.eye(3))
            roots[lab] = (
                (vectors * np.sqrt(values)) @ vectors.T,
                (vectors / np.sqrt(values)) @ vectors.T,
            )
        return StainSwap(roots)

    def __call__(self, image: np.ndarray, lab: str, rng: np.random.Generator) -> np.ndarray:
        others = [name for name in self.roots if name != lab]
        if lab not in self.roots or not others:
            return image
        other = others[rng.integers(len(others))]
        share = rng.uniform(0.3, 1.0)
        painted = (1 - share) * np.eye(3) + share * (self.roots[lab][1] @ self.roots[other][0])
        density = optical_density(image)
        clear = clear_density(density)
        return from_density((density - clear) @ painted.astype(np.float32) + clear)


def stain_jitter(image: np.ndarray, rng: np.random.Generator, strength: float = STRENGTH) -> np.ndarray:
    """Random stain, camera white balance and exposure. `image` H×W×3 float32 in 0–255; the same comes back."""
    density = optical_density(image)
    mixing = np.eye(3, dtype=np.float32) + rng.normal(0, 0.12 * strength, (3, 3)).astype(np.float32)
    gain = np.exp(rng.normal(0, 0.25 * strength)).astype(np.float32)
    density = density @ (mixing * gain).T
    # The clear background of the slide: lamp colour and white balance.
    density += rng.normal(0, 0.14 * strength, 3).astype(np.float32) + np.float32(rng.normal(0, 0.10 * strength))
    return from_density(density)


def tone(image: np.ndarray, rng: np.random.Generator, strength: float = STRENGTH) -> np.ndarray:
    """How dark is dark: stains and cameras bend the density above the clear slide, each channel a little differently. A pale cell
    next to a dark one, or a nucleus that hardly stands out of its cytoplasm."""
    density = optical_density(image)
    clear = clear_density(density)
    above = density - clear
    bend = np.exp(rng.normal(0, 0.22 * strength) + rng.normal(0, 0.07 * strength, 3)).astype(np.float32)
    return from_density(clear + np.sign(above) * np.abs(above) ** bend)


def texture(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Chromatin and granules as other optics show them: smeared flat between the edges, or their contrast turned up or down."""
    kind = rng.random()
    if kind < 0.4:
        return cv2.bilateralFilter(image, 0, rng.uniform(15, 60), rng.uniform(1.0, 2.5))
    if kind < 0.6:
        return cv2.medianBlur(np.clip(image, 0, 255).astype(np.uint8), int(rng.choice([3, 5]))).astype(np.float32)
    coarse = cv2.GaussianBlur(image, (0, 0), rng.uniform(2.5, 9.0))
    return coarse + np.float32(np.exp(rng.normal(0, 0.35))) * (image - coarse)


def illumination(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A linear gradient, a vignette or a coloured lamp spot, multiplied onto the image."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / max(width, 2) - 0.5, y / max(height, 2) - 0.5
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.8)
    shade = slope * (np.cos(angle) * x + np.sin(angle) * y)
    if rng.random() < 0.5:
        cx, cy, radius = rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7), rng.uniform(0.2, 1.0)
        spot = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2)
        shade = shade[..., None] + spot[..., None] * (rng.uniform(-0.4, 0.4) + rng.uniform(-0.35, 0.35, 3)).astype(np.float32)
    else:
        tint = 1 + rng.normal(0, 0.3, 3).astype(np.float32)
        shade = shade[..., None] * tint
    return image * np.exp(shade).astype(np.float32)


def camera(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Focus, resolution, sensor noise, sharpening, grey cameras and JPEG. float32 in, uint8 out."""
    height, width = image.shape[:2]
    if rng.random() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.6))
    elif rng.random() < 0.25:
        soft = cv2.GaussianBlur(image, (0, 0), 1.2)
        image = image + rng.uniform(0.3, 1.5) * (image - soft)
    if rng.random() < 0.25:
        factor = rng.uniform(0.4, 0.9)
        small = cv2.resize(image, (max(8, round(width * factor)), max(8, round(height * factor))), interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.12:
        grey = image.mean(axis=2, keepdims=True)
        image = image + rng.uniform(0.3, 1.0) * (grey - image)
    if rng.random() < 0.4:
        image = image + rng.normal(0, rng.uniform(1, 8), image.shape).astype(np.float32)
    if rng.random() < 0.3:
        image = 255.0 * np.clip(image / 255.0, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.25)))
    result = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(35, 95))
        ok, data = cv2.imencode(".jpg", result[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if ok:
            result = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    return np.ascontiguousarray(result)


def photometric(
    image: np.ndarray,
    rng: np.random.Generator,
    strength: float = STRENGTH,
    swap: StainSwap | None = None,
    lab: str = "",
) -> np.ndarray:
    """The whole chain on one uint8 RGB image; uint8 back."""
    values = image.astype(np.float32)
    if swap is not None and rng.random() < 0.35:
        values = swap(values, lab, rng)
    if rng.random() < 0.9:
        values = stain_jitter(values, rng, strength)
    if rng.random() < 0.6:
        values = tone(values, rng, strength)
    if rng.random() < 0.4:
        values = texture(values, rng)
    if rng.random() < 0.55:
        values = illumination(values, rng)
    return camera(values, rng)


def window(
    image: np.ndarray,
    centre: tuple[float, float],
    size: int,
    scale: float,
    angle: float = 0.0,
    mirror: bool = False,
    labels: list[np.ndarray] | None = None,
    outside: int = 255,
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """A `size`×`size` window around `centre`, turned and scaled (`scale` output pixels for one input pixel).

    The image continues at its border by its edge pixels (as in the service), label maps by `outside`.
    Returns the window, the label windows and the 2×3 matrix from image to window coordinates.
    """
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    flip = -1.0 if mirror else 1.0
    matrix = np.array([[flip * cos, -sin, 0], [flip * sin, cos, 0]], np.float64)
    # Pixel centres at +0.5, as in the service: the window's middle lies between its two central pixels.
    middle = (size - 1) / 2
    matrix[:, 2] = middle - matrix[:, :2] @ np.array([centre[0] - 0.5, centre[1] - 0.5])
    source = image
    if scale < 0.7:
        # warpAffine samples single pixels; the service averages when it shrinks.
        source = cv2.GaussianBlur(image, (0, 0), 0.35 / scale)
    view = cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    others = [sample_labels(label, matrix, size, outside) for label in labels or []]
    return view, others, matrix


def sample_labels(label: np.ndarray, matrix: np.ndarray, size: int, outside: int, stride: int = 1) -> np.ndarray:
    """The label map in a window of `size` pixels (`matrix` as `window` returns it), one sample at the middle of every `stride`
    pixels along each axis: `size / stride` squared."""
    # Sample i stands at window coordinate (stride · i + (stride − 1) / 2), pixel centres being whole numbers.
    coarse = matrix.copy()
    coarse[:, 2] -= (stride - 1) / 2
    coarse /= stride
    shape = (size // stride, size // stride)
    return cv2.warpAffine(label, coarse, shape, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=outside)
