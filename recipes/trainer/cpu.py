"""What makes training on CPUs fast: memory and layout that are kept, a kernel that is avoided, bf16 where it is computed."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor, nn

__all__ = ['avoid_strided_depthwise', 'computes_bf16', 'keep_layout', 'keep_memory']

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_memory() -> None:
    """Let glibc keep freed memory for the next step instead of returning it: a fresh page of an activation costs a fault.

    Measured with MobileFaceNet, 64 faces, bf16: 20 to 25 faces a second on one core (benchmarks/training.py). Elsewhere
    than on glibc nothing happens.
    """
    if sys.platform == 'linux':
        mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
        if mallopt:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, -1)


def keep_layout() -> None:
    """Let compiled backward passes stay channels-last, as the forward passes are.

    PyTorch 2.13 decides by the forward convolutions of a graph, and a backward graph has none: before each depthwise
    convolution it then copies the activations to the layout of the weight, (N, H, C, W), which oneDNN copies back. Measured
    with MobileFaceNet, 64 faces, float32, AVX2, two cores, in turns: 40, 43, 35 faces a second without, 47, 50, 42 with this.
    """
    from torch._inductor import config  # over a second; Fabric, which a training needs, has imported it
    config.force_layout_optimization = True


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed there, not emulated.

    On a processor with AVX2 alone FDFaceNet learns from 7 faces a second in bf16 and from 52 in float32 (64 at a time, two
    cores). ARM's bf16 instructions were not measured, and do not count.
    """
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = getattr(torch.cpu, '_is_avx512_bf16_supported', None)  # AMX comes with it; not public, so that it may be gone
    return bool(known and known())


def avoid_strided_depthwise(network: nn.Module) -> None:
    """Run depthwise convolutions of stride 2 as stride 1 followed by every second pixel: the same numbers.

    oneDNN's backward pass of a strided depthwise convolution in bf16 takes 5 times that of the whole unstrided one.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 and module.stride == (2, 2):
            module.forward = _Unstrided(module)


class _Unstrided:
    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        conv = self.conv
        y = torch.nn.functional.conv2d(x, conv.weight, conv.bias, 1, conv.padding, conv.dilation, conv.groups)
        return y[:, :, ::2, ::2]
