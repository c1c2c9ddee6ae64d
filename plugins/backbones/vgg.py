"""VGG-16, the largest general-purpose network of paper 001's Table 6.

Paper: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
configuration D. ``num_classes=1000, input_size=224`` is the classifier that Table 6 counts; without ``num_classes`` the last
fully connected layer gives the embedding and is followed by BatchNorm1d.
"""

from __future__ import annotations

import math

from torch import nn

from plugins.backbones._base import Backbone, conv_out, scale_channels
from plugins.registry import register_backbone

# output channels of the 3x3 convolutions, stage by stage; a 2x2 max-pooling ends each stage
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HIDDEN = 4096


class VGG(Backbone):
    """Thirteen 3x3 convolutions with bias and ReLU, five poolings, three fully connected layers.

    Args:
        width: multiplies channels and hidden layers (``int(channels * width)``).
        num_classes: build a classifier whose output is ``(N, num_classes)`` logits; ``num_features`` is then ignored.
    """

    def __init__(self, width: float = 1.0, num_classes: int | None = None, num_features: int = 512,
                 input_size: int | tuple[int, int] = 112, dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_classes or num_features, input_size, fp16)
        layers: list[nn.Module] = []
        channels = 3
        for stage in STAGES:
            for out_channels in stage:
                out = scale_channels(out_channels, width)
                layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)]
                channels = out
            layers.append(nn.MaxPool2d(2))
        hidden = scale_channels(HIDDEN, width)
        inputs = channels * math.prod(conv_out(self.input_size, (2,) * len(STAGES), kernel=2, padding=0))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(1), nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
                                  nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout),
                                  nn.Linear(hidden, self.num_features))
        if not num_classes:
            self.head.append(nn.BatchNorm1d(num_features))
        self.init_weights()


@register_backbone
def vgg16(**kwargs) -> VGG:
    """VGG-16: 138.36 M parameters, 15.6 G MACs as a classifier at 224 (Table 6)."""
    return VGG(**kwargs)
