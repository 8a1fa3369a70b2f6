"""Class-aware weighted losses with partial labels, and the saliency-alignment term."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .constants import ATTRIBUTES, CLASS_INDEX, UNKNOWN, WBC_PART_UNKNOWN

# Nuclei are small and their outline is what a reader looks at first; background is most of a crop.
PART_WEIGHTS = (0.6, 1.2, 1.4)
# Stages are what a laboratory reports, and the hardest to tell apart.
ATTRIBUTE_WEIGHTS = {"subtype": 6.0}


def classification(logits: Tensor, label: Tensor, weight: Tensor, class_weights: Tensor, not_blast: Tensor) -> Tensor:
    """Cross entropy over the samples that have a class (`label` ≥ 0), and −log(1 − p(blast)) where only that is known."""
    known = (label >= 0).float() * weight
    target = label.clamp(min=0)
    cross = F.cross_entropy(logits, target, weight=class_weights, reduction="none", label_smoothing=0.05)
    loss = (cross * known).sum() / (known.sum() + 1e-6) if known.sum() > 0 else logits.sum() * 0
    p_blast = torch.softmax(logits, dim=1)[:, CLASS_INDEX["blast"]]
    refused = -(torch.log1p(-p_blast.clamp(max=0.999)) * not_blast).sum() / (not_blast.sum() + 1)
    return loss + refused


def segmentation(logits: Tensor, parts: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross entropy and Dice over the pixels that are known.

    `logits` N×3×h×w, `parts` N×h×w (constants.BACKGROUND …; a WBC pixel whose part is unknown is right as either part),
    `weight` N: trust in each mask.
    """
    log_p = F.log_softmax(logits, dim=1)
    cell = torch.logsumexp(log_p[:, 1:], dim=1)
    exact = ((parts < WBC_PART_UNKNOWN) & (parts != UNKNOWN)).float() * weight[:, None, None]
    either = (parts == WBC_PART_UNKNOWN).float() * weight[:, None, None]
    class_weight = logits.new_tensor(PART_WEIGHTS)
    target = parts.clamp(max=2).long()
    nll = -log_p.gather(1, target[:, None])[:, 0] * class_weight[target]
    pixel = (nll * exact - cell * PART_WEIGHTS[1] * either).sum() / (exact.sum() + either.sum() + 1)

    known = exact + either
    p_cell, is_cell = cell.exp() * known, (parts.clamp(max=3) > 0).float() * known
    p_nucleus, is_nucleus = log_p[:, 2].exp() * exact, (parts == 2).float() * exact

    def dice(p: Tensor, t: Tensor) -> Tensor:
        present = (t.sum(dim=(1, 2)) > 0).float()
        overlap = (2 * (p * t).sum(dim=(1, 2)) + 1) / (p.sum(dim=(1, 2)) + t.sum(dim=(1, 2)) + 1)
        return ((1 - overlap) * present).sum() / (present.sum() + 1)

    return pixel + 0.5 * dice(p_cell, is_cell) + 0.3 * dice(p_nucleus, is_nucleus)


def box_projection(logits: Tensor, rows: Tensor, columns: Tensor, has_box: Tensor) -> Tensor:
    """Where only a box is drawn: the cell's extent along each axis has to be the box's (BoxInst, arXiv:2012.02310, eq. 4).

    `rows` N×h and `columns` N×w are 1 inside the box.
    """
    cell = 1 - torch.softmax(logits, dim=1)[:, 0]
    loss = logits.new_zeros(())
    for projected, target in ((cell.amax(dim=2), rows), (cell.amax(dim=1), columns)):
        overlap = (2 * (projected * target).sum(dim=1) + 1) / (projected.square().sum(dim=1) + target.sum(dim=1) + 1)
        loss = loss + ((1 - overlap) * has_box).sum() / (has_box.sum() + 1)
    return loss


def saliency_alignment(cam: Tensor, region: Tensor, known: Tensor) -> Tensor:
    """The share of Grad-CAM energy outside the salient region. `cam` and `region` N×20×20, `known` N."""
    share = (cam * region).sum(dim=(1, 2)) / (cam.sum(dim=(1, 2)) + 1e-4)
    return ((1 - share) * known).sum() / (known.sum() + 1)


def attributes(logits: Tensor, label: Tensor) -> Tensor:
    """Weighted mean cross entropy over the morphology attributes that are known. `logits` N×35, `label` N×12 (−1: not known)."""
    loss, first, weights = logits.sum() * 0, 0, 0.0
    for column, (name, values) in enumerate(ATTRIBUTES.items()):
        weight = ATTRIBUTE_WEIGHTS.get(name, 1.0)
        target = label[:, column]
        if (target >= 0).any():
            loss = loss + weight * F.cross_entropy(logits[:, first : first + len(values)], target, ignore_index=-1)
        first += len(values)
        weights += weight
    return loss / weights


def known(logits: Tensor, outlier: Tensor) -> Tensor:
    """Is it a smear at all? Outliers are few in a batch and weigh as much as the rest together."""
    weight = torch.where(outlier > 0, 0.5 / (outlier.sum() + 1), 0.5 / ((1 - outlier).sum() + 1))
    return (F.binary_cross_entropy_with_logits(logits, 1 - outlier, reduction="none") * weight).sum()
