"""The sample picture of the demo and of parity checks: the group photo that the ``insightface`` package ships."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np

from plugins.extras import MissingExtra
from plugins.files import sha256_file
from zoo.jetson.align import align
from zoo.pipeline.pictures import read_picture

__all__ = ['sample_crops', 'sample_image', 'sample_landmarks']

_FACTS = Path(__file__).with_name('sample.json')


def sample_image() -> Path:
    """Path of the group photo (six faces, 1280x886).

    Raises:
        MissingExtra: the insightface package is not installed, or ships another picture.
    """
    facts = json.loads(_FACTS.read_text())
    package = importlib.util.find_spec('insightface')
    path = Path(package.origin).parents[1] / facts['image'] if package else None
    if path is None or not path.is_file():
        raise MissingExtra("the sample picture comes with the insightface package: pip install 'facezoo[insightface]', "
                           'or name pictures of your own')
    if sha256_file(path) != facts['sha256']:
        raise MissingExtra(f'{path} is not the picture whose landmarks facezoo knows; name pictures of your own')
    return path


def sample_crops(size: int = 112) -> np.ndarray:
    """The six aligned faces of :func:`sample_image` by known landmarks, uint8 RGB ``(6, size, size, 3)``, left to right."""
    return align(read_picture(sample_image()), sample_landmarks(), size)


def sample_landmarks() -> np.ndarray:
    """Where they are in the photo: float64 ``(6, 5, 2)``, left to right; see :class:`plugins.faces.Faces`."""
    return np.array(json.loads(_FACTS.read_text())['landmarks'])
