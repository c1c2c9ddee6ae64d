"""MobileFaceNet and the three steps of Xiao et al. towards MobileFaceNet-ECA.

Papers: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices", CCBR 2018;
Xiao et al. 2022 (Table 1 and section 3), whose text and tables are reconciled in the cards.
"""

from __future__ import annotations

from torch import Tensor, nn

from plugins.backbones._base import Backbone, conv_out
from plugins.layers import ECA, GDC, ConvBNAct
from plugins.registry import register_backbone

# (expansion t, output channels c, repeats n, stride s) a row: Table 1 of both papers
ROWS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
# Xiao's restructuring; the repeats are not printed: these give the printed file size of 3.1 MB
ROWS_XIAO = ((2, 64, 3, 2), (4, 128, 1, 2), (2, 128, 3, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class Bottleneck(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1, optional ECA; residual when stride 1 keeps the channels."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, act: str, eca: bool) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers = [ConvBNAct(in_channels, hidden, 1, act=act),
                  ConvBNAct(hidden, hidden, 3, stride, groups=hidden, act=act),
                  ConvBNAct(hidden, out_channels, 1, act=None)]
        if eca:
            layers.append(ECA(out_channels))
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileFaceNet(Backbone):
    """Stem (conv 3x3/2, depthwise 3x3), bottleneck rows, 1x1 to 512, GDConv, linear 1x1 to the embedding.

    Args:
        rows: ``(t, c, n, s)`` a row.
        act: activation inside the bottlenecks (stem and last 1x1 keep PReLU).
        eca: indices of the rows whose units end in ECA.
        expand_last: the 1x1 convolution to 512 before GDConv (MobileFaceNet-S has none).
        project: the linear 1x1 after GDConv (MobileFaceNet-M and -S have none; their embedding is the GDConv's output).
        width: multiplies the bottleneck rows' channels.
    """

    def __init__(self, rows=ROWS, act: str = 'prelu', eca: tuple[int, ...] = (), expand_last: bool = True,
                 project: bool = True, width: float = 1.0, num_features: int = 128,
                 input_size: int | tuple[int, int] = 112, dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        stem = int(64 * width)
        layers: list[nn.Module] = [ConvBNAct(3, stem, stride=2), ConvBNAct(stem, stem, groups=stem)]
        channels = stem
        for index, (expansion, out_channels, repeats, stride) in enumerate(rows):
            for unit in range(repeats):
                out = int(out_channels * width)
                layers.append(Bottleneck(channels, out, expansion, stride if unit == 0 else 1, act, index in eca))
                channels = out
        last = 512 if project or not expand_last else num_features
        if expand_last:
            layers.append(ConvBNAct(channels, last, 1))
            channels = last
        size = conv_out(self.input_size, [2] + [row[3] for row in rows])
        layers.append(GDC(channels, size))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(1))
        if dropout > 0:
            self.head.append(nn.Dropout(dropout))
        if project:
            self.head.append(nn.Linear(channels, num_features, bias=False))
            self.head.append(nn.BatchNorm1d(num_features))
        self.init_weights()


@register_backbone
def mobilefacenet(num_features: int = 512, **kwargs) -> MobileFaceNet:
    """MobileFaceNet at 112x112: 1.00 M parameters and 221 M MACs with 128 features, 1.20 M with 512."""
    return MobileFaceNet(num_features=num_features, **kwargs)
