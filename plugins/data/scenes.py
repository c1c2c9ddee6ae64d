"""Training views for detectors: mosaics of randomly scaled, turned and mirrored pictures, blurred and recoloured.

In distillation the teacher sees the same view, and labels made on the untouched picture follow the geometry, so that strong
views only help (Beyer et al. 2022): small faces come from mosaics of up to 4x4 pictures, turned ones from rotation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from plugins.data.augment import Augment
from plugins.faces import Faces

__all__ = ['SceneAugment']


@dataclass(frozen=True)
class SceneAugment:
    """How views are made.

    Attributes:
        grid: probabilities of mosaics of 1x1, 2x2, 3x3, ... pictures.
        zoom: range of the scale at which a picture covers its cell (log-uniform); below 1 a border stays black.
        turn: probability of a rotation uniform within ``angle`` degrees; otherwise it is within 10 degrees.
        flip: probability of a mirror image.
        colour: probability of each of ``light`` and ``saturation`` of :class:`plugins.data.augment.Augment`, on the whole view;
            grey, lowres, blur, noise: those of the steps of that name.
        smallest: faces with a shorter mean side, in pixels, are no longer labelled.
        visible: faces of which less than this fraction is inside the cell are no longer labelled; the others' boxes are cut
            at its border, as annotators do.

    Raises:
        ValueError: a value out of its range; the message names it.
    """

    grid: tuple[float, ...] = (0.45, 0.3, 0.15, 0.1)
    zoom: tuple[float, float] = (0.8, 2.2)
    turn: float = 0.4
    angle: float = 45.0
    flip: float = 0.5
    colour: float = 0.5
    grey: float = 0.1
    lowres: float = 0.15
    blur: float = 0.15
    noise: float = 0.1
    smallest: float = 8.0
    visible: float = 0.6

    def __post_init__(self) -> None:
        if not all(0 <= p <= 1 for p in self.grid) or abs(sum(self.grid) - 1) > 1e-8:
            raise ValueError(f'augment.grid={self.grid}: must be probabilities that add up to 1')
        if len(self.zoom) != 2 or not 0 < self.zoom[0] <= self.zoom[1] < math.inf:
            raise ValueError(f'augment.zoom={self.zoom}: must be the lowest and the highest scale, above 0')
        for name in ('turn', 'flip', 'colour', 'grey', 'lowres', 'blur', 'noise', 'visible'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'augment.{name}={getattr(self, name)}: must be from 0 to 1')
        if not 0 <= self.angle <= 180:
            raise ValueError(f'augment.angle={self.angle}: must be from 0 to 180 degrees')
        if not 0 <= self.smallest < math.inf:
            raise ValueError(f'augment.smallest={self.smallest}: must be a number of pixels from 0')

    def __call__(self, size: int, load: Callable[[int], tuple[np.ndarray, Faces]], rng: np.random.Generator
                 ) -> tuple[np.ndarray, Faces]:
        """A view uint8 RGB ``(size, size, 3)`` and its faces.

        Args:
            load: gives a picture with a longest side of at least so many pixels, another one at every call.
        """
        cells = 1 + rng.choice(len(self.grid), p=self.grid)
        edges = np.linspace(0, size, cells + 1).astype(int)
        view, parts = np.zeros((size, size, 3), np.uint8), []
        for top, bottom in pairwise(edges):
            for left, right in pairwise(edges):
                cell, faces = self._cell(right - left, bottom - top, load, rng)
                view[top:bottom, left:right] = cell
                offset = np.float32([left, top])
                parts.append(Faces(faces.boxes + np.tile(offset, 2), faces.landmarks + offset, faces.scores))
        steps = Augment(flip=0, light=self.colour, saturation=self.colour, grey=self.grey, lowres=self.lowres, blur=self.blur,
                        noise=self.noise)
        return steps(view, rng), Faces.join(parts)

    def _cell(self, width: int, height: int, load, rng: np.random.Generator) -> tuple[np.ndarray, Faces]:
        zoom = np.exp(rng.uniform(*np.log(self.zoom)))
        picture, faces = load(int(zoom * max(width, height)))
        rows, columns = picture.shape[:2]
        scale = zoom * max(width / columns, height / rows)
        angle = rng.uniform(-self.angle, self.angle) if rng.random() < self.turn else rng.uniform(-10, 10)
        matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), angle, scale)
        if rng.random() < self.flip:
            matrix = matrix @ np.array([[-1, 0, columns - 1], [0, 1, 0], [0, 0, 1]])
        slack = np.abs(np.array([columns, rows]) * scale - (width, height)) / 2
        matrix[:, 2] += np.array([width - columns, height - rows]) / 2 + rng.uniform(-slack, slack)
        faces = faces.warped(matrix)
        inside = Faces(faces.boxes.clip(0, np.float32([width, height] * 2)), faces.landmarks, faces.scores)
        seen = inside.sides.prod(1) / faces.sides.prod(1).clip(min=1e-6)
        kept = (seen >= self.visible) & (faces.sides.mean(1) >= self.smallest)
        return cv2.warpAffine(picture, matrix, (width, height)), inside[kept]
