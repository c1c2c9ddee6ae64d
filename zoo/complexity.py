"""Complexity counters in every convention that the papers use (they mix several; the figures differ up to six-fold).

With ``n`` the number of output elements of a leaf module at batch 1:

========================  ==================================================================================================
``macs``                  pure multiply-accumulates: ``weight.numel() * n / outputs`` of convolutions (channels) and FC; of
                          transposed convolutions ``weight.numel()`` times the input positions
``macs_paper``            + bias ``n`` + BatchNorm ``2 n`` + activation ``n`` + pooling input elements (ptflops 0.6; paper 001's
                          column "computation")
``macs_torchinfo``        torchinfo 1.8 "mult-adds": every parameter, times the output positions in convolutions
``macs_thop``             convolutions + bias + 2 * fully connected + 4 * BatchNorm (thop's old table; paper 001's Table 6)
``feature_map_mb_paper``  8 bytes * n over leaf modules with parameters (torchinfo's "forward/backward pass size"; every table
                          of paper 001 but two rows without GDC, DWFN* and Table 11's FDFN*)
``feature_map_mb_table2`` 4 bytes * n over convolutions (the definition that paper 001's Table 2 prints and no table uses)
``feature_map_mb_fused``  ``feature_map_mb_paper`` once BatchNorm is folded into the layer before it (those two rows)
========================  ==================================================================================================

MB are 1e6 bytes. Papers truncate or round to integers; nothing is rounded here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from torch import nn

from plugins.backbones._base import to_hw
from zoo.trace import Call, trace_calls

__all__ = ['LayerProfile', 'Profile', 'profile']

_CONV = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
_NORM = (nn.BatchNorm1d, nn.BatchNorm2d)
_ACT = (nn.ReLU, nn.ReLU6, nn.PReLU, nn.LeakyReLU, nn.Hardswish, nn.ELU)
_POOL = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class LayerProfile:
    """One call of one leaf module; ``kind`` tells convolutions apart (``3x3``, ``3x3/2``, ``1x1``, ``depthwise``, ...)."""

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    macs: int
    macs_paper: int
    macs_torchinfo: int
    macs_thop: int
    bytes_paper: int
    bytes_table2: int
    bytes_fused: int


@dataclass(frozen=True)
class Profile:
    """Totals over ``layers``; see the module's docstring for the conventions. MACs and parameters are plain counts."""

    params: int
    macs: int
    macs_paper: int
    macs_torchinfo: int
    macs_thop: int
    feature_map_mb_paper: float
    feature_map_mb_table2: float
    feature_map_mb_fused: float
    input_size: tuple[int, int]
    layers: tuple[LayerProfile, ...]

    def to_dict(self, layers: bool = False) -> dict:
        """JSON-ready mapping, with the single layers only when asked for."""
        data = asdict(self)
        if not layers:
            del data['layers']
        return data


def profile(model: nn.Module, input_size: int | tuple[int, int] | None = None, channels: int = 3) -> Profile:
    """Count one forward pass at batch 1.

    Args:
        model: any network of convolutions, fully connected layers, BatchNorm, activations and pooling modules.
        input_size: side in pixels or ``(H, W)``; default: the model's own.
        channels: of the input; backbones take RGB, also those that make it grey inside.

    Raises:
        ValueError: the network cannot run at that size, or none is given and it has none of its own.
    """
    size = getattr(model, 'input_size', None) if input_size is None else input_size
    if size is None:
        raise ValueError(f'{type(model).__name__} does not say what size it takes; give input_size')
    height, width = to_hw(size)
    try:
        calls = trace_calls(model, (1, channels, height, width))
    except RuntimeError as error:
        raise ValueError(f'{type(model).__name__} cannot run at {height}x{width}: {error}') from None
    seen: set[int] = set()
    layers = [_count(call, calls, seen) for call in calls]

    def total(key: str) -> int:
        return sum(getattr(layer, key) for layer in layers)

    return Profile(
        params=sum(p.numel() for p in model.parameters()), macs=total('macs'), macs_paper=total('macs_paper'),
        macs_torchinfo=total('macs_torchinfo'), macs_thop=total('macs_thop'),
        feature_map_mb_paper=total('bytes_paper') / 1e6, feature_map_mb_table2=total('bytes_table2') / 1e6,
        feature_map_mb_fused=total('bytes_fused') / 1e6, input_size=(height, width), layers=tuple(layers))


def _count(call: Call, calls: list[Call], seen: set[int]) -> LayerProfile:
    module, n = call.module, math.prod(call.output_shape)
    params = 0 if id(module) in seen else sum(p.numel() for p in module.parameters(recurse=False))
    seen.add(id(module))
    macs = extra = thop = torchinfo = 0
    if isinstance(module, _CONV):
        macs = at_outputs = module.weight.numel() * n // module.out_channels
        if isinstance(module, nn.ConvTranspose2d):  # the kernel is laid down at every input position
            macs = module.weight.numel() * math.prod(call.input_shape) // module.in_channels
        extra = n if module.bias is not None else 0
        thop = torchinfo = at_outputs + extra
    elif isinstance(module, nn.Linear):
        macs = module.weight.numel() * n // module.out_features
        extra = n if module.bias is not None else 0
        thop = 2 * macs
        torchinfo = sum(p.numel() for p in module.parameters())
    elif isinstance(module, _NORM):
        extra, thop, torchinfo = 2 * n, 4 * n, sum(p.numel() for p in module.parameters())
    elif isinstance(module, _ACT):
        extra, torchinfo = n, sum(p.numel() for p in module.parameters())
    elif isinstance(module, _POOL):
        extra = math.prod(call.input_shape)
    stored = 8 * n if any(True for _ in module.parameters(recurse=False)) else 0
    folded = isinstance(module, _NORM) and call.producer is not None and isinstance(
        calls[call.producer].module, (*_CONV, nn.Linear))
    return LayerProfile(call.name, _kind(module), call.output_shape[1:], params, macs, macs + extra, torchinfo, thop, stored,
                        4 * n if isinstance(module, _CONV) else 0, 0 if folded else stored)


def _kind(module: nn.Module) -> str:
    if not isinstance(module, _CONV):
        return type(module).__name__
    stride = '' if module.stride[0] == 1 else f'/{module.stride[0]}'
    kernel = 'transposed ' * isinstance(module, nn.ConvTranspose2d) + 'x'.join(map(str, module.kernel_size))
    if module.groups == module.in_channels > 1:
        return f'depthwise {kernel}{stride}'
    return f'{kernel}{stride}' + (f' g{module.groups}' if module.groups > 1 else '')
