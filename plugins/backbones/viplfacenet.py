"""VIPLFaceNet: SeetaFace's AlexNet-like network of ten layers, whose depth and channels FDFaceNet took over.

Paper: Liu et al., "VIPLFaceNet: An Open Source Deep Face Recognition SDK", Frontiers of Computer Science 2017. Seven
convolutions and two fully connected layers (the third is the classifier), 2048 features, as SeetaFace's README says. Its
*fast normalisation layer* is a BatchNorm without scale and shift (SeetaFace's ``bn_net.cpp``).

Channels, strides and pooling are from memory of the paper's Table 1, not from the paper itself.
"""

from __future__ import annotations

from torch import nn

from plugins.backbones._base import Backbone, conv_out, scale_channels
from plugins.registry import register_backbone

# of each convolution: (output channels, kernel, stride, padding, 3x3/2 max-pooling after it)
LAYERS = ((48, 9, 4, 0, True), (128, 3, 1, 1, False), (128, 3, 1, 1, True), (256, 3, 1, 1, False), (192, 3, 1, 1, False),
          (192, 3, 1, 1, False), (128, 3, 1, 1, True))
HIDDEN = 4096


class VIPLFaceNet(Backbone):
    """Seven convolutions with normalisation and ReLU, three poolings, two fully connected layers.

    Args:
        width: multiplies channels and the hidden fully connected layer.
    """

    def __init__(self, width: float = 1.0, num_features: int = 2048, input_size: int | tuple[int, int] = 227,
                 dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        layers: list[nn.Module] = []
        channels, size = 3, self.input_size
        for out_channels, kernel, stride, padding, pooled in LAYERS:
            out = scale_channels(out_channels, width)
            layers += [nn.Conv2d(channels, out, kernel, stride, padding, bias=False), nn.BatchNorm2d(out, affine=False),
                       nn.ReLU(inplace=True)]
            channels, size = out, conv_out(size, (stride,), kernel, padding)
            if pooled:
                layers.append(nn.MaxPool2d(3, 2))
                size = conv_out(size, (2,), 3, 0)
        hidden = scale_channels(HIDDEN, width)
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(1), nn.Linear(channels * size[0] * size[1], hidden), nn.ReLU(inplace=True),
                                  nn.Dropout(dropout), nn.Linear(hidden, num_features))
        self.init_weights()


@register_backbone
def viplfacenet(**kwargs) -> VIPLFaceNet:
    """VIPLFaceNet at 227x227 with 2048 features: 28.8 M parameters. ``input_size=224`` fits facezoo's alignment."""
    return VIPLFaceNet(**kwargs)
