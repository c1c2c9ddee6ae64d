"""What all detectors share: the contract, the shape of their outputs and the preprocessing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plugins.detectors.anchors import LANDMARKS, Anchors
from plugins.layers import autocast
from plugins.preprocess import PictureNorm

__all__ = ['Detector', 'Heads']


class Heads(nn.Module):
    """Three convolutions a feature map: two class logits (background, face), four box and ten landmark offsets an anchor.

    Args:
        channels: of each feature map.
        per_cell: anchors in a cell of each map.
        make: ``make(in_channels, out_channels)`` builds one convolution.
    """

    SIZES = (2, 4, 2 * LANDMARKS)

    def __init__(self, channels: tuple[int, ...], per_cell: tuple[int, ...], make) -> None:
        super().__init__()
        self.scores, self.boxes, self.landmarks = (
            nn.ModuleList(make(c, a * size) for c, a in zip(channels, per_cell, strict=True)) for size in self.SIZES)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Feature maps to ``(N, K, 2)``, ``(N, K, 4)`` and ``(N, K, 10)``."""
        return tuple(torch.cat([conv(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, size)
                                for conv, x in zip(convs, maps, strict=True)], 1)
                     for size, convs in zip(self.SIZES, (self.scores, self.boxes, self.landmarks), strict=True))


class Detector(nn.Module):
    """Picture to faces; sub-classes define ``extract(x) -> feature maps`` and call ``super().__init__`` first.

    Input: float32 ``(N, 3, H, W)``, normalised by ``preprocess``, sides multiples of the largest stride.
    Output: class logits ``(N, K, 2)`` (background, face), boxes ``(N, K, 4)`` and landmarks ``(N, K, 10)`` relative to the
        ``K`` anchors, in the order map, y, x, anchor; :func:`plugins.detectors.anchors.decode` turns them into pixels.
    Landmarks: left eye, right eye, nose, left and right mouth corner, image-left first.
    """

    heads: Heads

    def __init__(self, anchors: Anchors, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.anchors = anchors
        self.input_size = input_size  # for counting only: every multiple of the largest stride can be fed
        self.preprocess = PictureNorm()

    def extract(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def adopt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``state`` under this network's own names, where it comes in another project's layout that the network knows;
        ``preprocess`` is then set to match."""
        return state

    @torch.no_grad()
    def renormalise(self, norm: PictureNorm) -> None:
        """Make the network eat pictures normalised by ``norm``: worked into its first convolution and the BatchNorm behind it.

        Exact but at the border of the picture, where the convolution's zero padding now stands for another colour.
        """
        old, self.preprocess = self.preprocess, norm
        conv = next(m for m in self.modules() if isinstance(m, nn.Conv2d))
        batch_norm = next(m for m in self.modules() if isinstance(m, nn.BatchNorm2d))
        if old.colour != norm.colour:
            conv.weight.copy_(conv.weight.flip(1))
        shift = (torch.tensor(norm.mean) - torch.tensor(old.mean)) / old.std
        shift = shift if norm.colour == 'RGB' else shift.flip(0)
        batch_norm.running_mean.sub_((conv.weight * shift.reshape(1, 3, 1, 1)).sum((1, 2, 3)))
        conv.weight.mul_(norm.std / old.std)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.extract(x)
        dtype = next(self.heads.parameters()).dtype  # another after .half() and .double()
        with autocast(x, enabled=False):  # offsets of a tenth of a pixel need float32
            return self.heads([m.to(dtype) for m in maps])
