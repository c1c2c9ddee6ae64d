"""Lightfacenet, a STAND-IN: a row of paper 001's Table 11 whose structure no public source gives.

Cited there: Zhang, Wang, Jiang et al., "Real-Time Face Recognition Based on Lightweight Network" (in Chinese), Journal of
Frontiers of Computer Science and Technology 14(2), 2020. This net has the printed parameters, MACs and feature-map output,
with ReLU (the printed feature maps count two modules per convolution, not three). It does not explain the printed 80.3 ms on a
TX2, where time follows the number of layers: that would take about 96 convolutions, and this net has 56.
"""

from __future__ import annotations

from plugins.backbones.mobilefacenet import MobileFaceNet
from plugins.registry import register_backbone

# (expansion, output channels, repeats, stride) of each row
ROWS = ((3, 48, 3, 2), (2, 128, 2, 2), (2, 128, 9, 1), (4, 96, 1, 2), (2, 96, 2, 1))


@register_backbone
def lightfacenet(num_features: int = 128, **kwargs) -> MobileFaceNet:
    """Stand-in with the size and cost of Lightfacenet: 1.10 M parameters, 227 M MACs, 48.1 MB feature maps (Table 11)."""
    return MobileFaceNet(ROWS, stem=48, act='relu', outer_act='relu', num_features=num_features, **kwargs)
