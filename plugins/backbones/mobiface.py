"""MobiFace: MobileFaceNet's idea with its channels doubled late; LNRN's lightweight rival.

Paper: Duong et al., "MobiFace: A Lightweight Deep Learning Face Recognition on Mobile Devices", BTAS 2019, arXiv 1811.11080.

Deviation: the paper's last layer is fully connected on the 7x7x512 map, which would make 15.1 M parameters in all, but it
prints 2.3 M. Here a GDConv is added before that layer, which makes 2.57 M (2.28 M without the layers after the last
convolution).
"""

from __future__ import annotations

from plugins.backbones.mobilefacenet import MobileFaceNet
from plugins.registry import register_backbone

# (expansion, output channels, repeats, stride) of each row
ROWS = ((2, 64, 1, 2), (2, 64, 2, 1), (4, 128, 1, 2), (2, 128, 3, 1), (4, 256, 1, 2), (2, 256, 6, 1))


@register_backbone
def mobiface(**kwargs) -> MobileFaceNet:
    """MobiFace at 112x112, 512 features; options of :class:`~plugins.backbones.mobilefacenet.MobileFaceNet`."""
    return MobileFaceNet(ROWS, **kwargs)
