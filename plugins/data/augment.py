"""Augmentation of aligned uint8 RGB faces, each step with its probability; deterministic in the generator it is given.

``rotate``, ``light``, ``noise`` and ``occlude`` are those of the MobileFaceNet article (paper 002, part IV.2), the others ours.
All but the mirror are off by default because plain augmentation is known to hurt small nets on clean benchmarks. In
distillation the teacher sees the same augmented face ("function matching", Beyer et al. 2022), so there stronger views only
help.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ['Augment']


@dataclass(frozen=True)
class Augment:
    """Probabilities of each step, in the order in which they are applied; ``mixup`` comes before all of them.

    Attributes:
        flip: horizontal mirror.
        mixup: blend with another face, weight uniform in [0.3, 0.7] (the identity becomes unknown, unless both have the same).
        rotate: rotation within 15 degrees and scale 0.9 to 1.1.
        shift: by whole pixels, within 4 % of the side.
        light: brightness moved by up to 20 % of full scale, contrast about mid-grey by up to 20 % (the article: "+-0.2", not of
            what; torchvision's ``ColorJitter`` scales the brightness instead, which is milder).
        saturation: within 40 %.
        grey: drop the colour.
        lowres: down to 25-100 % of the side and back up, random interpolations (AdaFace's low-resolution augmentation, whose
            code goes down to 20 %).
        blur: Gaussian, sigma 0.5 to 2.
        noise: Gaussian, sigma 0.01 of full scale.
        occlude: a rectangle of 30 % of the crop's area filled with a random colour (the article: 30 % of the face's area).

    Raises:
        ValueError: a value that is not a probability.
    """

    flip: float = 0.5
    mixup: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    light: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    lowres: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    occlude: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f'augment.{name}={value} is not a probability')

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment one face uint8 RGB ``(H, W, 3)`` (all steps but ``mixup``, which needs a second face: :meth:`blend`)."""
        for step in (_flip, _rotate, _shift, _light, _saturation, _grey, _lowres, _blur, _noise, _occlude):
            if rng.random() < getattr(self, step.__name__[1:]):
                image = step(image, rng)
        return image

    @staticmethod
    def blend(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Weighted mean of two faces."""
        weight = rng.uniform(0.3, 0.7)
        return cv2.addWeighted(image, weight, other, 1 - weight, 0)


def _flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.flip(image, 1)


def _rotate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    angle, scale = rng.uniform(-15, 15), rng.uniform(0.9, 1.1)
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), angle, scale)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)


def _shift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    across, down = np.rint(rng.uniform(-0.04, 0.04, 2) * (width, height))
    return cv2.warpAffine(image, np.array([[1, 0, across], [0, 1, down]]), (width, height), flags=cv2.INTER_NEAREST)


def _light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    contrast = rng.uniform(0.8, 1.2)
    return cv2.addWeighted(image, contrast, image, 0, 255 * rng.uniform(-0.2, 0.2) + 127.5 * (1 - contrast))


def _saturation(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    saturation = rng.uniform(0.6, 1.4)
    return cv2.addWeighted(image, saturation, _grey(image, rng), 1 - saturation, 0)


def _grey(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _lowres(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    ratio = rng.uniform(0.25, 1.0)
    methods = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
    small = cv2.resize(image, (round(width * ratio), round(height * ratio)), interpolation=rng.choice(methods))
    return cv2.resize(small, (width, height), interpolation=rng.choice(methods))


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.0))


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(image.shape, np.float32)
    return cv2.addWeighted(image, 1, noise, 0.01 * 255, 0, dtype=cv2.CV_8U)


def _occlude(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    aspect = np.exp(rng.uniform(-0.5, 0.5))
    box_h = min(height, round(height * np.sqrt(0.3) * aspect))
    box_w = min(width, round(width * np.sqrt(0.3) / aspect))
    top, left = rng.integers(height - box_h + 1), rng.integers(width - box_w + 1)
    image = image.copy()
    image[top:top + box_h, left:left + box_w] = rng.integers(0, 256, 3)
    return image
