"""ShuffleFaceNet: ShuffleNetV2 units with PReLU, no pooling after the stem, and a global depthwise convolution.

Paper: Martinez-Diaz et al., "ShuffleFaceNet: A Lightweight Face Architecture for Efficient and Highly-Accurate Face
Recognition", ICCV workshops 2019. Paper 001 measures width 1.0 with 128 features (Table 11).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plugins.backbones._base import Backbone, conv_out, embedding_head
from plugins.layers import GDC, ConvBNAct, channel_shuffle
from plugins.registry import register_backbone

# output channels of the three stages and of the last convolution
WIDTHS = {0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024), 2.0: (244, 488, 976, 2048)}
REPEATS = (4, 8, 4)
STEM = 24


class ShuffleUnit(nn.Module):
    """Two branches of half the channels each, concatenated and shuffled; at stride 1 the first one is the identity."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.down = stride > 1
        if self.down:
            self.shortcut = nn.Sequential(ConvBNAct(in_channels, in_channels, 3, stride, groups=in_channels, act=None),
                                          ConvBNAct(in_channels, half, 1))
        self.body = nn.Sequential(ConvBNAct(in_channels if self.down else half, half, 1),
                                  ConvBNAct(half, half, 3, stride, groups=half, act=None),
                                  ConvBNAct(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.shortcut(x), x) if self.down else x.chunk(2, 1)
        return channel_shuffle(torch.cat([first, self.body(second)], 1))


class ShuffleFaceNet(Backbone):
    """Stem (conv 3x3/2), three stages of shuffle units, 1x1 convolution, GDC, linear layer.

    Args:
        width: 0.5, 1.0, 1.5 or 2.0: the published channel tables.
    """

    def __init__(self, width: float = 1.0, num_features: int = 512, input_size: int | tuple[int, int] = 112,
                 dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        if width not in WIDTHS:
            raise ValueError(f'width={width}: ShuffleFaceNet is published for the widths {", ".join(map(str, WIDTHS))}')
        *stages, last = WIDTHS[width]
        layers: list[nn.Module] = [ConvBNAct(3, STEM, stride=2)]
        channels = STEM
        for out_channels, repeats in zip(stages, REPEATS, strict=True):
            for unit in range(repeats):
                layers.append(ShuffleUnit(channels, out_channels, 2 if unit == 0 else 1))
                channels = out_channels
        layers += [ConvBNAct(channels, last, 1), GDC(last, conv_out(self.input_size, (2, 2, 2, 2)))]
        self.features = nn.Sequential(*layers)
        self.head = embedding_head(last, num_features, dropout, bias=False)
        self.init_weights()


@register_backbone
def shufflefacenet(num_features: int = 128, **kwargs) -> ShuffleFaceNet:
    """ShuffleFaceNet: at width 1.0 with 128 features 1.44 M parameters, 143 M MACs, 37.7 MB feature maps (Table 11)."""
    return ShuffleFaceNet(num_features=num_features, **kwargs)
