"""RetinaFace with three branches and five landmarks: MobileNetV1 x0.25 or ShuffleNetV2 x0.75, FPN, SSH context modules.

Papers: Deng et al. 2020, "RetinaFace", arXiv 1905.00641; reduced to three branches in Wang, Xu, Lu 2023 (doi
10.12263/DZXB.20211031, Table 12). ``retinaface_mnet025`` is tensor for tensor the public Pytorch_Retinaface ``mobilenet0.25``
(254.33 M by the paper's counter at 320x320) and reads its published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plugins.detectors._base import Detector, Heads
from plugins.detectors._bodies import MobileNetV1, ShuffleNetV2
from plugins.detectors.anchors import Anchors
from plugins.layers import ConvBNAct
from plugins.preprocess import PictureNorm
from plugins.registry import register_detector

__all__ = ['RetinaFace']

CHANNELS = 64
ACT = 'leaky_relu'
PUBLIC_FIRST = 'body.stage1.0.0.weight'  # a tensor by which the public checkpoints are known, and how those were trained
PUBLIC_PREPROCESS = PictureNorm(mean=(123.0, 117.0, 104.0), std=1.0, colour='BGR')


class FPN(nn.Module):
    """Feature pyramid: 1x1 laterals, nearest up-sampling and addition, 3x3 merge on the two finer maps."""

    def __init__(self, in_channels: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvBNAct(c, channels, 1, act=ACT) for c in in_channels)
        self.merge = nn.ModuleList(ConvBNAct(channels, channels, act=ACT) for _ in in_channels[1:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (conv(x) for conv, x in zip(self.lateral, maps, strict=True))
        middle = self.merge[1](middle + F.interpolate(coarse, scale_factor=2.0))
        fine = self.merge[0](fine + F.interpolate(middle, scale_factor=2.0))
        return [fine, middle, coarse]


class SSH(nn.Module):
    """Context module (Najibi et al. 2017): receptive fields of 3x3, 5x5 and 7x7 side by side, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.conv3 = ConvBNAct(channels, half, act=None)
        self.reduce = ConvBNAct(channels, quarter, act=ACT)
        self.conv5 = ConvBNAct(quarter, quarter, act=None)
        self.reduce7 = ConvBNAct(quarter, quarter, act=ACT)
        self.conv7 = ConvBNAct(quarter, quarter, act=None)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.reduce(x)
        # a function, not a module, as in the public code: the paper's counter does not see it
        return F.relu(torch.cat([self.conv3(x), self.conv5(narrow), self.conv7(self.reduce7(narrow))], 1))


class RetinaFace(Detector):
    """Body with maps at strides 8, 16 and 32, FPN, SSH, heads of 1x1 convolutions.

    Args:
        body: has ``channels``, those of its three maps, which it returns.
        input_size: at which complexity is counted.
    """

    def __init__(self, body: nn.Module, input_size: tuple[int, int] = (320, 320)) -> None:
        super().__init__(Anchors(), input_size)
        self.body = body
        self.fpn = FPN(body.channels, CHANNELS)
        self.context = nn.ModuleList(SSH(CHANNELS) for _ in body.channels)
        self.heads = Heads((CHANNELS,) * 3, self.anchors.per_cell, lambda i, o: nn.Conv2d(i, o, 1))

    def extract(self, x: Tensor) -> list[Tensor]:
        return [context(x) for context, x in zip(self.context, self.fpn(self.body(x)), strict=True)]

    def adopt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Public Pytorch_Retinaface checkpoints list the same layers in the same order under other names."""
        names = list(self.state_dict())
        if PUBLIC_FIRST not in state or len(state) != len(names):
            return state
        self.preprocess = PUBLIC_PREPROCESS
        return dict(zip(names, state.values(), strict=True))


@register_detector
def retinaface_mnet025(**kwargs) -> RetinaFace:
    """3-Retina-MBV1x0.25: 0.4266 M parameters, 254.33 M at 320x320 by the paper's counter (paper: 254)."""
    return RetinaFace(MobileNetV1(0.25), **kwargs)


@register_detector
def retinaface_shufflev2_075(**kwargs) -> RetinaFace:
    """3-Retina-ShuffleV2x0.75: channels 24/64/128/256 come nearest to the printed 264 M (see the card)."""
    return RetinaFace(ShuffleNetV2((24, 64, 128, 256)), **kwargs)
