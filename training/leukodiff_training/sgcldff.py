"""SG-CLDFF: saliency-guided cross-layer deep feature fusion on one crop a cell (after arXiv:2510.17278)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import EfficientSwin
from .constants import ATTRIBUTE_OUTPUTS, CLASSES
from .fusion import CrossLayerFusion
from .saliency import conv, optical_density, upsample


@dataclass
class Prediction:
    logits: Tensor  # N×C
    segmentation: Tensor  # N×3×80×80 logits: background, cytoplasm, nucleus of the central cell
    evidence: Tensor  # N×K×20×20: the map whose mean the class head reads; Grad-CAM is taken here
    weights: Tensor  # N×1×20×20: how much each place counts in the pooled features
    attributes: Tensor  # N×35 logits: constants.ATTRIBUTES one after the other
    known: Tensor  # N logits: is this a smear like those that were learnt from?


class ColourConstancy(nn.Module):
    """RGB 0–255 → RGB as if the clear slide were the same bright grey in every picture.

    Dyes add in optical density, and so do lamp, white balance and exposure: subtracting the density of the clear slide takes
    them away, and with them what a laboratory's background could give away of the class. The slide is the weighted mean over
    what is less dense than the crop's average.
    """

    white = 236.0

    @staticmethod
    def light(density: Tensor) -> Tensor:
        return torch.exp(-density) * 259.0 - 4.0

    def clear(self, density: Tensor) -> Tensor:
        """Density of the clear slide, N×3×1×1."""
        total = density.mean(dim=1, keepdim=True)
        mean = total.mean(dim=(2, 3), keepdim=True)
        spread = torch.sqrt((total - mean).square().mean(dim=(2, 3), keepdim=True) + 1e-4)
        bright = torch.sigmoid((mean - 0.3 * spread - total) * 15.0)
        return (density * bright).sum(dim=(2, 3), keepdim=True) / (bright.sum(dim=(2, 3), keepdim=True) + 1e-3)

    def forward(self, rgb: Tensor) -> Tensor:
        density = optical_density(rgb)
        return self.light(density - self.clear(density)) * (self.white / 255.0)

    def on_clear_ground(self, rgb: Tensor, cell: Tensor) -> Tensor:
        """The same crop with everything but the cell painted over by the clear slide. `cell` N×1×H×W in 0–1."""
        density = optical_density(rgb)
        clear = self.clear(density)
        return self.light(clear + (density - clear) * cell)


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
        self.attributes = nn.Linear(features, ATTRIBUTE_OUTPUTS)
        self.known = nn.Linear(features, 1)

    def forward(self, fused: Tensor, segmentation: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        cell = 1 - torch.softmax(segmentation.detach(), dim=1)[:, :1]
        weights = self.floor + (1 - self.floor) * F.avg_pool2d(cell, 4)
        evidence = self.features(fused) * weights
        pooled = evidence.sum(dim=(2, 3)) / weights.sum(dim=(2, 3))
        dropped = self.dropout(pooled)
        return self.linear(dropped), evidence, weights, self.attributes(dropped), self.known(pooled)[:, 0]


class SGCLDFF(nn.Module):
    """`rgb` N×3×160×160 in 0–255 and `prior` N×1×160×160 in 0–1 → Prediction."""

    def __init__(self, pretrained: bool = True, guided: bool = True, attention: bool = True, fusion: bool = True) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1) * 255)
        self.constancy = ColourConstancy()
        self.backbone = EfficientSwin(pretrained, attention, guided)
        self.fusion = CrossLayerFusion(EfficientSwin.channels[1:], only_deepest=not fusion)
        self.segmentation = SegmentationHead(256)
        self.classification = ClassificationHead(256)

    def trunk(self, rgb: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Fused map N×256×20×20 and part logits N×3×80×80."""
        features = self.backbone((self.constancy(rgb) - self.mean) / self.std, prior)
        fused = self.fusion(features[1:])
        return fused, self.segmentation(fused, features[1], features[0])

    def fused(self, rgb: Tensor, prior: Tensor) -> Tensor:
        """The trunk without the segmentation head: N×256×20×20."""
        return self.fusion(self.backbone((self.constancy(rgb) - self.mean) / self.std, prior)[1:])

    def heads(self, fused: Tensor, segmentation: Tensor) -> Prediction:
        logits, evidence, weights, attributes, known = self.classification(fused, segmentation)
        return Prediction(logits, segmentation, evidence, weights, attributes, known)

    def forward(self, rgb: Tensor, prior: Tensor) -> Prediction:
        return self.heads(*self.trunk(rgb, prior))

    def grad_cam(self, evidence: Tensor, chosen: Tensor) -> Tensor:
        """Grad-CAM (Selvaraju et al. 2017) of class `chosen` (N), N×20×20, not normalised.

        The head is linear on the average of `evidence`, so the gradient is the class's weight row at every place, up to the
        positive factor 1/Σweights: Grad-CAM is one product, without a backward pass.
        """
        rows = self.classification.linear.weight[chosen]
        # A product for each crop: a sum over channels is added up in another order where a run holds a single crop.
        maps = torch.bmm(rows[:, None], evidence.flatten(2))
        return F.relu(maps.unflatten(2, evidence.shape[2:])[:, 0])


def normalised(cam: Tensor) -> Tensor:
    """Each map divided by its maximum: 0–1."""
    return cam / (cam.amax(dim=(1, 2), keepdim=True) + 1e-6)


# Evidence, prior, counterfactual. The first two are nearly always high, since the network is trained to make them agree; chosen on
# cells of laboratories that a network was trained without (decision 0016).
CONSISTENCY_WEIGHTS = (0.05, 0.05, 0.9)


def consistency(cam: Tensor, prior: Tensor, cell: Tensor, agreement: Tensor) -> tuple[Tensor, Tensor]:
    """Saliency consistency N in 0–1, and its three parts N×3: do class evidence, prior, cell and counterfactual mean the same?

    Evidence: the share of Grad-CAM energy inside the cell. Prior: soft overlap (2Σmin ÷ Σsum) of saliency prior and cell.
    Counterfactual: `agreement` of the class with what is answered when everything but the cell is painted over. The score is their
    weighted geometric mean. `cam`, `prior` and `cell` are N×20×20 in 0–1, `agreement` N in 0–1.
    """
    energy = (cam * cell).sum(dim=(1, 2)) / (cam.sum(dim=(1, 2)) + 1e-6)
    overlap = 2 * torch.minimum(prior, cell).sum(dim=(1, 2)) / ((prior + cell).sum(dim=(1, 2)) + 1e-6)
    parts = torch.clamp(torch.stack([energy, overlap, agreement], dim=1), 1e-6, 1)
    return torch.exp((torch.log(parts) * parts.new_tensor(CONSISTENCY_WEIGHTS)).sum(dim=1)), parts
