"""Bodies of the detectors: classification networks cut where their maps have strides 8, 16, 32 (and 64)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plugins.backbones._base import make_divisible
from plugins.layers import ConvBNAct, DepthwiseSeparable, InvertedResidual, channel_shuffle

__all__ = ['MobileNetV1', 'MobileNetV2', 'ShuffleNetV2']


class Body(nn.Module):
    """Stages run one after the other; the outputs of the last ``len(channels)`` of them are the maps."""

    stages: nn.ModuleList
    channels: tuple[int, ...]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-len(self.channels):]


class MobileNetV1(Body):
    """MobileNetV1 (Howard et al. 2017) with LeakyReLU 0.1, as RetinaFace uses it; maps at strides 8, 16, 32."""

    # (output channels at width 1, stride) of each depthwise separable unit, a row a stage
    STAGES = (((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)), ((512, 2), *((512, 1),) * 5), ((1024, 2), (1024, 1)))

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = int(32 * width)
        units: list[nn.Module] = [ConvBNAct(3, channels, stride=2, act='leaky_relu')]
        self.stages, self.channels = nn.ModuleList(), ()
        for rows in self.STAGES:
            for out, stride in rows:
                units.append(DepthwiseSeparable(channels, int(out * width), stride, 'leaky_relu'))
                channels = int(out * width)
            self.stages.append(nn.Sequential(*units))
            self.channels += (channels,)
            units = []


class ShuffleUnit(nn.Module):
    """ShuffleNetV2 unit (Ma et al. 2018): stride 2 transforms the whole input twice, stride 1 only one half of it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.side = None
        if stride > 1:
            self.side = nn.Sequential(ConvBNAct(in_channels, in_channels, 3, stride, groups=in_channels, act=None),
                                      ConvBNAct(in_channels, half, 1, act='relu'))
        self.main = nn.Sequential(ConvBNAct(in_channels if stride > 1 else half, half, 1, act='relu'),
                                  ConvBNAct(half, half, 3, stride, groups=half, act=None), ConvBNAct(half, half, 1, act='relu'))

    def forward(self, x: Tensor) -> Tensor:
        kept, x = (self.side(x), x) if self.side is not None else x.chunk(2, 1)
        return channel_shuffle(torch.cat([kept, self.main(x)], 1))


class ShuffleNetV2(Body):
    """ShuffleNetV2 with (4, 8, 4) units; maps at strides 8, 16, 32.

    Args:
        channels: of the stem and of the three stages.
    """

    REPEATS = (4, 8, 4)

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        stem, *self.channels = channels
        self.stages = nn.ModuleList([nn.Sequential(ConvBNAct(3, stem, stride=2, act='relu'), nn.MaxPool2d(3, 2, 1))])
        for before, out, repeats in zip(channels, self.channels, self.REPEATS, strict=False):
            self.stages.append(nn.Sequential(*(ShuffleUnit(before if i == 0 else out, out, 2 if i == 0 else 1)
                                               for i in range(repeats))))


class MobileNetV2(Body):
    """MobileNetV2 (Sandler et al. 2018); maps at strides 8, 16, 32."""

    # (expansion, output channels at width 1, repeats, stride), a tuple of rows a stage
    STAGES = (((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2)), ((6, 64, 4, 2), (6, 96, 3, 1)), ((6, 160, 3, 2), (6, 320, 1, 1)))

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = make_divisible(32, 8, width)
        units: list[nn.Module] = [ConvBNAct(3, channels, stride=2, act='relu6')]
        self.stages, self.channels = nn.ModuleList(), ()
        for rows in self.STAGES:
            for expansion, out, repeats, stride in rows:
                for i in range(repeats):
                    scaled = make_divisible(out, 8, width)
                    units.append(InvertedResidual(channels, scaled, expansion, stride if i == 0 else 1, act='relu6'))
                    channels = scaled
            self.stages.append(nn.Sequential(*units))
            self.channels += (channels,)
            units = []
