"""bfloat16 arithmetic where the processor has it (AVX-512 BF16, AMX): about half again as fast to train on two cores.

Elsewhere it is emulated and many times slower, so it is chosen by looking, not by hoping. Losses, statistics and weights stay in
float32; so do the 5×5 depth-wise convolutions, whose bfloat16 gradient is slow in oneDNN.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn


def has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def arithmetic(bfloat16: bool) -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if bfloat16 else contextlib.nullcontext()


class _InFloat32:
    def __init__(self, module: nn.Module) -> None:
        self.plain = module.forward

    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.plain(x.float()).to(x.dtype)


def keep_depthwise_in_float32(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 and module.kernel_size[0] == 5:
            module.forward = _InFloat32(module)  # type: ignore[method-assign]
