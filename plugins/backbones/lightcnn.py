"""Light CNN-9 and Light CNN-29: max-feature-map activations, grey 128x128 faces.

Paper: Wu et al., "A Light CNN for Deep Face Representation with Noisy Labels", TIFS 2018 (Tables 1 and 2 there; the authors'
``light_cnn.py``). Paper 001 cites their parameters in Table 11.

The public contract stays RGB in [-1, 1]: the net turns it into the grey image in [0, 1] that the authors train on
(ITU-R 601 luma), so that their crops and weights mean the same here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plugins.backbones._base import Backbone, flatten
from plugins.registry import register_backbone

# of each group: (output channels, residual blocks before it, max-pooling after it)
GROUPS_9 = ((96, 0, True), (192, 0, True), (128, 0, False), (128, 0, True))
GROUPS_29 = ((96, 1, True), (192, 2, True), (128, 3, False), (128, 4, True))
LUMA = (0.299, 0.587, 0.114)


class MFM(nn.Module):
    """Max-feature-map: makes twice the outputs and keeps the larger of each pair (channels ``i`` and ``out_channels + i``)."""

    def __init__(self, filter_: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.filter = filter_

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.filter(x).chunk(2, 1)
        return torch.maximum(first, second)


def mfm_conv(in_channels: int, out_channels: int, kernel: int) -> MFM:
    """MFM of a convolution with bias."""
    return MFM(nn.Conv2d(in_channels, 2 * out_channels, kernel, padding=kernel // 2))


class ResidualMFM(nn.Sequential):
    """Two 3x3 MFM layers and the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__(mfm_conv(channels, channels, 3), mfm_conv(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class LightCNN(Backbone):
    """5x5 MFM layer, four groups (1x1 and 3x3 MFM), fully connected MFM layer to the embedding.

    Args:
        groups: for each group ``(output channels, residual blocks before it, pooling after it)``.
    """

    luma: Tensor

    def __init__(self, groups: tuple[tuple[int, int, bool], ...] = GROUPS_9, num_features: int = 256,
                 input_size: int | tuple[int, int] = 128, dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        height, width = (-(-side // 2) for side in self.input_size)
        self.register_buffer('luma', torch.tensor(LUMA).view(1, 3, 1, 1) / 2, persistent=False)
        channels = 48
        layers: list[nn.Module] = [mfm_conv(1, channels, 5), nn.MaxPool2d(2, ceil_mode=True)]
        for out_channels, blocks, pooled in groups:
            layers += [ResidualMFM(channels) for _ in range(blocks)]
            layers += [mfm_conv(channels, channels, 1), mfm_conv(channels, out_channels, 3)]
            channels = out_channels
            if pooled:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
                height, width = -(-height // 2), -(-width // 2)
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(flatten(dropout), MFM(nn.Linear(channels * height * width, 2 * num_features)))
        self.init_weights()

    def forward_features(self, x: Tensor) -> Tensor:
        grey = F.conv2d(x, self.luma.to(x.dtype)) + 0.5
        return self.features(grey)


@register_backbone
def lightcnn9(**kwargs) -> LightCNN:
    """Light CNN-9: 256 features, 5.48 M parameters."""
    return LightCNN(GROUPS_9, **kwargs)


@register_backbone
def lightcnn29(**kwargs) -> LightCNN:
    """Light CNN-29: 256 features, 12.6 M parameters."""
    return LightCNN(GROUPS_29, **kwargs)
