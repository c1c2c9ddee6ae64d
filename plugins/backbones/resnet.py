"""ResNet-18 and ResNet-50, the general-purpose networks of paper 001's Table 6 and of LNRN's Table 3.

Paper: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the stride on the 3x3 convolution as in
torchvision. ``num_classes=1000, input_size=224`` is the classifier that Table 6 counts; without ``num_classes`` the pooled
map goes through a fully connected layer and BatchNorm1d to an embedding. LNRN does not say what its ResNet-50 looked like.
"""

from __future__ import annotations

from torch import Tensor, nn

from plugins.backbones._base import Backbone, classifier_head, embedding_head, scale_channels
from plugins.layers import ConvBNAct
from plugins.registry import register_backbone

CHANNELS = (64, 128, 256, 512)


class Residual(nn.Module):
    """``body`` plus the identity (or a strided 1x1 convolution where the shape changes), then ReLU."""

    def __init__(self, body: nn.Module, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.shortcut = (nn.Identity() if stride == 1 and in_channels == out_channels
                         else ConvBNAct(in_channels, out_channels, 1, stride, act=None))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


def basic(in_channels: int, channels: int, stride: int = 1) -> Residual:
    """Two 3x3 convolutions."""
    body = nn.Sequential(ConvBNAct(in_channels, channels, 3, stride, act='relu'), ConvBNAct(channels, channels, act=None))
    return Residual(body, in_channels, channels, stride)


def bottleneck(in_channels: int, channels: int, stride: int = 1) -> Residual:
    """1x1, 3x3 and 1x1 convolutions; the output has four times ``channels``."""
    body = nn.Sequential(ConvBNAct(in_channels, channels, 1, act='relu'), ConvBNAct(channels, channels, 3, stride, act='relu'),
                         ConvBNAct(channels, 4 * channels, 1, act=None))
    return Residual(body, in_channels, 4 * channels, stride)


class ResNet(Backbone):
    """Stem (conv 7x7/2, max-pooling 3x3/2), four stages of residual units, global average pooling.

    Args:
        unit: :func:`basic` or :func:`bottleneck`; expansion: its output channels divided by ``channels``.
        units: residual units per stage.
        width: multiplies every channel count (``int(channels * width)``).
        num_classes: build a classifier whose output is ``(N, num_classes)`` logits; ``num_features`` is then ignored.
    """

    def __init__(self, unit=basic, expansion: int = 1, units: tuple[int, ...] = (2, 2, 2, 2), width: float = 1.0,
                 num_classes: int | None = None, num_features: int = 512, input_size: int | tuple[int, int] = 112,
                 dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_classes or num_features, input_size, fp16)
        channels = scale_channels(CHANNELS[0], width)
        layers: list[nn.Module] = [ConvBNAct(3, channels, 7, 2, act='relu'), nn.MaxPool2d(3, 2, 1)]
        for stage, repeats in enumerate(units):
            inner = scale_channels(CHANNELS[stage], width)
            for index in range(repeats):
                layers.append(unit(channels, inner, 2 if stage and index == 0 else 1))
                channels = inner * expansion
        self.features = nn.Sequential(*layers)
        self.head = (classifier_head(channels, num_classes, dropout) if num_classes else
                     nn.Sequential(nn.AdaptiveAvgPool2d(1), *embedding_head(channels, num_features, dropout)))
        self.init_weights()


@register_backbone
def resnet18(**kwargs) -> ResNet:
    """ResNet-18: 11.69 M parameters, 1.82 G MACs as a classifier at 224 (Table 6)."""
    return ResNet(**kwargs)


@register_backbone
def resnet50(**kwargs) -> ResNet:
    """ResNet-50: 25.56 M parameters, 4.14 G MACs as a classifier at 224 (Table 6)."""
    return ResNet(bottleneck, 4, (3, 4, 6, 3), **kwargs)
