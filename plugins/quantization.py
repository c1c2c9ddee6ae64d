"""Quantisation-aware training: the forward pass rounds as 8-bit inference will, the backward pass ignores the rounding.

Weights per output channel, what convolutions and fully connected layers read per tensor, symmetric, as NCNN and TensorRT do
(Jacob et al. 2018; Krishnamoorthi 2018). The backbone itself is not touched: its state dict stays that of the plain network,
so its weights load, fold and export as ever. Rounding a channel's weights commutes with the factor that a folded BatchNorm
multiplies them by, hence the same integers come out after export.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ['FakeQuantised', 'Ranges', 'fake_quantise', 'weight_levels']

LEVELS, WINOGRAD_LEVELS = 127, 31
_EPS = 1e-6
_MOMENTUM = 0.01  # of the moving average of a layer's range


def weight_levels(kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], groups: int) -> int:
    """Positive integers that a layer's weights are spread over in NCNN: 31 for dense 3x3 convolutions of stride 1, else 127.

    ncnn2table's rule: such a layer may run as Winograd F(4, 3) in 16-bit integers, whose transform would overflow on 8-bit
    weights. Depthwise layers have no Winograd form.
    """
    plain = tuple(kernel) == (3, 3) and tuple(stride) == tuple(dilation) == (1, 1) and groups == 1
    return WINOGRAD_LEVELS if plain else LEVELS


def fake_quantise(x: Tensor, amax: Tensor, levels: int = LEVELS) -> Tensor:
    """``x`` rounded to ``2 * levels + 1`` symmetric steps up to ``amax`` (broadcast against it), in the dtype of ``x``.

    The gradient is 1 inside the range and 0 outside (straight-through estimator).
    """
    scale = amax.float().clamp(min=_EPS) / levels
    clipped = torch.minimum(torch.maximum(x.float(), -levels * scale), levels * scale)
    return (clipped + ((clipped / scale).round() * scale - clipped).detach()).to(x.dtype)


class Ranges(nn.Module):
    """Largest value that each layer of a backbone reads: a moving average while training, fixed in evaluation mode."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        for name, _ in _layers(backbone):
            self.register_buffer(name.replace('.', '_'), torch.zeros(()))

    def forward(self, name: str, x: Tensor) -> Tensor:
        """The range of layer ``name``, having seen its input ``x``; a scalar."""
        amax = getattr(self, name.replace('.', '_'))
        if self.training:
            largest = x.detach().abs().amax().float()
            amax.copy_(torch.where(amax > 0, amax.lerp(largest, _MOMENTUM), largest))
        return amax


class FakeQuantised(nn.Module):
    """A backbone that computes in simulated 8 bits; the backbone stays usable by itself, without rounding."""

    def __init__(self, backbone: nn.Module, ranges: Ranges) -> None:
        super().__init__()
        self.backbone, self.ranges, self.num_features = backbone, ranges, backbone.num_features

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings of ``(N, 3, H, W)``, as the backbone gives them but for the rounding."""
        layers = _layers(self.backbone)
        handles = [module.register_forward_pre_hook(self._round_input(name)) for name, module in layers]
        try:
            return functional_call(self.backbone, {f'{name}.weight': _rounded_weight(module) for name, module in layers}, (x,))
        finally:
            for handle in handles:
                handle.remove()

    def _round_input(self, name: str):
        return lambda module, inputs: fake_quantise(inputs[0], self.ranges(name, inputs[0]))


def _layers(backbone: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _rounded_weight(module: nn.Module) -> Tensor:
    weight = module.weight
    amax = weight.detach().abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
    levels = weight_levels(module.kernel_size, module.stride, module.dilation, module.groups) if weight.ndim == 4 else LEVELS
    return fake_quantise(weight, amax, levels)
