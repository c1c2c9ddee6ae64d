"""LNRN: a light residual network whose first unit looks at the box of the facial key points.

Paper: Hui, Yan, Gao, He, "Lightweight New Residual Face Recognition Method Based on Feature Fusion" (in Chinese), Acta
Electronica Sinica, sections 2.2 and 2.3. Its figures 1 and 2 are the only description of the layers, and no channel count is
printed, so the networks here are a reconstruction (``near``) whose widths are our choice.

What the text fixes: there are four units, each with a *shared* map that feeds two branches, a pooled one for the whole face and
one for the key features; the two are added as in a residual network. The first unit crops the key branch to the box of the key
points (``[28:84, 34:90]``); the other three attend. The box is 56 = 112 / 2 pixels wide, so the cropped map and the pooled map
of the first unit have the same size: the only reading in which the paper's "for convenience of calculation" makes sense. The
box's coordinates are (x, y): the tensor slice is ``[:, :, 34:90, 28:84]``; the other order would cut the mouth off.

Deviation: the input is ``(x - 127.5) / 127.5`` as in all of facezoo; the paper divides by 128.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from plugins.backbones._base import Backbone, embedding_head, scale_channels
from plugins.layers import GDC, ConvBNAct, attention
from plugins.registry import register_backbone

# channels of the shared map and of the four units; the paper prints none
PLANS = {'S': (16, 32, 64, 128, 256), 'M': (32, 48, 96, 192, 384), 'L': (32, 64, 128, 256, 512)}
# (x0, y0, x1, y1) in a 112x112 face: section 3.3.1; plugins/data/keypoints.py finds it for other faces
KEY_BOX = (28, 34, 84, 90)
POOLS = {'max': nn.MaxPool2d, 'avg': nn.AvgPool2d}


class NewResidual(nn.Module):
    """One unit of figure 2: shared convolution, pooled branch plus key branch.

    Args:
        shared: channels of the shared map.
        box: ``(x0, y0, x1, y1)`` of the key branch's crop (figure 2a), None for no crop (figure 2b).
        strides: of the key branch's two convolutions.
        attend: attention on the key branch, or, with ``attend_fused``, after the fusion.
        fusion: ``add``, or ``concat`` followed by a 1x1 convolution.
        pool: ``max`` or ``avg``.
    """

    def __init__(self, in_channels: int, shared: int, out_channels: int, strides: tuple[int, int],
                 box: tuple[int, int, int, int] | None = None, attend: str = 'none', attend_fused: bool = False,
                 fusion: str = 'add', pool: str = 'max') -> None:
        super().__init__()
        self.box = box
        self.shared = ConvBNAct(in_channels, shared)
        self.whole = nn.Sequential(POOLS[pool](2), ConvBNAct(shared, out_channels, 1, act=None))
        self.key = nn.Sequential(ConvBNAct(shared, out_channels, stride=strides[0]),
                                 ConvBNAct(out_channels, out_channels, stride=strides[1], act=None))
        attend_layer = attention(attend, out_channels)
        self.attend_key, self.attend_fused = (nn.Identity(), attend_layer) if attend_fused else (attend_layer, nn.Identity())
        self.merge = ConvBNAct(2 * out_channels, out_channels, 1, act=None) if fusion == 'concat' else None
        self.act = nn.PReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.shared(x)
        key = shared
        if self.box is not None:
            left, top, right, bottom = self.box
            key = shared[:, :, top:bottom, left:right]
        whole, key = self.whole(shared), self.attend_key(self.key(key))
        fused = whole + key if self.merge is None else self.merge(torch.cat([whole, key], 1))
        return self.act(self.attend_fused(fused))


class LNRN(Backbone):
    """Four :class:`NewResidual` units, GDC, linear layer.

    Args:
        plan: ``S``, ``M``, ``L`` or five channel counts (shared map, four units).
        attention: of units 2 to 4: ``none``, ``se``, ``cam``, ``sam``, ``cbam`` or ``eca`` (which is not in the paper).
        box: key box ``(x0, y0, x1, y1)`` in a 112x112 face, 56 pixels a side; scaled to ``input_size``. None: no crop.
        attend_fused, fusion, pool: alternatives that the text leaves open; see :class:`NewResidual`.
        width: multiplies the plan's channels (``int(channels * width)``).
    """

    def __init__(self, plan: str | tuple[int, ...] = 'S', attention: str = 'cbam',
                 box: tuple[int, int, int, int] | None = KEY_BOX, attend_fused: bool = False, fusion: str = 'add',
                 pool: str = 'max', width: float = 1.0, num_features: int = 512, input_size: int | tuple[int, int] = 112,
                 dropout: float = 0.0, fp16: bool = False) -> None:
        super().__init__(num_features, input_size, fp16)
        if isinstance(plan, str):
            _check('plan', plan, PLANS)
        elif len(plan) != 5:
            raise ValueError(f'plan={tuple(plan)}: must be {", ".join(PLANS)} or five channel counts')
        _check('fusion', fusion, ('add', 'concat'))
        _check('pool', pool, POOLS)
        if any(side % 16 or not side for side in self.input_size):
            raise ValueError(f'input_size={self.input_size}: four halvings need multiples of 16')
        first, *channels = (scale_channels(c, width) for c in (PLANS[plan] if isinstance(plan, str) else plan))
        crop = None if box is None else scale_box(box, self.input_size)
        units = [NewResidual(3, first, channels[0], (1, 2 if crop is None else 1), crop, fusion=fusion, pool=pool)]
        units += [NewResidual(i, i, o, (2, 1), attend=attention, attend_fused=attend_fused, fusion=fusion, pool=pool)
                  for i, o in pairwise(channels)]
        size = (self.input_size[0] // 16, self.input_size[1] // 16)
        self.features = nn.Sequential(*units, GDC(channels[-1], size))
        self.head = embedding_head(channels[-1], num_features, dropout, bias=False)
        self.init_weights()


def scale_box(box: tuple[int, int, int, int], input_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A key box of a 112x112 face in an input of another size: half as wide and high as the input.

    Raises:
        ValueError: the box is not 56 pixels a side, or leaves the face.
    """
    left, top, right, bottom = box
    if right - left != 56 or bottom - top != 56 or left < 0 or top < 0 or right > 112 or bottom > 112:
        raise ValueError(f'box={tuple(box)}: the crop must be a 56-pixel square (x0, y0, x1, y1) inside a 112x112 face, as '
                         'large as the pooled map to which it is added')
    height, width = input_size
    left, top = round(left * width / 112), round(top * height / 112)
    return left, top, left + width // 2, top + height // 2


def _check(name: str, value, known) -> None:
    if value not in known:
        raise ValueError(f'{name}={value!r}: must be one of {", ".join(map(repr, known))}')


@register_backbone
def lnrn(**kwargs) -> LNRN:
    """LNRN (CBAM), the paper's final network: key box and attention; 1.57 M parameters at plan S."""
    return LNRN(**kwargs)


@register_backbone
def lnrn_1(**kwargs) -> LNRN:
    """LNRN-1 (Table 1): attention, but no key box."""
    return LNRN(box=None, **kwargs)


@register_backbone
def lnrn_2(**kwargs) -> LNRN:
    """LNRN-2 (Table 2): key box, but no attention; ``attention=`` adds SE, CAM, SAM or CBAM to it."""
    return LNRN(**{'attention': 'none', **kwargs})
