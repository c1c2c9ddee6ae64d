"""Building blocks shared by the backbones. All take and return float ``(N, C, H, W)``."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ['CBAM', 'ECA', 'GDC', 'AttentionMaps', 'ChannelAttention', 'ConvBNAct', 'DepthwiseSeparable', 'InvertedResidual',
           'SpatialAttention', 'attention', 'autocast', 'channel_shuffle', 'make_act']


def make_act(name: str | None, channels: int) -> nn.Module:
    """Activation by name: ``prelu`` (a slope per channel, from 0.25), ``relu``, ``relu6``, ``leaky_relu`` (0.1),
    ``hswish`` (the h-ReLU6 of Xiao et al. 2022, eq. 6: ``x * ReLU6(x + 3) / 6``) or None for none.

    Raises:
        ValueError: another name.
    """
    factories = {
        None: nn.Identity,
        'prelu': lambda: nn.PReLU(channels),
        'relu': lambda: nn.ReLU(inplace=True),
        'relu6': lambda: nn.ReLU6(inplace=True),
        'leaky_relu': lambda: nn.LeakyReLU(0.1, inplace=True),
        'hswish': nn.Hardswish,
    }
    if name not in factories:
        raise ValueError(f'unknown activation {name!r}; known: {sorted(k for k in factories if k)} or None')
    return factories[name]()


class ConvBNAct(nn.Sequential):
    """Convolution without bias, BatchNorm, activation (CONV-P of FDFaceNet, fig. 4b, with ``act='prelu'``).

    ``padding`` defaults to ``kernel // 2``; ``act=None`` leaves the activation out.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 3, stride: int = 1,
                 padding: int | None = None, groups: int = 1, act: str | None = 'prelu') -> None:
        if padding is None:
            padding = kernel // 2
        layers = [nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
                  nn.BatchNorm2d(out_channels)]
        if act is not None:
            layers.append(make_act(act, out_channels))
        super().__init__(*layers)


class DepthwiseSeparable(nn.Sequential):
    """Depthwise 3x3 then pointwise 1x1, each with BatchNorm and activation (DSConv-P of FDFaceNet, fig. 4c)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, act: str | None = 'prelu') -> None:
        super().__init__(ConvBNAct(in_channels, in_channels, 3, stride, groups=in_channels, act=act),
                         ConvBNAct(in_channels, out_channels, 1, act=act))


class InvertedResidual(nn.Module):
    """1x1 expansion (none when ``expansion`` is 1), depthwise ``kernel``, linear 1x1, attention; residual when stride 1 keeps
    the channels (MobileNetV2; the "bottleneck" of MobileFaceNet's Table 1)."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, kernel: int = 3,
                 act: str | None = 'prelu', attend: str = 'none') -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = [ConvBNAct(in_channels, hidden, 1, act=act)] if expansion > 1 else []
        layers += [ConvBNAct(hidden, hidden, kernel, stride, groups=hidden, act=act),
                   ConvBNAct(hidden, out_channels, 1, act=None)]
        if attend != 'none':
            layers.append(attention(attend, out_channels))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class GDC(ConvBNAct):
    """Global depthwise convolution (FDFaceNet eq. 13): one kernel of the map's own size ``(H, W)`` a channel, to 1x1."""

    def __init__(self, channels: int, size: tuple[int, int], act: str | None = None) -> None:
        super().__init__(channels, channels, size, padding=0, groups=channels, act=act)


class ChannelAttention(nn.Module):
    """Channel half of CBAM (CAM): ``sigmoid(MLP(avg) + MLP(max))``, shared MLP ``C -> C/16 -> C``.

    ``use_max=False`` gives SE (Hu et al. 2018) without biases. :meth:`scores` returns the map ``(N, C, 1, 1)`` before the
    sigmoid.
    """

    def __init__(self, channels: int, use_max: bool = True) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.use_max = use_max
        self.mlp = nn.Sequential(nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(inplace=True),
                                 nn.Conv2d(hidden, channels, 1, bias=False))

    def scores(self, x: Tensor) -> Tensor:
        scores = self.mlp(x.mean((2, 3), keepdim=True))
        if self.use_max:
            scores = scores + self.mlp(F.adaptive_max_pool2d(x, 1))  # amax over two axes is unknown to pnnx
        return scores

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.scores(x))


