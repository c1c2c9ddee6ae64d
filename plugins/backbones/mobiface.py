"""MobiFace: MobileFaceNet's idea with its channels doubled late; LNRN's lightweight rival.

Paper: Duong et al., "MobiFace: A Lightweight Deep Learning Face Recognition on Mobile Devices", BTAS 2019, arXiv 1811.11080.

Deviation: the paper's last layer is fully connected on the 7x7x512 map (15.1 M parameters in all), which contradicts its 2.3 M;
here a GDConv stands before it, which brings 2.57 M (2.28 M without the layers behind the last convolution).
"""

from __future__ import annotations

from plugins.backbones.mobilefacenet import MobileFaceNet
from plugins.registry import register_backbone

# (expansion, output channels, repeats, stride) a row
ROWS = ((2, 64, 1, 2), (2, 64, 2, 1), (4, 128, 1, 2), (2, 128, 3, 1), (4, 256, 1, 2), (2, 256, 6, 1))


@register_backbone
def mobiface(**kwargs) -> MobileFaceNet:
    """MobiFace at 112x112, 512 features; options of :class:`~plugins.backbones.mobilefacenet.MobileFaceNet`."""
    return MobileFaceNet(ROWS, **kwargs)
