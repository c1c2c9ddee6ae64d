"""Pictures on the board, through OpenCV: read them, cut faces out of them."""

import os

import cv2
import numpy as np

from .align import align
from .bundle import BundleError
from .decode import central_face

__all__ = ['central_crop', 'crop_faces', 'read_picture']


def read_picture(path):
    """A picture file as uint8 RGB ``(H, W, 3)``, upright.

    Raises:
        BundleError: it is missing or not a picture.
    """
    picture = cv2.imread(path)
    if picture is None:
        raise BundleError('%s: %s' % (path, 'not an image' if os.path.isfile(path) else 'no such file'))
    return np.ascontiguousarray(picture[..., ::-1])


def crop_faces(picture, landmarks, size):
    """Aligned crops uint8 ``(C, size, size, 3)`` of the faces with ``landmarks``, and their rows; points that span no face have
    none."""
    crops, rows = [np.empty((0, size, size, 3), np.uint8)], []
    for row, points in enumerate(landmarks):
        try:
            crops.append(align(picture, points[None], size))
            rows.append(row)
        except ValueError:
            continue
    return np.concatenate(crops), rows


def central_crop(picture, detector, size, name):
    """The aligned face that a picture is of, uint8 ``(size, size, 3)``.

    Raises:
        BundleError: no face was found; ``name`` is in the message.
    """
    boxes, landmarks, _ = detector(picture)
    crops = crop_faces(picture, landmarks[[central_face(boxes, picture.shape)]], size)[0] if len(boxes) else ()
    if not len(crops):
        raise BundleError('%s: no face found' % name)
    return crops[0]
