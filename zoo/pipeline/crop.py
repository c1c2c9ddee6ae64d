"""Pictures of persons to aligned crops, a folder at a time: what the makers of training and verification files start from."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from plugins.data.sources import TreeFaces
from plugins.faces import Faces
from plugins.files import write_atomic
from plugins.preprocess import FaceError, encode_image
from zoo.jetson.align import align
from zoo.jetson.decode import central_face
from zoo.pipeline.pictures import read_picture

__all__ = ['align_central', 'align_folder', 'central_landmarks']

REPORT = 'unaligned.csv'


def align_folder(source: TreeFaces, out: str | os.PathLike, detect: Callable[[np.ndarray], Faces], size: int = 112,
                 progress: Callable[[int], object] | None = None) -> tuple[int, list[tuple[str, str]]]:
    """Write the aligned crop of every picture's central face to ``out`` under the same name (as JPEG).

    Pictures without a face and damaged ones are left out and listed in ``out/unaligned.csv``; the others go on.

    Returns:
        The number of crops, and name and reason of each picture left out.

    Raises:
        FaceError: no picture gave a crop, or two would get the same name.
    """
    out, left_out = Path(out), []
    targets = [str(Path(name).with_suffix('.jpg')) for name in source.names]
    if len(set(targets)) < len(targets):
        double = next(name for name in targets if targets.count(name) > 1)
        raise FaceError(f'{source.root}: several pictures would become {double}; rename them')
    for name, target in zip(source.names, targets, strict=True):
        try:
            crop = align_central(read_picture(source.read_file(name)), detect, size)
            if crop is None:
                raise FaceError('no face found')
            write_atomic(out / target, encode_image(crop))
        except FaceError as error:
            left_out.append((name, str(error)))
        if progress:
            progress(1)
    if len(left_out) == len(targets):
        raise FaceError(f'{source.root}: none of {len(targets)} pictures gave a face; the first: {": ".join(left_out[0])}')
    (out / REPORT).unlink(missing_ok=True)  # of an earlier run
    if left_out:
        text = io.StringIO()
        csv.writer(text, lineterminator='\n').writerows([('file', 'reason'), *left_out])
        write_atomic(out / REPORT, text.getvalue())
    return len(targets) - len(left_out), left_out


def central_landmarks(faces: Faces, picture: np.ndarray) -> np.ndarray | None:
    """Landmarks ``(5, 2)`` of the face that a picture is of (:func:`zoo.jetson.decode.central_face`); None without a face."""
    return faces.landmarks[central_face(faces.boxes, picture.shape[:2])] if len(faces) else None


def align_central(picture: np.ndarray, detect: Callable[[np.ndarray], Faces], size: int = 112) -> np.ndarray | None:
    """The aligned crop of the face that a picture is of, both uint8 RGB; None without a face.

    Raises:
        FaceError: no crop can be made by its landmarks.
    """
    landmarks = central_landmarks(detect(picture), picture)
    try:
        return None if landmarks is None else align(picture, landmarks[None], size)[0]
    except ValueError as error:
        raise FaceError(str(error)) from None
