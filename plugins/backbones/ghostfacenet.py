"""GhostNet for faces: PReLU, a stride-1 stem and a global depthwise convolution; a rival in LNRN's Table 3.

Paper: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020; face variant: cavaface's public ``ghostnet.py``,
which this matches module by module at width 1.3 (LNRN does not say which variant it measured).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plugins.backbones._base import Backbone, conv_out, embedding_head, make_divisible
from plugins.layers import GDC, ConvBNAct
from plugins.registry import register_backbone

# (kernel, expansion channels, output channels, squeeze-and-excitation, stride) of each bottleneck
ROWS = (
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2), (3, 72, 24, False, 1),
    (5, 72, 40, True, 2), (5, 120, 40, True, 1),
    (3, 240, 80, False, 2), (3, 200, 80, False, 1), (3, 184, 80, False, 1), (3, 184, 80, False, 1), (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2), (5, 960, 160, False, 1), (5, 960, 160, True, 1), (5, 960, 160, False, 1), (5, 512, 160, True, 1),
)
STEM, LAST = 16, 512


class GhostModule(nn.Module):
    """A 1x1 convolution makes half of the outputs; a cheap depthwise 3x3 makes the other half from these."""

    def __init__(self, in_channels: int, out_channels: int, act: str | None = 'prelu') -> None:
        super().__init__()
        half = -(-out_channels // 2)
        self.out_channels = out_channels
        self.primary = ConvBNAct(in_channels, half, 1, act=act)
        self.cheap = ConvBNAct(half, half, 3, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], 1)[:, :self.out_channels]


class SqueezeExcite(nn.Module):
    """Channel attention with a hard sigmoid: average, ``C -> C/4 -> C`` with bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = make_divisible(channels, 4, 1 / 4)
        self.mlp = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * nn.functional.hardsigmoid(self.mlp(x.mean((2, 3), keepdim=True)))


class GhostBottleneck(nn.Module):
    """Ghost module up, depthwise convolution (stride 2 only), optional attention, linear ghost module down, shortcut."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, kernel: int, stride: int, attend: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [GhostModule(in_channels, hidden)]
        if stride > 1:
            layers.append(ConvBNAct(hidden, hidden, kernel, stride, groups=hidden, act=None))
        if attend:
            layers.append(SqueezeExcite(hidden))
        self.body = nn.Sequential(*layers, GhostModule(hidden, out_channels, act=None))
        self.shortcut = nn.Identity() if stride == 1 and in_channels == out_channels else nn.Sequential(
            ConvBNAct(in_channels, in_channels, kernel, stride, groups=in_channels, act=None),
            ConvBNAct(in_channels, out_channels, 1, act=None))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class GhostFaceNet(Backbone):
    """Stem (conv 3x3, stride 1), sixteen ghost bottlenecks, 1x1 convolution, GDC, linear layer.

    Args:
        width: multiplies every channel count, rounded to multiples of 4.
    """

    def __init__(self, width: float = 1.3, num_features: int = 512, input_size: int | tuple[int, int] = 112,
                 dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        channels, last = make_divisible(STEM, 4, width), make_divisible(LAST, 4, width)
        layers: list[nn.Module] = [ConvBNAct(3, channels)]
        for kernel, hidden, out_channels, attend, stride in ROWS:
            out = make_divisible(out_channels, 4, width)
            layers.append(GhostBottleneck(channels, make_divisible(hidden, 4, width), out, kernel, stride, attend))
            channels = out
        layers += [ConvBNAct(channels, last, 1), GDC(last, conv_out(self.input_size, [row[4] for row in ROWS]))]
        self.features = nn.Sequential(*layers)
        self.head = embedding_head(last, num_features, dropout, bias=False)
        self.init_weights()


@register_backbone
def ghostfacenet(**kwargs) -> GhostFaceNet:
    """GhostNet for 112x112 faces at width 1.3 (or any other: ``width=1.0``), 512 features."""
    return GhostFaceNet(**kwargs)
