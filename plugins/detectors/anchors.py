"""Prior boxes of RetinaFace and SSD, and how boxes and landmarks are written relative to them.

Source: Pytorch_Retinaface (Deng et al. 2020, arXiv 1905.00641; SSD, Liu et al. 2016). Prior boxes are squares centred in the
    cells of each feature map; ``encode`` and ``decode`` use variances 0.1 (centre, landmarks) and 0.2 (log of the size). All
    coordinates are pixels of the network's input, boxes are corners ``x1, y1, x2, y2``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ['Anchors', 'box_iou', 'corners', 'decode', 'encode', 'match']

VARIANCE = (0.1, 0.2)
LANDMARKS = 5
MATCH, LEAST = 0.35, 0.2  # overlaps of :func:`match`


@dataclass(frozen=True)
class Anchors:
    """The prior boxes of a detector.

    Attributes:
        strides: of its feature maps, in pixels.
        sizes: sides of the square prior boxes of every cell, a tuple a feature map.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    sizes: tuple[tuple[int, ...], ...] = ((16, 32), (64, 128), (256, 512))

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Number of prior boxes in a cell of each map."""
        return tuple(map(len, self.sizes))

    def priors(self, height: int, width: int) -> Tensor:
        """Centres and sides, float32 ``(K, 3)``: ``cx, cy, size`` in the order map, y, x, prior box.

        Raises:
            ValueError: height or width is not a multiple of the largest stride.
        """
        if height % self.strides[-1] or width % self.strides[-1]:
            raise ValueError(f'{height}x{width}: a detector takes sides that are multiples of {self.strides[-1]}')
        return _priors(self, height, width)


@lru_cache(maxsize=32)
def _priors(anchors: Anchors, height: int, width: int) -> Tensor:
    maps = []
    for stride, sizes in zip(anchors.strides, anchors.sizes, strict=True):
        rows, columns = height // stride, width // stride
        y, x, size = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5,
                                    torch.tensor(sizes, dtype=torch.float32), indexing='ij')
        maps.append(torch.stack([x * stride, y * stride, size], -1).reshape(-1, 3))
    return torch.cat(maps)


def corners(priors: Tensor) -> Tensor:
    """Centres and sides ``(K, 3)`` as boxes ``(K, 4)``."""
    half = priors[:, 2:] / 2
    return torch.cat([priors[:, :2] - half, priors[:, :2] + half], 1)


def encode(boxes: Tensor, landmarks: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Regression targets ``(K, 4)`` and ``(K, 10)`` of one box ``(K, 4)`` and five points ``(K, 5, 2)`` for each prior ``(K,
    3)``."""
    centre, size = priors[:, :2], priors[:, 2:]
    offset = ((boxes[:, :2] + boxes[:, 2:]) / 2 - centre) / (VARIANCE[0] * size)
    scale = ((boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3) / size).log() / VARIANCE[1]
    points = (landmarks - centre[:, None]) / (VARIANCE[0] * size[:, None])
    return torch.cat([offset, scale], 1), points.flatten(1)


def decode(boxes: Tensor, landmarks: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`encode` for predictions ``(..., K, 4)`` and ``(..., K, 10)``: corners and ``(..., K, 5, 2)``
    points."""
    centre, size = priors[:, :2], priors[:, 2:]
    middle = centre + boxes[..., :2] * VARIANCE[0] * size
    half = size * torch.exp(boxes[..., 2:] * VARIANCE[1]) / 2
    points = centre[:, None] + landmarks.unflatten(-1, (LANDMARKS, 2)) * VARIANCE[0] * size[:, None]
    return torch.cat([middle - half, middle + half], -1), points


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``(N, M)`` of corner boxes ``(N, 4)`` and ``(M, 4)``."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    inner = (high - low).clamp(min=0).prod(2)
    area_first, area_second = ((b[:, 2:] - b[:, :2]).prod(1) for b in (first, second))
    return inner / (area_first[:, None] + area_second[None] - inner).clamp(min=1e-9)


def match(boxes: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Which box each prior is responsible for (SSD's rule).

    A prior takes the box that it overlaps most when the overlap is at least 0.35; every box keeps its best prior when theirs is
    at least 0.2.

    Args:
        boxes: corners ``(M, 4)``.

    Returns:
        int64 ``(K,)`` index of the box or -1, and float ``(K,)`` overlap with the best box (0 without boxes; 0.35 where a
            box keeps a prior that it overlaps less).
    """
    none = torch.full((len(priors),), -1)
    if not len(boxes):
        return none, torch.zeros(len(priors))
    overlap = box_iou(boxes, corners(priors))
    best, owner = overlap.max(0)
    matched = torch.where(best >= MATCH, owner, none)
    kept, prior = overlap.max(1)
    for box in torch.nonzero(kept >= LEAST).flatten().tolist():
        matched[prior[box]] = box
        best[prior[box]] = max(float(best[prior[box]]), MATCH)
    return matched, best
