"""iResNet, InsightFace's own residual network: the accurate baseline, and the body of the low-quality paper's ResNeXt.

Paper: Deng et al., "ArcFace", CVPR 2019 (section 3.1, IR units); InsightFace's ``arcface_torch/backbones/iresnet.py``, whose
``model.pt`` loads into this network.

Deviations: InsightFace freezes the scale of the last BatchNorm at 1; here it is trained, as in all other families. It
initialises convolutions from N(0, 0.1); here they, too, begin as in all other families (:meth:`Backbone.init_weights`).
"""

from __future__ import annotations

from torch import Tensor, nn

from plugins.backbones._base import Backbone, conv_out, embedding_head, scale_channels
from plugins.layers import CBAM, AttentionMaps, ConvBNAct
from plugins.registry import register_backbone

CHANNELS = (64, 128, 256, 512)


class IRUnit(nn.Module):
    """BatchNorm, conv 3x3, BatchNorm, PReLU, conv 3x3 (``stride``), BatchNorm, optional CBAM, plus the shortcut.

    Args:
        groups: of the two convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: tuple[int, int] = (1, 1), cbam: bool = False
                 ) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(in_channels), ConvBNAct(in_channels, out_channels, groups=groups[0]),
                                  ConvBNAct(out_channels, out_channels, stride=stride, groups=groups[1], act=None))
        self.cbam = CBAM(out_channels) if cbam else None
        self.shortcut = (nn.Identity() if stride == 1 and in_channels == out_channels
                         else ConvBNAct(in_channels, out_channels, 1, stride, act=None))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return (y if self.cbam is None else self.cbam(y)) + self.shortcut(x)

    def attend(self, x: Tensor) -> tuple[Tensor, AttentionMaps]:
        """The output, and the maps of CBAM."""
        y, maps = self.cbam.attend(self.body(x))
        return y + self.shortcut(x), maps


class IResNet(Backbone):
    """Stem (conv 3x3, stride 1), four stages of IR units, BatchNorm, dropout, FC on the whole map, BatchNorm1d.

    Args:
        units: IR units per stage; the first of each stage has stride 2.
        groups: of the convolutions of a unit, one number for both or a pair.
        cbam: attention in every unit.
        width: multiplies every channel count (``int(channels * width)``).
    """

    def __init__(self, units: tuple[int, ...] = (3, 4, 14, 3), groups: int | tuple[int, int] = 1, cbam: bool = False,
                 width: float = 1.0, num_features: int = 512, input_size: int | tuple[int, int] = 112, dropout: float = 0.0,
                 fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        pair = (groups, groups) if isinstance(groups, int) else tuple(groups)
        channels = scale_channels(CHANNELS[0], width)
        layers: list[nn.Module] = [ConvBNAct(3, channels)]
        for stage, repeats in zip(CHANNELS, units, strict=True):
            out = scale_channels(stage, width)
            for unit in range(repeats):
                layers.append(IRUnit(channels, out, 2 if unit == 0 else 1, pair, cbam))
                channels = out
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels))
        height, width_ = conv_out(self.input_size, (2,) * len(units))
        self.head = embedding_head(channels * height * width_, num_features, dropout)
        self.init_weights()


@register_backbone
def iresnet50(**kwargs) -> IResNet:
    """InsightFace's ``r50``: 43.6 M parameters, 6.3 G MACs."""
    return IResNet(**kwargs)