class SpatialAttention(nn.Module):
    """Spatial half of CBAM (SAM): ``sigmoid(conv7x7([mean_c; max_c]))``; :meth:`scores` returns ``(N, 1, H, W)`` before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def scores(self, x: Tensor) -> Tensor:
        # not amax: compiled with bf16, its gradient looks for the maximum among values rounded otherwise, and finds none (NaN)
        most = x.max(1, keepdim=True).values
        return self.conv(torch.cat([x.mean(1, keepdim=True), most], 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.scores(x))


class AttentionMaps(NamedTuple):
    """The maps of one CBAM.

    Attributes:
        channel, spatial: ``(N, C, 1, 1)`` and ``(N, 1, H, W)`` after the sigmoid, in (0, 1).
        channel_scores, spatial_scores: the same before it.
    """

    channel: Tensor
    spatial: Tensor
    channel_scores: Tensor
    spatial_scores: Tensor


class CBAM(nn.Module):
    """Channel then spatial attention (Woo et al. 2018; eqs. 1-4 of the low-quality distillation paper).

    :meth:`attend` also returns its maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention()

    def attend(self, x: Tensor) -> tuple[Tensor, AttentionMaps]:
        channel_scores = self.channel.scores(x)
        channel = torch.sigmoid(channel_scores)
        x = x * channel
        spatial_scores = self.spatial.scores(x)
        spatial = torch.sigmoid(spatial_scores)
        return x * spatial, AttentionMaps(channel, spatial, channel_scores, spatial_scores)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x)[0]


class ECA(nn.Module):
    """Efficient channel attention (Wang et al., ECA-Net, CVPR 2020): global average, 1-D convolution over channels, sigmoid,
    scale.

    Kernel ``(log2(C) + 1) / 2``, cut to a whole number and made odd upwards: 3 for 64, 5 for 128 to 512 channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = int(abs(math.log2(channels) + 1) / 2)
        kernel += 1 - kernel % 2
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.conv(x.mean((2, 3)).unsqueeze(1))
        return x * torch.sigmoid(weights).transpose(1, 2).unsqueeze(-1)


def attention(kind: str, channels: int) -> nn.Module:
    """``none``, ``se``, ``cam``, ``sam``, ``cbam`` or ``eca`` over ``channels``.

    Raises:
        ValueError: another kind.
    """
    factories = {
        'none': nn.Identity,
        'se': lambda: ChannelAttention(channels, use_max=False),
        'cam': lambda: ChannelAttention(channels),
        'sam': SpatialAttention,
        'cbam': lambda: CBAM(channels),
        'eca': lambda: ECA(channels),
    }
    if kind not in factories:
        raise ValueError(f'unknown attention {kind!r}; known: {sorted(factories)}')
    return factories[kind]()


def channel_shuffle(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels: ``0, C/2, 1, C/2 + 1, ...`` (ShuffleNet, Zhang et al. 2018)."""
    height, width = x.shape[2:]
    x = x.reshape(-1, 2, x.shape[1] // 2, height, width)
    return x.transpose(1, 2).reshape(-1, x.shape[1] * x.shape[2], height, width)


def autocast(x: Tensor, enabled: bool = True) -> torch.autocast:
    """Half precision on the device of ``x``: float16 on a GPU, bfloat16 elsewhere; with ``enabled=False`` none."""
    device = 'cpu' if x.is_meta else x.device.type  # meta tensors, which count layers without memory, have no autocast
    return torch.autocast(device, torch.float16 if device == 'cuda' else torch.bfloat16, enabled=enabled)
