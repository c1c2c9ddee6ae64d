"""The whole chain on a verification set of pictures as a camera gives them: a detector aligns them first."""

from __future__ import annotations

import numpy as np

from plugins.data.sources import MemoryFaces
from plugins.preprocess import FaceError, encode_image
from zoo.evaluate.verification import VerificationSet
from zoo.pipeline.crop import align_central
from zoo.pipeline.pictures import read_picture
from zoo.progress import progress_bar
from zoo.runtime.detector import Detector

__all__ = ['align_set']


def align_set(data: VerificationSet, detector: Detector, size: int = 112, progress: bool = False
              ) -> tuple[VerificationSet, list[str]]:
    """The set with the aligned crop of each picture's central face, held in memory (as PNG, some 20 kB each).

    A picture in which no face is found becomes a black crop, which is like nobody else: a system that sees no face names
    nobody. (Two of them are alike, though.)

    Args:
        size: side of the crops, the recogniser's input size.

    Returns:
        The set, and the names of the pictures without a face.

    Raises:
        FaceError: a picture is damaged, or none has a face; the message names it.
    """
    crops, missed = [], []
    with progress_bar(len(data.faces), 'pictures', 'align', enabled=progress) as bar:
        for index in range(len(data.faces)):
            name = data.faces.name(index)
            try:
                crop = align_central(read_picture(data.faces.read(index)[0]), detector, size)
            except FaceError as error:
                raise FaceError(f'{name}: {str(error).removeprefix("picture: ")}') from None
            if crop is None:
                missed.append(name)
                crop = np.zeros((size, size, 3), np.uint8)
            crops.append(encode_image(crop, '.png'))
            bar.update(1)
    if len(missed) == len(crops):
        raise FaceError(f'{data.name}: {detector.name} found a face in none of {len(crops)} pictures')
    return VerificationSet(data.name, MemoryFaces(crops, data.name), data.pairs, data.same), missed
