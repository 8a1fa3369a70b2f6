"""The saliency network: where in a field are white cells, and how large is a micron here?

Low-level cues that the paper's prior is built on (stain density, colour opponency, edges, centre-surround contrast) are
computed inside the graph; a small U-shaped network turns them into a saliency map, a cell-centre map and the scale.
Fully convolutional: one field of any size at 0.48 µm per pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constants import SCALE_BINS


def conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def optical_density(rgb: Tensor) -> Tensor:
    """RGB in 0–255 → −ln of the transmitted share of light, where dyes and light add. The offset keeps black finite."""
    return -torch.log((rgb + 4.0) / 259.0)


class LowLevelCues(nn.Module):
    """RGB in 0–255 → 10 cue maps at the same size: what any observer of a stained smear would look at first.

    Densities are taken against the field's own clear background (the mean of its brighter half), so that the lamp's colour
    and the camera's white balance cancel: colour constancy in the graph.
    """

    channels = 10

    def __init__(self) -> None:
        super().__init__()
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
        self.register_buffer("sobel", torch.stack([sobel, sobel.T])[:, None])

    def forward(self, rgb: Tensor) -> Tensor:
        density = optical_density(rgb)
        mean = density.mean(dim=(2, 3), keepdim=True)
        # Mean over the pixels that are less dense than average, without sorting: exports to plain operators.
        bright = torch.sigmoid((mean - density) * 12.0)
        clear = (density * bright).sum(dim=(2, 3), keepdim=True) / (bright.sum(dim=(2, 3), keepdim=True) + 1.0)
        stain = density - clear
        red, green, blue = stain[:, 0:1], stain[:, 1:2], stain[:, 2:3]
        total = stain.mean(dim=1, keepdim=True)
        opponent_rg = red - green  # nuclei absorb red, red cells do not
        opponent_by = blue - 0.5 * (red + green)
        edges = F.conv2d(F.pad(total, (1, 1, 1, 1), mode="replicate"), self.sobel)
        edge = torch.sqrt(edges.square().sum(dim=1, keepdim=True) + 1e-4)
        # Centre-surround contrast at two sizes: a nucleus, a cell.
        small, large = box_mean(red, 9), box_mean(red, 33)
        return torch.cat([stain, total, opponent_rg, opponent_by, edge, red - small, small - large, green - blue], dim=1)


class SaliencyNetwork(nn.Module):
    """`field` N×H×W×3 uint8 (H, W multiples of 16, 0.48 µm per pixel) →

    `saliency` N×H/2×W/2 in 0–1, `centres` N×H/2×W/2 in 0–1 (a peak at each white cell's centre) and
    `scale` N×17 log-probabilities of log2(µm per pixel of the input ÷ 0.48), bins from −2 in quarter octaves.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.cues = LowLevelCues()
        self.normalise = nn.BatchNorm2d(LowLevelCues.channels)
        self.stem = conv(LowLevelCues.channels, w, stride=2)
        self.level1 = nn.Sequential(conv(w, w), conv(w, w))
        self.level2 = nn.Sequential(conv(w, 2 * w, stride=2), conv(2 * w, 2 * w))
        self.level3 = nn.Sequential(conv(2 * w, 3 * w, stride=2), conv(3 * w, 3 * w, dilation=2))
        self.level4 = nn.Sequential(conv(3 * w, 4 * w, stride=2), conv(4 * w, 4 * w))
        self.up3 = conv(7 * w, 3 * w)
        self.up2 = conv(5 * w, 2 * w)
        self.up1 = conv(3 * w, w)
        self.saliency_head = nn.Conv2d(w, 1, 1)
        self.centre_head = nn.Conv2d(w, 1, 1)
        self.scale_features = nn.Sequential(conv(7 * w, 4 * w, kernel=1), conv(4 * w, 4 * w, kernel=1))
        self.scale_head = nn.Linear(4 * w, SCALE_BINS)
        nn.init.constant_(self.centre_head.bias, -4.0)

    def maps(self, field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of saliency and centres (N×1×H/2×W/2) and of the scale (N×17)."""
        rgb = field.permute(0, 3, 1, 2).float()
        one = self.level1(self.stem(self.normalise(self.cues(rgb))))
        two = self.level2(one)
        three = self.level3(two)
        four = self.level4(three)
        deep = torch.cat([three, upsample(four, 2)], dim=1)
        scale = self.scale_head(self.scale_features(deep).mean(dim=(2, 3)))
        up = self.up3(deep)
        up = self.up2(torch.cat([two, upsample(up, 2)], dim=1))
        up = self.up1(torch.cat([one, upsample(up, 2)], dim=1))
        return self.saliency_head(up), self.centre_head(up), scale

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        saliency, centres, scale = self.maps(field)
        return torch.sigmoid(saliency[:, 0]), torch.sigmoid(centres[:, 0]), F.log_softmax(scale, dim=1)


def box_mean(x: Tensor, side: int) -> Tensor:
    """Mean over a square around each pixel, as far as it lies inside the map. Two passes: 2·side operations, not side²."""
    x = F.avg_pool2d(x, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)


def upsample(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
