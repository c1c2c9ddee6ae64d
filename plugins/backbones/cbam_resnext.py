"""ResNeXt-100 with CBAM: teacher and student of the low-quality distillation paper.

Paper: "Low-quality face recognition based on knowledge distillation" (in Chinese), Science Technology and Engineering 25(2),
2025, section 1. It names ResNeXt-100 with units 3, 13, 30, 3 and CBAM in every residual unit. These units make 100 layers only
if each has two convolutions. The public ``CBAMResNet`` of A-SKD (Shin et al. 2022, "Teaching Where to Look") has such units, so
this is that network, with the paper's 7x7 spatial kernel in place of A-SKD's 3x3. ``groups`` defaults to 1: the ResNeXt paper
itself notes that aggregation with units of two layers equals one wide dense unit.

Deviations: the paper's figure 1 names ReLU, these units have PReLU, like the public ones. A-SKD begins from Xavier's weights,
this network from He's.
"""

from __future__ import annotations

from itertools import accumulate

from torch import Tensor

from plugins.backbones.iresnet import IResNet, IRUnit
from plugins.layers import AttentionMaps
from plugins.registry import register_backbone


class CBAMResNeXt(IResNet):
    """:class:`~plugins.backbones.iresnet.IResNet` with CBAM in every unit, and access to its attention maps."""

    def __init__(self, units: tuple[int, ...] = (3, 13, 30, 3), dropout: float = 0.4, **kwargs) -> None:
        super().__init__(units, cbam=True, dropout=dropout, **kwargs)
        self._stage_ends = frozenset(accumulate(units))

    def forward_maps(self, x: Tensor) -> tuple[Tensor, list[AttentionMaps], list[Tensor]]:
        """What attention distillation compares, with gradients.

        It uses no hooks: ``forward`` and its export are not affected.

        Returns:
            The embedding; the attention maps of every unit in order, after the sigmoid (eqs. 3-4) and before it; and the
            outputs ``(N, C, H, W)`` of the four stages.
        """
        maps, stages = [], []
        with self._precision(x):
            for number, layer in enumerate(self.features):
                if isinstance(layer, IRUnit):
                    x, found = layer.attend(x)
                    maps.append(found)
                else:
                    x = layer(x)
                if number in self._stage_ends:
                    stages.append(x)
        return self._embed(x), maps, stages


@register_backbone
def cbam_resnext100(**kwargs) -> CBAMResNeXt:
    """Units 3, 13, 30, 3 of two 3x3 convolutions: 65.5 M parameters, 12.1 G MACs; ``groups=32`` makes it 15.1 M, 0.45 G."""
    return CBAMResNeXt(**kwargs)
