"""What a student sees of a face that its teacher sees clean: low resolution, and an alignment as detectors make it.

Low resolution is paper 003's (bicubic down by 2, 4 or 8 and Gaussian blur) or that of A-SKD's public code.

Paper 003 leaves order, sigma and the way back up open. Here: bicubic down, bicubic up to the old size, then blur, with sigma
uniform in (0.1, 2.0) pixels. Bicubic is OpenCV's, which looks at four pixels a side whatever the factor, as PyTorch's does:
details alias. Pillow's and MATLAB's smooth first, so figures on faces made small with them do not compare.
``variant='askd'`` is what A-SKD's code does (gist-ailab/teaching-where-to-look, utility/noise.py): nearest down, nearest up,
and one fixed 5x5 Gaussian with sigma 0.1 across and 2.0 down the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from plugins.preprocess import FaceError

__all__ = ['Degrade', 'degrade', 'misalign']

# of the five points of ArcFace's template at 112 pixels: their mean, and the root of the summed squared distances from it
_CENTRE, _SPREAD = (56.03, 71.90), 52.0
_KERNELS = {'bicubic': cv2.INTER_CUBIC, 'askd': cv2.INTER_NEAREST}


def degrade(image: np.ndarray, factor: int, sigma: float, variant: str = 'bicubic') -> np.ndarray:
    """One degraded face of the same size; ``factor`` 1 changes nothing (x1 of the paper's tables).

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        factor: of down-sampling; need not divide a side (the small side is rounded).
        sigma: of the Gaussian blur in pixels of the original size; ``askd`` has its own.
        variant: ``bicubic`` or ``askd``.

    Raises:
        FaceError: not even 2x2 pixels would be left of the image.
        ValueError: ``factor`` is not a whole number from 1, or ``sigma`` not a positive one.
    """
    if not 1 <= factor < math.inf or int(factor) != factor:  # nor is NaN
        raise ValueError(f'factor={factor}: must be a whole number from 1')
    if variant != 'askd' and not 0 < sigma < math.inf:
        raise ValueError(f'sigma={sigma}: must be a positive number of pixels')
    if factor == 1:
        return image
    height, width = image.shape[:2]
    small, kernel = _small(width, height, factor), _KERNELS[variant]
    image = cv2.resize(cv2.resize(image, small, interpolation=kernel), (width, height), interpolation=kernel)
    if variant == 'askd':
        return cv2.GaussianBlur(image, (5, 5), sigmaX=0.1, sigmaY=2.0)
    return cv2.GaussianBlur(image, (0, 0), sigma)


def _small(width: int, height: int, factor: int) -> tuple[int, int]:
    """Sides of a face made so many times smaller.

    Raises:
        FaceError: not even 2x2 pixels are left.
    """
    small = round(width / factor), round(height / factor)
    if min(small) < 2:
        raise FaceError(f'a face of {width}x{height} pixels cannot be made {factor} times smaller')
    return small


def misalign(image: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    """The crop that five landmarks with an error give: shifted, turned and scaled a little, black beyond the edge.

    A least-squares similarity over five points, each coordinate off by ``error``, is off by error/sqrt(5) in the mean of the
    points and by error/spread in angle (radians) and scale.

    Args:
        image: aligned uint8 RGB ``(S, S, 3)``.
        error: standard deviation, in pixels of a crop of 112.
    """
    size = len(image)
    centre = np.array(_CENTRE) * size / 112
    scale, angle = rng.normal((1, 0), error / _SPREAD)
    shift = rng.normal(0, error / np.sqrt(5) * size / 112, 2)
    linear = np.array([[scale, -angle], [angle, scale]])
    return cv2.warpAffine(image, np.hstack([linear, (centre + shift - linear @ centre)[:, None]]), (size, size))


@dataclass(frozen=True)
class Degrade:
    """Random degradation for training.

    Attributes:
        factors: one is drawn for each face; 1 leaves it as it is.
        p: probability of a lower resolution.
        variant: ``bicubic`` or ``askd``.
        landmarks: error of the alignment, see :func:`misalign`; the two detectors measured here differ by 1.24.

    Raises:
        ValueError: a value out of its range; the message names it.
    """

    factors: tuple[int, ...] = (2, 4, 8)
    p: float = 1.0
    variant: str = 'bicubic'
    landmarks: float = 0.0

    def __post_init__(self) -> None:
        if not self.factors or any(not 1 <= f < math.inf or int(f) != f for f in self.factors):
            raise ValueError(f'degrade.factors={self.factors!r}: must be whole numbers from 1')
        if not 0 <= self.p <= 1:
            raise ValueError(f'degrade.p={self.p} is not a probability')
        if self.variant not in _KERNELS:
            raise ValueError(f'degrade.variant={self.variant!r}: must be one of {", ".join(_KERNELS)}')
        if not 0 <= self.landmarks <= 10:
            raise ValueError(f'degrade.landmarks={self.landmarks}: must be from 0 to 10 pixels')

    def check(self, size: int) -> None:
        """Refuse factors for which crops of so many pixels are too small: said now, and not when one is drawn.

        Raises:
            FaceError: as :func:`degrade`.
        """
        try:
            _small(size, size, max(self.factors))
        except FaceError as error:
            raise FaceError(f'degrade.factors={self.factors!r}: {error}') from None

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.landmarks:
            image = misalign(image, self.landmarks, rng)
        if rng.random() >= self.p:
            return image
        return degrade(image, int(rng.choice(self.factors)), rng.uniform(0.1, 2.0), self.variant)
