"""HRNet for faces: branches of several resolutions side by side, fused again and again; a rival in LNRN's Table 3.

Paper: Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2021; face variant: cavaface's
public ``hrnet.py`` (stem with one stride of 2 only, FC on the whole map). This network matches it module by module, except that
cavaface leaves out the scale and shift of the last BatchNorm. LNRN does not say which HRNet it measured.
"""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import add

from torch import Tensor, nn

from plugins.backbones._base import Backbone, embedding_head, scale_channels
from plugins.backbones.resnet import basic, bottleneck
from plugins.layers import ConvBNAct
from plugins.registry import register_backbone

STEM = 64
HEAD = (32, 64, 128, 256)  # inner channels of the head's bottlenecks, one for each branch


class Exchange(nn.Module):
    """One module of a stage: residual units on every branch, then every branch adds the maps of all others.

    Args:
        channels: of the branches, from the highest resolution to the lowest.
        blocks: residual units per branch.
    """

    def __init__(self, channels: list[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(basic(c, c) for _ in range(blocks))) for c in channels)
        self.fuse = nn.ModuleList(nn.ModuleList(_path(channels, source, target) for source in range(len(channels)))
                                  for target in range(len(channels)))
        self.act = nn.ReLU()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [self.act(reduce(add, (path(x) for path, x in zip(paths, maps, strict=True)))) for paths in self.fuse]


def _path(channels: list[int], source: int, target: int) -> nn.Module:
    """From one branch to another: a 1x1 with nearest up-sampling, strided 3x3 convolutions down, or nothing."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(*ConvBNAct(channels[source], channels[target], 1, act=None),
                             nn.Upsample(scale_factor=2.0 ** (source - target), mode='nearest'))
    steps = [ConvBNAct(channels[source], channels[source], 3, 2, act='relu') for _ in range(target - source - 1)]
    return nn.Sequential(*steps, ConvBNAct(channels[source], channels[target], 3, 2, act=None))


class HRFaceNet(Backbone):
    """Stem, one stage of bottlenecks, stages of two, three and four branches, classification head, FC on the whole map.

    Args:
        base: channels of the branch of highest resolution (18: W18); each lower one has twice as many.
        modules: exchanges in the stages of two, three and four branches.
        blocks: residual units per branch and exchange.
        width: multiplies stem and head.
    """

    def __init__(self, base: int = 18, modules: tuple[int, int, int] = (1, 4, 3), blocks: int = 4, width: float = 1.0,
                 num_features: int = 512, input_size: int | tuple[int, int] = 112, dropout: float = 0.4, fp16: bool = False
                 ) -> None:
        super().__init__(num_features, input_size, fp16)
        if any(side % 16 for side in self.input_size):
            raise ValueError(f'input_size={self.input_size}: four resolutions need multiples of 16')
        stem = scale_channels(STEM, width)
        channels = [base << branch for branch in range(4)]
        self.features = nn.Sequential(
            ConvBNAct(3, stem, act='relu'), ConvBNAct(stem, stem, 3, 2, act='relu'),
            *(bottleneck(stem if block == 0 else 4 * stem, stem) for block in range(blocks)))
        self.stages = nn.ModuleList()
        previous = [4 * stem]
        for branches, repeats in enumerate(modules, 2):
            exchanges = (Exchange(channels[:branches], blocks) for _ in range(repeats))
            self.stages.append(nn.ModuleList([_transition(previous, channels[:branches]), *exchanges]))
            previous = channels[:branches]
        head = [scale_channels(c, width) for c in HEAD]
        self.widen = nn.ModuleList(bottleneck(c, h) for c, h in zip(channels, head, strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4 * a, 4 * b, 3, 2, 1), nn.BatchNorm2d(4 * b), nn.ReLU(inplace=True))
            for a, b in pairwise(head))
        last = 4 * head[-1]
        self.norm = nn.BatchNorm2d(last)
        self.head = embedding_head(last * (self.input_size[0] // 16) * (self.input_size[1] // 16), num_features, dropout)
        self.init_weights()

    def forward_features(self, x: Tensor) -> Tensor:
        maps = [self.features(x)]
        for transition, *exchanges in self.stages:
            # the last layer of a transition starts the new branch, from the lowest resolution so far
            maps = [layer(maps[min(i, len(maps) - 1)]) for i, layer in enumerate(transition)]
            for exchange in exchanges:
                maps = exchange(maps)
        y = self.widen[0](maps[0])
        for widen, down, branch in zip(self.widen[1:], self.down, maps[1:], strict=True):
            y = widen(branch) + down(y)
        return self.norm(y)


def _transition(previous: list[int], channels: list[int]) -> nn.ModuleList:
    """One layer for each branch: 3x3 where the channels change, nothing where they do not, a strided 3x3 to the new branch."""
    layers = [nn.Identity() if old == new else ConvBNAct(old, new, act='relu')
              for old, new in zip(previous, channels, strict=False)]
    return nn.ModuleList([*layers, ConvBNAct(previous[-1], channels[-1], 3, 2, act='relu')])


@register_backbone
def hrfacenet_w18(**kwargs) -> HRFaceNet:
    """HRNet-W18 for 112x112 faces, 512 features."""
    return HRFaceNet(**kwargs)
