"""Verification at low resolution: accuracy at x1, x2, x4, x8 as in paper 003's tables 1 to 4, on any verification set.

Deviation: the paper does not print its blur; here sigma is fixed (1 pixel of the 112 by default), so that a figure can be
repeated. Which bicubic it is matters, too: see :mod:`plugins.data.degrade`.
"""

from __future__ import annotations

import os

import numpy as np

from plugins.data.degrade import degrade
from plugins.data.sources import FaceSource, SubsetFaces
from plugins.preprocess import decode_image, encode_image
from zoo.evaluate.verification import VerificationResult, VerificationSet, load_verification_set, verify
from zoo.runtime.embedder import Embedder

__all__ = ['FACTORS', 'DegradedFaces', 'degrade_set', 'verify_lowres']

FACTORS = (1, 2, 4, 8)


class DegradedFaces:
    """A source's faces, followed by the same faces degraded (index ``i`` and ``len(source) + i``)."""

    def __init__(self, source: FaceSource, factor: int, sigma: float) -> None:
        self.source, self.factor, self.sigma, self.num_classes = source, factor, sigma, source.num_classes

    def __len__(self) -> int:
        return 2 * len(self.source)

    def read(self, index: int) -> tuple[bytes, int]:
        data, label = self.source.read(index % len(self.source))
        if index < len(self.source):
            return data, label
        image = degrade(decode_image(data, self.name(index)), self.factor, self.sigma)
        return encode_image(image, '.png'), label  # lossless: only the degradation is measured

    def name(self, index: int) -> str:
        return self.source.name(index % len(self.source))


def degrade_set(data: VerificationSet, factor: int, sigma: float = 1.0, both: bool = True) -> VerificationSet:
    """A verification set with both images of each pair degraded, or only the second (a clear gallery, a poor probe)."""
    shift = len(data.faces) * np.array([both, True])
    pairs = data.pairs + shift if factor > 1 else data.pairs
    used, compact = np.unique(pairs, return_inverse=True)
    return VerificationSet(f'{data.name} x{factor}', SubsetFaces(DegradedFaces(data.faces, factor, sigma), used),
                           compact.reshape(-1, 2), data.same)


def verify_lowres(embedder: Embedder, data: VerificationSet | str | os.PathLike, factors: tuple[int, ...] = FACTORS,
                  sigma: float = 1.0, both: bool = True, flip: bool = True, progress: bool = False
                  ) -> dict[int, VerificationResult]:
    """Verification results by degradation factor; see :func:`zoo.evaluate.verification.verify`."""
    if not isinstance(data, VerificationSet):
        data = load_verification_set(data)
    return {factor: verify(embedder, degrade_set(data, factor, sigma, both), flip, progress=progress) for factor in factors}
