"""Pictures that are no stained smear, drawn at random: what the network has to turn down.

Two sets of families that share no generator: `LEARNT` is drawn from while training, `HELD_OUT` only measures (AUROC known against
unknown). Each generator gives a square uint8 RGB picture; `spoilt` makes an unknown of a real crop.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Generator = Callable[[int, np.random.Generator], np.ndarray]


# Nucleus, cytoplasm, red cell and clear slide of a usual stain.
STAIN = np.array([(95, 60, 140), (180, 160, 205), (215, 160, 155), (235, 228, 225)], np.float32)


def _colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """Any colours, or, half of the time, a smear's: colour alone must not tell."""
    if rng.random() < 0.5:
        return np.clip(STAIN[rng.integers(0, len(STAIN), count)] + rng.normal(0, 18, (count, 3)), 5, 250).astype(np.float32)
    return rng.uniform(10, 250, (count, 3)).astype(np.float32)


def _clouds(size: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose power falls with frequency to the power −`slope`; 0–1, three channels that share most of it."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1.0
    layers = []
    for _ in range(4):
        spectrum = np.fft.rfft2(rng.normal(0, 1, (size, size))) * frequency ** (-slope / 2)
        layer = np.fft.irfft2(spectrum, (size, size))
        layers.append((layer - layer.min()) / (np.ptp(layer) + 1e-9))
    shared = layers[0][..., None]
    return (0.7 * shared + 0.3 * np.stack(layers[1:], axis=2)).astype(np.float32)


def noise(size: int, rng: np.random.Generator) -> np.ndarray:
    values = rng.normal(rng.uniform(60, 200, 3), rng.uniform(10, 90), (size, size, 3))
    grain = rng.uniform(0, 2.5)
    return cv2.GaussianBlur(values.astype(np.float32), (0, 0), grain) if grain > 0.3 else values


def clouds(size: int, rng: np.random.Generator) -> np.ndarray:
    low, high = _colours(rng, 2)
    mixed = _clouds(size, rng, rng.uniform(1.2, 3.0))
    return low + (high - low) * mixed


def stripes(size: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 60)
    wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)
    if rng.random() < 0.5:
        wave = wave * np.sin(2 * np.pi * (np.sin(angle) * x - np.cos(angle) * y) / period)
    low, high = _colours(rng, 2)
    share = 1 / (1 + np.exp(-wave * rng.uniform(1, 20)))
    return low + (high - low) * share[..., None]


def rectangles(size: int, rng: np.random.Generator) -> np.ndarray:
    picture = np.full((size, size, 3), _colours(rng, 1)[0], np.float32)
    for colour in _colours(rng, int(rng.integers(3, 20))):
        a, b = rng.integers(0, size, 2), rng.integers(0, size, 2)
        cv2.rectangle(picture, tuple(map(int, a)), tuple(map(int, b)), colour.tolist(), -1 if rng.random() < 0.7 else 2)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 2.0))


def writing(size: int, rng: np.random.Generator) -> np.ndarray:
    paper, ink = _colours(rng, 2)
    picture = np.full((size, size, 3), paper, np.uint8)
    letters = "ABCDEFGHKLMNPRSTUVXYZ0123456789"
    for line in range(12, size, int(rng.integers(14, 40))):
        text = "".join(letters[i] for i in rng.integers(0, len(letters), 30))
        cv2.putText(
            picture, text, (int(rng.integers(-20, 5)), line), cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.3, 1.2), ink.tolist(), 1
        )
    return picture


def tissue(size: int, rng: np.random.Generator) -> np.ndarray:
    """Packed small nuclei in fibres: the look of a stained section."""
    fibres = _clouds(size, rng, 2.0)
    low, high = np.array([215, 120, 165], np.float32), np.array([245, 205, 225], np.float32)
    picture = low + rng.normal(0, 15, 3).astype(np.float32) + (high - low) * fibres
    for _ in range(int(rng.integers(25, 120))):
        centre = tuple(map(int, rng.integers(0, size, 2)))
        axes = tuple(map(int, rng.integers(3, 11, 2)))
        colour = np.array([95, 60, 130]) + rng.normal(0, 15, 3)
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour.tolist(), -1)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 1.6))


