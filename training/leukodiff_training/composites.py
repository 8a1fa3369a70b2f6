"""Pictures put together from two: a cell on another laboratory's ground, and a second cell at its side.

Both mix in optical density above the clear slide, so that what is put together seems lit by one lamp.
"""

from __future__ import annotations

import cv2
import numpy as np

from .augment import clear_density, from_density, optical_density

STEP_PX = 3


def on_other_ground(view: np.ndarray, white: np.ndarray, ground: np.ndarray | None) -> np.ndarray:
    """The cell (`white`) on another clear slide's surroundings, or, without `ground`, alone on its own clear slide.

    Whatever a laboratory's surroundings give away of the class is gone; and the counterfactual of the consistency score, a cell on
    bare ground, is nothing new to the network.
    """
    density = optical_density(view)
    clear = clear_density(density)
    around = np.zeros_like(density)
    if ground is not None:
        around = optical_density(ground)
        around = around - clear_density(around)
    share = cv2.GaussianBlur(cv2.dilate(white.astype(np.float32), np.ones((3, 3), np.uint8)), (0, 0), 1.2)[..., None]
    mixed = from_density(clear + share * (density - clear) + (1 - share) * around)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def beside(
    view: np.ndarray, white: np.ndarray, other: np.ndarray, other_white: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The cell of `other` (`other_white`; windows of one size) put at the side of the cell of `view` (`white`), touching it.

    It lies a little under the cell, never over it. Returns the picture, and where the second cell is seen.
    """
    angle, overlap = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.08) * other_white.sum()
    direction = np.array([np.cos(angle), np.sin(angle)])
    size = view.shape[0]
    for distance in range(0, size, STEP_PX):
        matrix = np.array([[1, 0, direction[0] * distance], [0, 1, direction[1] * distance]])
        moved = cv2.warpAffine(other_white.astype(np.uint8), matrix, (size, size), flags=cv2.INTER_NEAREST) > 0
        if (moved & white).sum() <= overlap:
            break
    picture = cv2.warpAffine(other, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    density, painted = optical_density(view), optical_density(picture)
    painted = painted - clear_density(optical_density(other)) + clear_density(density)
    share = cv2.GaussianBlur(moved.astype(np.float32), (0, 0), 1.0)
    share = (share * (1 - cv2.GaussianBlur(white.astype(np.float32), (0, 0), 1.0)))[..., None]
    mixed = from_density((1 - share) * density + share * painted)
    return np.clip(mixed, 0, 255).astype(np.uint8), moved & ~white
