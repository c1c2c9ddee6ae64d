"""MobileNetV1 and MobileNetV2 as face recognisers: the rivals in paper 004's Table 2.

Papers: Howard et al., "MobileNets", arXiv 1704.04861; Sandler et al., "MobileNetV2", CVPR 2018. Table 2 repeats figures of
the MobileFaceNets paper (Chen et al. 2018), which trained both at 112x112 with a stride of 1 in the first convolution and
128 features after global average pooling. The parameter counts there leave the fully connected layer out.
"""

from __future__ import annotations

from torch import nn

from plugins.backbones._base import Backbone, embedding_head, make_divisible, scale_channels
from plugins.layers import ConvBNAct, DepthwiseSeparable, InvertedResidual
from plugins.registry import register_backbone

STEM = 32
# V1: (output channels, stride) of each unit
UNITS_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# V2: (expansion, output channels, repeats, stride) of each row
ROWS_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST_V2 = 1280


class MobileNet(Backbone):
    """``layers`` that end in ``channels`` channels, global average pooling, linear layer."""

    def __init__(self, layers: list[nn.Module], channels: int, num_features: int = 128,
                 input_size: int | tuple[int, int] = 112, dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), *embedding_head(channels, num_features, dropout, bias=False))
        self.init_weights()


@register_backbone
def mobilenet_v1(width: float = 1.0, **kwargs) -> MobileNet:
    """MobileNetV1 for faces: 3.21 M parameters before the linear layer; Table 2 prints 3.2 M."""
    channels = scale_channels(STEM, width)
    layers: list[nn.Module] = [ConvBNAct(3, channels, act='relu')]
    for out_channels, stride in UNITS_V1:
        out = scale_channels(out_channels, width)
        layers.append(DepthwiseSeparable(channels, out, stride, act='relu'))
        channels = out
    return MobileNet(layers, channels, **kwargs)


@register_backbone
def mobilenet_v2(width: float = 1.0, **kwargs) -> MobileNet:
    """MobileNetV2 for faces: 2.22 M parameters before the linear layer; Table 2 prints 2.1 M."""
    channels = make_divisible(STEM, 8, width)
    layers: list[nn.Module] = [ConvBNAct(3, channels, act='relu6')]
    for expansion, out_channels, repeats, stride in ROWS_V2:
        out = make_divisible(out_channels, 8, width)
        for unit in range(repeats):
            layers.append(InvertedResidual(channels, out, expansion, stride if unit == 0 else 1, act='relu6'))
            channels = out
    last = make_divisible(LAST_V2, 8, max(1.0, width))
    return MobileNet([*layers, ConvBNAct(channels, last, 1, act='relu6')], last, **kwargs)
