"""What all backbones share: the contract, mixed precision and weight initialisation."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from plugins.layers import autocast

__all__ = ['Backbone', 'classifier_head', 'conv_out', 'embedding_head', 'flatten', 'make_divisible', 'scale_channels', 'to_hw']


class Backbone(nn.Module):
    """Turns a face image into an embedding; sub-classes define the modules ``features`` and ``head``.

    Input: float32 ``(N, 3, H, W)``, RGB in [-1, 1] (``(x - 127.5) / 127.5``), ``(H, W) == input_size`` or, of networks for
    several, in ``input_sizes``.
    Output: float32 ``(N, num_features)``, **not** L2-normalised (margin heads normalise; IJB uses the norm as quality).
    ``features`` may run in half precision (its own ``fp16`` flag, which InsightFace asks for, or an outer autocast); ``head``
    always runs in float32, because InsightFace's PartialFC gathers into float32 buffers.

    Raises:
        ValueError: ``num_features`` is not a whole number from 1, ``input_size`` is impossible, or the images of a call have
            another size.
    """

    features: nn.Module
    head: nn.Module

    def __init__(self, num_features: int, input_size: int | tuple[int, int], fp16: bool) -> None:
        super().__init__()
        if not isinstance(num_features, Integral) or num_features < 1:
            raise ValueError(f'num_features={num_features!r}: must be a whole number from 1')
        self.num_features = num_features
        self.input_size = to_hw(input_size)
        self.input_sizes = (self.input_size,)
        self.fp16 = fp16

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def forward_head(self, x: Tensor) -> Tensor:
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        # many networks would embed others all the same: into another length, or from a part of the face
        if not torch.jit.is_tracing() and x.shape[-2:] not in self.input_sizes:
            known = ', '.join(f'{height}x{width}' for height, width in self.input_sizes)
            raise ValueError(f'images of {x.shape[-2]}x{x.shape[-1]} pixels: this {type(self).__name__} was built for {known}; '
                             'resize them, or build it with another input_size')
        with self._precision(x):
            x = self.forward_features(x)
        return self._embed(x)

    def _precision(self, x: Tensor) -> AbstractContextManager:
        """Half precision where the ``fp16`` flag asks for it; an outer autocast is left alone."""
        return autocast(x) if self.fp16 else nullcontext()

    def _embed(self, x: Tensor) -> Tensor:
        weight = next(self.head.parameters(), None)
        dtype = torch.float32 if weight is None else weight.dtype  # another after .half() and .double()
        with autocast(x, enabled=False):
            return self.forward_head(x.to(dtype))

    def init_weights(self) -> None:
        """He initialisation (fan-out) of convolutions, N(0, 0.01) of fully connected layers, unit BatchNorm."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


def to_hw(size: int | tuple[int, int]) -> tuple[int, int]:
    """``112 -> (112, 112)``; a pair is passed through.

    Raises:
        ValueError: it is neither a whole number from 1 nor a pair of them.
    """
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f'input_size={size!r}: must be a whole number of pixels from 1, or (height, width)')
    return tuple(pair)


def conv_out(size: tuple[int, int], strides, kernel: int = 3, padding: int = 1) -> tuple[int, int]:
    """Spatial size ``(H, W)`` after convolutions of equal kernel and padding with the given strides.

    Raises:
        ValueError: nothing is left of the image.
    """
    height, width = size
    for stride in strides:
        height = (height + 2 * padding - kernel) // stride + 1
        width = (width + 2 * padding - kernel) // stride + 1
    if height < 1 or width < 1:
        raise ValueError(f'input_size {size} is too small for strides {list(strides)}')
    return height, width


def scale_channels(channels: int, width: float) -> int:
    """``int(channels * width)``, the papers' rule.

    Raises:
        ValueError: the width leaves no channel, or is not a number.
    """
    if not isinstance(width, Real) or not 1 <= channels * width < math.inf:
        raise ValueError(f'width={width!r}: {channels} channels times the width must be a number from 1')
    return int(channels * width)


def make_divisible(channels: int, divisor: int, width: float) -> int:
    """``channels * width`` rounded to a multiple of ``divisor``, at most 10 % down (MobileNetV2, GhostNet).

    Raises:
        ValueError: the width leaves no channel, or is not a number.
    """
    if not isinstance(width, Real) or not 0 < channels * width < math.inf:
        raise ValueError(f'width={width!r}: {channels} channels times the width must be a number above 0')
    channels = channels * width
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def flatten(dropout: float) -> nn.Module:
    """Flatten, then dropout if there is any: a single module, so that the layers after it have the same names either way."""
    return nn.Sequential(nn.Flatten(1), nn.Dropout(dropout)) if dropout > 0 else nn.Flatten(1)


def classifier_head(in_features: int, num_classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Global average pooling and one fully connected layer: logits ``(N, num_classes)`` of an image classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), flatten(dropout), nn.Linear(in_features, num_classes))


def embedding_head(in_features: int, num_features: int, dropout: float = 0.0, bias: bool = True) -> nn.Sequential:
    """Flatten, optional dropout, Linear, BatchNorm1d: how most of the papers end."""
    return nn.Sequential(flatten(dropout), nn.Linear(in_features, num_features, bias=bias), nn.BatchNorm1d(num_features))
