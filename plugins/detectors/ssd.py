"""SSD-Lite face detectors with four branches and five landmarks on MobileNetV2 and ShuffleNetV2 (stand-ins).

Wang, Xu, Lu 2023 (doi 10.12263/DZXB.20211031, Table 12) print the names, 113 M and 132 M, but no structure. This is the most
plausible one: SSD (Liu et al. 2016) with the light heads of MobileNetV2 (depthwise 3x3, then 1x1) on maps at strides 8 to 64,
and the 3/2/2/3 prior boxes of the widespread Ultra-Light-Fast-Generic-Face-Detector.
"""

from __future__ import annotations

from torch import Tensor, nn

from plugins.detectors._base import Detector, Heads
from plugins.detectors._bodies import MobileNetV2, ShuffleNetV2
from plugins.detectors.anchors import Anchors
from plugins.layers import ConvBNAct, DepthwiseSeparable
from plugins.registry import register_detector

__all__ = ['SSD']

ANCHORS = Anchors((8, 16, 32, 64), ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256)))


class SSD(Detector):
    """Body with maps at strides 8, 16, 32, a depthwise separable unit to stride 64, light heads on all four.

    Args:
        body: has ``channels``, those of its three maps, which it returns.
        act: activation of what is added to the body.
        input_size: at which complexity is counted.
    """

    def __init__(self, body: nn.Module, act: str, input_size: tuple[int, int]) -> None:
        super().__init__(ANCHORS, input_size)
        last = body.channels[-1]
        self.body = body
        self.extra = DepthwiseSeparable(last, last, 2, act)
        self.heads = Heads((*body.channels, last), self.anchors.per_cell, lambda i, o: nn.Sequential(
            ConvBNAct(i, i, groups=i, act=act), nn.Conv2d(i, o, 1)))

    def extract(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)
        return [*maps, self.extra(maps[-1])]


@register_detector
def ssd_mobilenetv2(input_size: tuple[int, int] = (300, 300)) -> SSD:
    """4-SSD-MBV2: MobileNetV2 x0.35, 113.4 M at 300x300 by the paper's counter (paper: 113)."""
    return SSD(MobileNetV2(0.35), 'relu6', input_size)


@register_detector
def ssd_shufflev2_075(input_size: tuple[int, int] = (240, 320)) -> SSD:
    """4-SSD-ShuffleV2x0.75: 135.1 M at 240x320 by the paper's counter (paper: 132)."""
    return SSD(ShuffleNetV2((24, 86, 172, 344)), 'relu', input_size)
