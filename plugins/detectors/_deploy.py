"""A detector as it is handed out: InsightFace's output contract, computed exactly from the anchors' parametrisation.

For each map (stride ``s``) three outputs: scores after the sigmoid, distances left, top, right, bottom and five landmark
offsets, the latter two in units of ``s`` from the cell's corner ``(x s, y s)``; rows in the order y, x, anchor. From
RetinaFace's own offsets ``d`` and anchor side ``m`` (variances 0.1 and 0.2): centre ``c = 0.5 + 0.1 m / s d``, half side ``h
= m / (2 s) exp(0.2 d)``, distances ``h - c`` and ``h + c``; landmarks ``0.5 + 0.1 m / s d``; score ``sigmoid(face -
background)``. All but the exponential is affine and is folded into the last convolutions.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from plugins.detectors._base import Detector
from plugins.detectors.anchors import LANDMARKS, VARIANCE
from plugins.preprocess import PictureNorm

__all__ = ['DeployedDetector']


class DeployedDetector(nn.Module):
    """``detector`` with the outputs of the contract: scores of every map, then boxes, then landmarks.

    Input: float32 ``(N, 3, H, W)`` RGB ``(x - 127.5) / 128``, whatever the detector was trained on.
    Output: ``(N K, 1)``, ``(N K, 4)`` and ``(N K, 10)`` a map, or with ``rows=False`` the maps ``(N, A * C, H/s, W/s)``
        themselves.
    """

    def __init__(self, detector: Detector, rows: bool = True) -> None:
        super().__init__()
        self.detector, self.rows = copy.deepcopy(detector).eval(), rows
        self.input_size = detector.input_size
        self.distances = nn.ModuleList()
        heads = self.detector.heads
        for level, (stride, sizes) in enumerate(zip(detector.anchors.strides, detector.anchors.sizes, strict=True)):
            _fold_scores(_last(heads.scores, level))
            _fold_boxes(_last(heads.boxes, level), stride, sizes)
            self.distances.append(_Distances(len(sizes)))
            _fold_landmarks(_last(heads.landmarks, level), stride, sizes)
        self.register_buffer('shift', None)
        if detector.preprocess != PictureNorm():
            self._fold_norm(detector.preprocess)
        self.to(next(self.detector.parameters()).device)

    def _fold_norm(self, norm: PictureNorm) -> None:
        """Scale and channel order go into the first convolution; the shift stays in front of it, because its zero padding
        stands for the *detector's* zero."""
        first = next(m for m in self.detector.modules() if isinstance(m, nn.Conv2d))
        with torch.no_grad():
            if norm.colour == 'BGR':
                first.weight.copy_(first.weight.flip(1))
            first.weight.mul_(PictureNorm().std / norm.std)
        shift = (torch.tensor(norm.mean) - torch.tensor(PictureNorm().mean)) / PictureNorm().std
        self.shift = shift.reshape(1, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.shift is not None:
            x = x - self.shift
        maps = self.detector.extract(x)
        heads = self.detector.heads
        scores = [torch.sigmoid(conv(m)) for conv, m in zip(heads.scores, maps, strict=True)]
        boxes = [distances(conv(m)) for distances, conv, m in zip(self.distances, heads.boxes, maps, strict=True)]
        landmarks = [conv(m) for conv, m in zip(heads.landmarks, maps, strict=True)]
        if self.rows:
            scores, boxes, landmarks = ([m.permute(0, 2, 3, 1).reshape(-1, size) for m in part]
                                        for size, part in ((1, scores), (4, boxes), (2 * LANDMARKS, landmarks)))
        return (*scores, *boxes, *landmarks)


def _last(heads: nn.ModuleList, level: int) -> nn.Conv2d:
    """The last convolution of a head; it may be changed, the detector is a copy."""
    return [m for m in heads[level].modules() if isinstance(m, nn.Conv2d)][-1]


@torch.no_grad()
def _fold_scores(conv: nn.Conv2d) -> None:
    """Two logits an anchor to their difference: a softmax of two is a sigmoid."""
    conv.weight = nn.Parameter(conv.weight[1::2] - conv.weight[0::2])
    conv.bias = nn.Parameter(conv.bias[1::2] - conv.bias[0::2])
    conv.out_channels = len(conv.weight)


@torch.no_grad()
def _fold_boxes(conv: nn.Conv2d, stride: int, sizes: tuple[int, ...]) -> None:
    """Channels become centre x, y of every anchor in strides, then the logarithms of half widths and heights in strides."""
    scale = torch.tensor([[VARIANCE[0] * m / stride] * 2 + [VARIANCE[1]] * 2 for m in sizes]).flatten()
    shift = torch.tensor([[0.5, 0.5] + [math.log(m / (2 * stride))] * 2 for m in sizes]).flatten()
    _scale(conv, scale, shift)
    order = torch.arange(len(scale)).reshape(-1, 2, 2).transpose(0, 1).flatten()
    conv.weight.copy_(conv.weight[order])
    conv.bias.copy_(conv.bias[order])


@torch.no_grad()
def _fold_landmarks(conv: nn.Conv2d, stride: int, sizes: tuple[int, ...]) -> None:
    scale = torch.tensor([[VARIANCE[0] * m / stride] * 2 * LANDMARKS for m in sizes]).flatten()
    _scale(conv, scale, torch.full_like(scale, 0.5))


def _scale(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    scale, shift = scale.to(conv.weight), shift.to(conv.weight)
    conv.weight.mul_(scale.reshape(-1, 1, 1, 1))
    conv.bias.mul_(scale).add_(shift)


class _Distances(nn.Module):
    """Centres and logarithms of half sides, ``(N, 2A + 2A, H, W)``, to distances left, top, right, bottom of each anchor.

    Sums and differences are a 1x1 convolution with weights 1 and -1, exact in floating point: unlike a reshape to five
    dimensions, every runtime takes it, at any picture size.
    """

    def __init__(self, anchors: int) -> None:
        super().__init__()
        self.half = 2 * anchors
        self.mix = nn.Conv2d(2 * self.half, 2 * self.half, 1, bias=False)
        axes = torch.eye(self.half).reshape(anchors, 2, self.half)
        rows = torch.cat([torch.cat([-axes, axes], 2), torch.cat([axes, axes], 2)], 1)  # half - centre, half + centre
        self.mix.weight = nn.Parameter(rows.reshape(2 * self.half, 2 * self.half, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([x[:, :self.half], torch.exp(x[:, self.half:])], 1))