def landscape(size: int, rng: np.random.Generator) -> np.ndarray:
    """Sky above a jagged horizon above textured ground."""
    sky, ground = _colours(rng, 2)
    depth = np.linspace(0.7, 1.3, size, dtype=np.float32)[:, None, None]
    horizon = rng.uniform(0.2, 0.8) * size + np.cumsum(rng.normal(0, 1.2, size))
    rows = np.arange(size)[:, None]
    land = (rows > horizon[None]).astype(np.float32)[..., None]
    texture = 0.6 + 0.8 * _clouds(size, rng, 1.5)
    return (sky * depth) * (1 - land) + ground * texture * land


def bubbles(size: int, rng: np.random.Generator) -> np.ndarray:
    """Rings with highlights: air bubbles, dust, a dirty lens."""
    picture = np.full((size, size, 3), _colours(rng, 1)[0], np.float32)
    for _ in range(int(rng.integers(3, 25))):
        centre, radius = tuple(map(int, rng.integers(0, size, 2))), int(rng.integers(4, 60))
        shade = float(rng.uniform(-90, 90))
        ring = np.zeros((size, size), np.float32)
        cv2.circle(ring, centre, radius, 1.0, int(rng.integers(1, 6)))
        picture += shade * cv2.GaussianBlur(ring, (0, 0), rng.uniform(0.5, 3))[..., None]
    return picture


def mosaic(size: int, rng: np.random.Generator) -> np.ndarray:
    """Cells of a Voronoi diagram: crystals, tiles, plant tissue."""
    seeds = rng.uniform(0, size, (int(rng.integers(6, 60)), 2))
    y, x = np.mgrid[0:size, 0:size]
    nearest = ((x[..., None] - seeds[:, 0]) ** 2 + (y[..., None] - seeds[:, 1]) ** 2).argmin(axis=2)
    return cv2.GaussianBlur(_colours(rng, len(seeds))[nearest], (0, 0), rng.uniform(0.3, 2.0))


def weave(size: int, rng: np.random.Generator) -> np.ndarray:
    """Crossing threads of uneven width."""
    across, along = (np.cumsum(rng.uniform(0.05, 0.6, size)) for _ in range(2))
    low, high = _colours(rng, 2)
    share = 0.5 + 0.25 * np.sin(across)[:, None] + 0.25 * np.sin(along)[None]
    return low + (high - low) * share[..., None] + rng.normal(0, 6, (size, size, 3))


LEARNT: dict[str, Generator] = {
    "noise": noise,
    "clouds": clouds,
    "stripes": stripes,
    "rectangles": rectangles,
    "writing": writing,
    "tissue": tissue,
}
HELD_OUT: dict[str, Generator] = {"landscape": landscape, "bubbles": bubbles, "mosaic": mosaic, "weave": weave}


def drawn(size: int, rng: np.random.Generator, families: dict[str, Generator]) -> np.ndarray:
    names = list(families)
    return np.clip(families[names[rng.integers(len(names))]](size, rng), 0, 255).astype(np.uint8)


def spoilt(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A real crop that no laboratory would send: colours of no stain, or so far out of focus that nothing can be told."""
    kind = rng.integers(4)
    if kind == 0:
        return 255 - crop
    if kind == 1:
        return np.ascontiguousarray(crop[..., [(1, 0, 2), (0, 2, 1), (1, 2, 0)][rng.integers(3)]])
    if kind == 2:
        return cv2.GaussianBlur(crop, (0, 0), rng.uniform(6.0, 16.0))
    hue = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV)
    hue[..., 0] = (hue[..., 0].astype(int) + int(rng.integers(60, 110))) % 180
    return cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)
