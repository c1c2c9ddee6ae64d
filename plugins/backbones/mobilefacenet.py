"""MobileFaceNet, its two smaller forms, and the three steps of Xiao et al. towards MobileFaceNet-ECA.

Papers: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices", CCBR 2018;
Xiao et al., "A Lightweight Face Recognition Model based on MobileFaceNet for Limited Computation Environment", EAI 2022
(Table 1 and section 3), whose text and tables contradict each other; the cards say how that was resolved.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from plugins.backbones._base import Backbone, conv_out, embedding_head, flatten, scale_channels, to_hw
from plugins.layers import GDC, ConvBNAct, InvertedResidual
from plugins.registry import register_backbone

# (expansion t, output channels c, repeats n, stride s) of each row: Table 1 of both papers
ROWS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
# Xiao's restructuring; the repeats are not printed: these give the printed file size of 3.1 MB
ROWS_XIAO = ((2, 64, 3, 2), (4, 128, 1, 2), (2, 128, 3, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class GDCs(nn.Module):
    """One GDC for each map size, so that one network takes inputs of several resolutions."""

    def __init__(self, channels: int, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.sized = nn.ModuleDict({f'{h}x{w}': GDC(channels, (h, w)) for h, w in sizes})

    def forward(self, x: Tensor) -> Tensor:
        return self.sized[f'{x.shape[2]}x{x.shape[3]}'](x)


class MobileFaceNet(Backbone):
    """Stem (conv 3x3/2, depthwise 3x3), inverted residuals, 1x1 expansion, GDConv, linear 1x1 to the embedding.

    Args:
        rows: ``(t, c, n, s)`` for each row of inverted residuals, the first of which has stride ``s``.
        stem: channels of the stem.
        act: activation inside the inverted residuals; outer_act: of the stem and of the last 1x1 convolution.
        eca: indices of the rows whose units end in ECA.
        last: channels of the 1x1 convolution before GDConv; None leaves it out.
        project: the linear layer after GDConv. Without it the embedding is GDConv's output; a layer is still added if that
            does not have ``num_features`` channels.
        width: multiplies the channels of stem and rows (``int(channels * width)``).
        resolutions: further input sizes for which a GDConv is kept; see :meth:`at`.
    """

    def __init__(self, rows=ROWS, stem: int = 64, act: str = 'prelu', outer_act: str = 'prelu', eca: tuple[int, ...] = (),
                 last: int | None = 512, project: bool = True, width: float = 1.0, resolutions: tuple = (),
                 num_features: int = 512, input_size: int | tuple[int, int] = 112, dropout: float = 0.0,
                 fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        self.input_sizes += tuple(map(to_hw, resolutions))
        channels = scale_channels(stem, width)
        layers: list[nn.Module] = [ConvBNAct(3, channels, stride=2, act=outer_act),
                                   ConvBNAct(channels, channels, groups=channels, act=outer_act)]
        for index, (expansion, out_channels, repeats, stride) in enumerate(rows):
            out = scale_channels(out_channels, width)
            for unit in range(repeats):
                layers.append(InvertedResidual(channels, out, expansion, stride if unit == 0 else 1, act=act,
                                               attend='eca' if index in eca else 'none'))
                channels = out
        if last is not None:
            layers.append(ConvBNAct(channels, last, 1, act=outer_act))
            channels = last
        strides = [2, *(row[3] for row in rows)]
        sizes = [conv_out(size, strides) for size in self.input_sizes]
        layers.append(GDCs(channels, sizes) if resolutions else GDC(channels, sizes[0]))
        self.features = nn.Sequential(*layers)
        if project or channels != num_features:
            self.head = embedding_head(channels, num_features, dropout, bias=False)
        else:
            self.head = flatten(dropout)
        self.init_weights()

    def at(self, input_size: int | tuple[int, int]) -> MobileFaceNet:
        """The same network with shared weights for another of its ``resolutions``, to profile or export it at that size.

        Raises:
            ValueError: it was not built for that size.
        """
        other = copy.copy(self)
        other.input_size = to_hw(input_size)
        if other.input_size not in self.input_sizes:
            raise ValueError(f'input_size={input_size}: this network was built for {self.input_sizes}; add it to resolutions')
        return other


@register_backbone
def mobilefacenet(**kwargs) -> MobileFaceNet:
    """MobileFaceNet at 112x112: 1.20 M parameters and 221 M MACs; 1.00 M with the original's ``num_features=128``."""
    return MobileFaceNet(**kwargs)


@register_backbone
def mobilefacenet_m(num_features: int = 512, **kwargs) -> MobileFaceNet:
    """MobileFaceNet-M: without the linear layer; the embedding is GDConv's output. 0.94 M parameters."""
    return MobileFaceNet(last=num_features, project=False, num_features=num_features, **kwargs)


@register_backbone
def mobilefacenet_s(num_features: int = 128, **kwargs) -> MobileFaceNet:
    """MobileFaceNet-S: also without the 1x1 convolution before GDConv; 128 features. 0.85 M parameters."""
    return MobileFaceNet(last=None, project=False, num_features=num_features, **kwargs)


@register_backbone
def mobilefacenet96(num_features: int = 128, input_size: int | tuple[int, int] = 96, **kwargs) -> MobileFaceNet:
    """Xiao's first step: 96x96 input, fewer units. 0.75 M parameters, a file of 3.1 MB (Table 4)."""
    return MobileFaceNet(ROWS_XIAO, num_features=num_features, input_size=input_size, **kwargs)


@register_backbone
def mobilefacenet96_hrelu6(**kwargs) -> MobileFaceNet:
    """Xiao's second step: h-ReLU6 (eq. 6) instead of PReLU inside the bottlenecks."""
    return mobilefacenet96(act='hswish', **kwargs)


@register_backbone
def mobilefacenet96_eca(**kwargs) -> MobileFaceNet:
    """Xiao's third step, the final model: ECA in the first and the last row of bottlenecks."""
    return mobilefacenet96_hrelu6(eca=(0, 4), **kwargs)
