"""SG-CLDFF: saliency-guided cross-layer deep feature fusion on one crop a cell (after arXiv:2510.17278)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import EfficientSwin
from .constants import CLASSES
from .fusion import CrossLayerFusion
from .saliency import conv, upsample


@dataclass
class Prediction:
    logits: Tensor  # N×C
    segmentation: Tensor  # N×3×80×80 logits: background, cytoplasm, nucleus of the central cell
    evidence: Tensor  # N×K×20×20: the map whose mean the class head reads; Grad-CAM is taken here
    weights: Tensor  # N×1×20×20: how much each place counts in the pooled features


class SegmentationHead(nn.Module):
    """Fused map (stride 8) and the shallow features at strides 4 and 2 → part logits at stride 2."""

    def __init__(self, fused: int) -> None:
        super().__init__()
        self.reduce = conv(fused, 64, kernel=1)
        self.lateral4 = conv(24, 24, kernel=1)
        self.lateral2 = conv(16, 16, kernel=1)
        self.refine4 = conv(88, 48)
        self.refine2 = conv(64, 24)
        self.out = nn.Conv2d(24, 3, 1)

    def forward(self, fused: Tensor, four: Tensor, two: Tensor) -> Tensor:
        x = self.refine4(torch.cat([upsample(self.reduce(fused), 2), self.lateral4(four)], dim=1))
        x = self.refine2(torch.cat([upsample(x, 2), self.lateral2(two)], dim=1))
        return self.out(x)


class ClassificationHead(nn.Module):
    """Linear on features that are averaged over the segmented cell.

    Averaging over the cell instead of the window keeps the laboratory's background out of the class. A floor keeps the
    class alive where the segmentation fails.
    """

    floor = 0.1

    def __init__(self, fused: int, features: int = 256) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(fused, features, 1, bias=False), nn.BatchNorm2d(features), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(features, len(CLASSES))

    def forward(self, fused: Tensor, segmentation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cell = 1 - torch.softmax(segmentation.detach(), dim=1)[:, :1]
        weights = self.floor + (1 - self.floor) * F.avg_pool2d(cell, 4)
        evidence = self.features(fused) * weights
        pooled = evidence.sum(dim=(2, 3)) / weights.sum(dim=(2, 3))
        return self.linear(self.dropout(pooled)), evidence, weights


class SGCLDFF(nn.Module):
    """`rgb` N×3×160×160 in 0–255 and `prior` N×1×160×160 in 0–1 → Prediction."""

    def __init__(self, pretrained: bool = True, guided: bool = True, attention: bool = True, fusion: bool = True) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1) * 255)
        self.backbone = EfficientSwin(pretrained, attention, guided)
        self.fusion = CrossLayerFusion(EfficientSwin.channels[1:], only_deepest=not fusion)
        self.segmentation = SegmentationHead(256)
        self.classification = ClassificationHead(256)

    def forward(self, rgb: Tensor, prior: Tensor) -> Prediction:
        features = self.backbone((rgb - self.mean) / self.std, prior)
        fused = self.fusion(features[1:])
        segmentation = self.segmentation(fused, features[1], features[0])
        logits, evidence, weights = self.classification(fused, segmentation)
        return Prediction(logits, segmentation, evidence, weights)

    def grad_cam(self, evidence: Tensor, chosen: Tensor) -> Tensor:
        """Grad-CAM (Selvaraju et al. 2017) of class `chosen` (N), N×20×20, not normalised.

        The head is linear on the average of `evidence`, so the gradient is the class's weight row at every place, up to the
        positive factor 1/Σweights: Grad-CAM is one product, without a backward pass.
        """
        rows = self.classification.linear.weight[chosen]
        return F.relu((rows[:, :, None, None] * evidence).sum(dim=1))


def normalised(cam: Tensor) -> Tensor:
    """Each map divided by its maximum: 0–1."""
    return cam / (cam.amax(dim=(1, 2), keepdim=True) + 1e-6)


def consistency(cam: Tensor, prior: Tensor, cell: Tensor) -> Tensor:
    """Saliency consistency N in 0–1: do class evidence, saliency prior and segmented cell mean the same place?

    The geometric mean of: the share of Grad-CAM energy inside the cell, and the soft overlap (2Σmin ÷ Σsum) of prior and
    cell. `cam`, `prior` and `cell` are N×20×20 in 0–1.
    """
    energy = (cam * cell).sum(dim=(1, 2)) / (cam.sum(dim=(1, 2)) + 1e-6)
    overlap = 2 * torch.minimum(prior, cell).sum(dim=(1, 2)) / ((prior + cell).sum(dim=(1, 2)) + 1e-6)
    return torch.sqrt(torch.clamp(energy * overlap, 0, 1))
