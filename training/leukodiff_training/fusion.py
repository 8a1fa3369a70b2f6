"""Cross-layer deep feature fusion: shallow edges and deep meaning in one map at stride 8."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CARDINALITY = 32


class AggregatedTransform(nn.Module):
    """A ResNeXt block (Xie et al. 2017): 32 parallel transforms as one grouped convolution, residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, channels // 2, 3, padding=1, groups=CARDINALITY, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class CrossLayerFusion(nn.Module):
    """Strides 4 to 32 → one map at stride 8.

    Each layer is projected to the same width and brought to stride 8; a cross-channel gate, computed from all layers
    together, weighs each channel of each layer; aggregated transforms then mix them.
    """

    def __init__(self, inputs: tuple[int, ...], width: int = 64, output: int = 256, only_deepest: bool = False) -> None:
        super().__init__()
        self.only_deepest = only_deepest
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for c in inputs
        )
        total = width * len(inputs)
        self.gate = nn.Sequential(nn.Linear(total, total // 4), nn.ReLU(inplace=True), nn.Linear(total // 4, total))
        self.mix = nn.Sequential(nn.Conv2d(total, output, 1, bias=False), nn.BatchNorm2d(output), nn.ReLU(inplace=True))
        self.transforms = nn.Sequential(AggregatedTransform(output), AggregatedTransform(output))

    def forward(self, features: list[Tensor]) -> Tensor:
        four, eight, sixteen, thirty_two = (lateral(f) for lateral, f in zip(self.lateral, features, strict=True))
        layers = [
            F.avg_pool2d(four, 2),
            eight,
            F.interpolate(sixteen, scale_factor=2.0, mode="bilinear", align_corners=False),
            F.interpolate(thirty_two, scale_factor=4.0, mode="bilinear", align_corners=False),
        ]
        if self.only_deepest:  # the ablation without cross-layer fusion
            layers = [torch.zeros_like(layer) for layer in layers[:3]] + layers[3:]
        x = torch.cat(layers, dim=1)
        gate = torch.sigmoid(self.gate(x.mean(dim=(2, 3))))
        return self.transforms(self.mix(x * gate[:, :, None, None] * 2))
