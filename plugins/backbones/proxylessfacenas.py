"""ProxylessFaceNAS: the network that ProxylessNAS found for CPUs, with a stride-1 stem and a face head.

Papers: Cai et al., "ProxylessNAS", ICLR 2019 (the searched cells, published as ``proxyless_cpu``); Martinez-Diaz et al.,
"Benchmarking lightweight face architectures on specific face recognition scenarios", AI Review 2021, which adapted it and
which paper 001 cites in Table 11. That adaptation is not published as code: the cells below give its published 3.2 M
parameters with 128 features, but not the 4.9 M that paper 001 prints.
"""

from __future__ import annotations

from torch import nn

from plugins.backbones._base import Backbone, conv_out, embedding_head, scale_channels
from plugins.layers import GDC, ConvBNAct, InvertedResidual
from plugins.registry import register_backbone

# stages of cells (output channels, expansion, kernel); None: the search chose the identity. A stage's first cell has stride 2
STAGES = (
    ((32, 6, 3), (32, 3, 3), (32, 3, 3), (32, 3, 3)),
    ((48, 6, 3), (48, 3, 3), (48, 3, 3), (48, 3, 5)),
    ((88, 6, 3), None, None, (88, 3, 3), (104, 6, 5), (104, 3, 3), (104, 3, 3), (104, 3, 3)),
    ((216, 6, 5), (216, 3, 5), (216, 3, 5), (216, 3, 3), (360, 6, 5)),
)
STEM, FIRST, LAST = 40, 24, 1432


class ProxylessFaceNAS(Backbone):
    """Stem (conv 3x3, stride 1), 18 mobile inverted bottlenecks with PReLU, 1x1 convolution, GDC, linear layer.

    Args:
        width: multiplies every channel count (``int(channels * width)``).
    """

    def __init__(self, width: float = 1.0, num_features: int = 512, input_size: int | tuple[int, int] = 112,
                 dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        stem, channels, last = (scale_channels(c, width) for c in (STEM, FIRST, LAST))
        layers: list[nn.Module] = [ConvBNAct(3, stem), InvertedResidual(stem, channels, 1, 1)]
        for stage in STAGES:
            for index, cell in enumerate(stage):
                if cell is not None:
                    out = scale_channels(cell[0], width)
                    # InvertedResidual itself leaves out the residual of a cell that changes the channels inside a stage
                    layers.append(InvertedResidual(channels, out, cell[1], 2 if index == 0 else 1, cell[2]))
                    channels = out
        layers += [ConvBNAct(channels, last, 1), GDC(last, conv_out(self.input_size, (1, 2, 2, 2, 2)))]
        self.features = nn.Sequential(*layers)
        self.head = embedding_head(last, num_features, dropout, bias=False)
        self.init_weights()


@register_backbone
def proxylessfacenas(**kwargs) -> ProxylessFaceNAS:
    """ProxylessFaceNAS: with 128 features 464 M MACs, 208 MB feature maps; Table 11 prints 481 M and 200.78 MB."""
    return ProxylessFaceNAS(**kwargs)
