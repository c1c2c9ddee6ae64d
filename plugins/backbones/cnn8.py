"""CNN-8 and four lighter forms of it: the image classifiers on which FDFaceNet's design rules were found.

Paper: Wang, Xu, Lu 2023 (as fdfacenet.py), Tables 3 to 5. The paper prints no layer table for them; with the channels of
Table 7 these strides are the only ones among all stride patterns (and, for CNN-14-DS, among all 924 ways to place six
more units) that meet the printed MACs of every width.

``num_classes=1000`` at ``input_size=224``, or ``num_classes=10`` at 32 (CIFAR), builds the paper's classifiers; without it
the net ends in GDC, FC and BatchNorm1d like FDFaceNet and gives face embeddings, which is not in the paper.
"""

from __future__ import annotations

from torch import nn

from plugins.backbones._base import Backbone, classifier_head, conv_out, embedding_head, scale_channels
from plugins.backbones.fdfacenet import CHANNELS, FAST, STAGED, conv_units
from plugins.layers import GDC
from plugins.registry import register_backbone

CHANNELS_14 = (48, 128, 128, 128, 256, 192, 192, 192, 192, 192, 192, 256, 256, 512)
STAGED_14 = (2, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1)


class CNN8(Backbone):
    """Eight (or fourteen) 3x3 units with ReLU, then a classifier or an embedding head.

    Args:
        channels, strides: of the units.
        depthwise: the units after the first are depthwise separable (DS).
        pooled: units 2 to 5 have stride 1 and a 2x2 max-pooling after them (FD-Pooling).
        width: multiplies every channel count (``int(channels * width)``).
        num_classes: build a classifier whose output is ``(N, num_classes)`` logits; ``num_features`` is then ignored.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS, strides: tuple[int, ...] = STAGED, depthwise: bool = False,
                 pooled: bool = False, width: float = 1.0, num_classes: int | None = None, num_features: int = 512,
                 input_size: int | tuple[int, int] = 112, dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_classes or num_features, input_size, fp16)
        widths = [scale_channels(c, width) for c in channels]
        if pooled and depthwise:
            raise ValueError('pooled=True and depthwise=True: the paper has no such network')
        if pooled:
            layers = conv_units(widths, (2,) + (1,) * 7, act='relu')
            for unit in (5, 4, 3, 2):
                layers.insert(unit, nn.MaxPool2d(2))
            size = conv_out(conv_out(self.input_size, (2,)), (2,) * 4, kernel=2, padding=0)
        else:
            layers = conv_units(widths, strides, depthwise, act='relu')
            size = conv_out(self.input_size, strides)
        if num_classes:
            self.head = classifier_head(widths[-1], num_classes, dropout)
        else:
            layers.append(GDC(widths[-1], size, act='relu'))
            self.head = embedding_head(widths[-1], num_features, dropout)
        self.features = nn.Sequential(*layers)
        self.init_weights()


@register_backbone
def cnn8(**kwargs) -> CNN8:
    """CNN-8: standard convolutions, staged down-sampling. 3.41 M parameters, 2.60 G MACs at 224 (Table 3)."""
    return CNN8(**kwargs)


@register_backbone
def cnn8_ds(**kwargs) -> CNN8:
    """CNN-8-DS: CNN-8 in depthwise separable units. 333 M MACs, 84.86 MB feature maps at 224 (Table 3)."""
    return CNN8(depthwise=True, **kwargs)


@register_backbone
def cnn14_ds(**kwargs) -> CNN8:
    """CNN-14-DS: six more depthwise separable units. 472 M MACs, 110.14 MB at 224 (Tables 3 and 4, widths 0.5 to 1.25)."""
    return CNN8(CHANNELS_14, STAGED_14, depthwise=True, **kwargs)


@register_backbone
def cnn8_fd(**kwargs) -> CNN8:
    """CNN-8-FD: fast down-sampling by strided convolutions. 485 M MACs, 19.38 MB at 224 (Table 4, widths 0.5 to 1.25)."""
    return CNN8(strides=FAST, **kwargs)


@register_backbone
def cnn8_fd_pooling(**kwargs) -> CNN8:
    """CNN-8-FD-Pooling: fast down-sampling by max-pooling after units 2 to 5 (Table 4, widths 0.5 and 0.75)."""
    return CNN8(pooled=True, **kwargs)
