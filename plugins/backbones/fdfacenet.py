"""FDFaceNet and its ablations: eight 3x3 convolutions with fast or staged down-sampling.

Paper: Wang, Xu, Lu, "Lightweight Network Design and Application for Face Recognition Based on Fast Down-Sampling",
Acta Electronica Sinica 51(8), 2023, doi 10.12263/DZXB.20211031. Section 4.2, Table 7 and figure 4.

All five networks use the channels of Table 7. *Fast* strides (FDFN) put every stride of 2 first; *staged* strides (NFN)
are those that reproduce the printed MACs of the conventional baseline. A ``_nogdc`` network is starred in the paper:
its fully connected layer reads the flattened last map instead of a global depthwise convolution (GDC).

Not printed in the paper, but determined by its figures for MACs and feature-map output: the GDC is followed by BatchNorm and
PReLU; FC1 has a bias; the first unit of DWFaceNet is a standard convolution.
"""

from __future__ import annotations

from torch import nn

from plugins.backbones._base import Backbone, conv_out, embedding_head, scale_channels
from plugins.layers import GDC, ConvBNAct, DepthwiseSeparable
from plugins.registry import register_backbone

CHANNELS = (48, 128, 128, 256, 192, 192, 256, 512)
FAST = (2, 2, 2, 2, 2, 1, 1, 1)
STAGED = (2, 1, 2, 1, 2, 2, 2, 1)


class FDFaceNet(Backbone):
    """Eight CONV-P (or DSConv-P) units, optional GDC, FC, BatchNorm1d.

    Args:
        strides: of the eight units, :data:`FAST` or :data:`STAGED`.
        gdc: end in a GDC (as the paper's final model) instead of flattening the last map.
        depthwise: the units after the first are DSConv-P.
        act: activation of all units; ``relu`` and ``leaky_relu`` fuse with 8-bit convolutions, the paper's ``prelu`` does not.
        width: multiplies every channel count (``int(channels * width)``).
    """

    def __init__(self, strides: tuple[int, ...] = FAST, gdc: bool = True, depthwise: bool = False, act: str = 'prelu',
                 width: float = 1.0, num_features: int = 512, input_size: int | tuple[int, int] = 112, dropout: float = 0.0,
                 fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        channels = [scale_channels(c, width) for c in CHANNELS]
        layers = conv_units(channels, strides, depthwise, act)
        size = conv_out(self.input_size, strides)
        if gdc:
            layers.append(GDC(channels[-1], size, act=act))
            size = (1, 1)
        self.features = nn.Sequential(*layers)
        self.head = embedding_head(channels[-1] * size[0] * size[1], num_features, dropout)
        self.init_weights()


def conv_units(channels: list[int], strides: tuple[int, ...], depthwise: bool = False, act: str = 'prelu') -> list[nn.Module]:
    """One unit for each channel count: a standard 3x3 convolution first, then standard or depthwise separable ones."""
    unit = DepthwiseSeparable if depthwise else ConvBNAct
    first = ConvBNAct(3, channels[0], stride=strides[0], act=act)
    return [first, *(unit(i, o, stride=s, act=act) for i, o, s in zip(channels, channels[1:], strides[1:], strict=False))]


@register_backbone
def fdfacenet(**kwargs) -> FDFaceNet:
    """FDFaceNet (FDFN): fast down-sampling and GDC. 3.17 M parameters, 130 M MACs, 7.39 MB feature maps (Table 11)."""
    return FDFaceNet(FAST, gdc=True, **kwargs)


@register_backbone
def fdfacenet_nogdc(**kwargs) -> FDFaceNet:
    """FDFN*: FDFaceNet without GDC (Table 9): 7.10 M parameters, 134 M MACs."""
    return FDFaceNet(FAST, gdc=False, **kwargs)


@register_backbone
def nfacenet(**kwargs) -> FDFaceNet:
    """NFaceNet (NFN): staged down-sampling with GDC (Table 10): 656 M MACs, 21.92 MB."""
    return FDFaceNet(STAGED, gdc=True, **kwargs)


@register_backbone
def nfacenet_nogdc(**kwargs) -> FDFaceNet:
    """NFN*: NFaceNet without GDC (Table 9): 7.10 M parameters, 660 M MACs."""
    return FDFaceNet(STAGED, gdc=False, **kwargs)


@register_backbone
def dwfacenet_nogdc(width: float = 1.25, **kwargs) -> FDFaceNet:
    """DWFN*: NFaceNet in depthwise separable units without GDC; the paper reports it at ``width=1.25`` (Table 10)."""
    return FDFaceNet(STAGED, gdc=False, depthwise=True, width=width, **kwargs)
