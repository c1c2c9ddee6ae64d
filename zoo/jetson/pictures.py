"""Pictures on the board, through OpenCV: read them, cut faces out of them."""

import re

import numpy as np

from .align import align
from .bundle import BundleError
from .decode import central_face

__all__ = ['central_crop', 'crop_faces', 'public_name', 'read_picture', 'require_opencv']


def require_opencv():
    """The cv2 module.

    Raises:
        BundleError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise BundleError('pictures need OpenCV (%s); JetPack has it: sudo apt install python3-opencv' % error) from None
    return cv2


def public_name(source):
    """What a camera or stream is called in messages, which land in logs: without the user and password of its address, and
    without a password that is given by name, in a query (``pwd=``) or to GStreamer (``user-pw=``)."""
    source = re.sub(r'(?<=://)[^/\s]+@', '...@', source)
    return re.sub(r'(?i)(pass(?:wd|word)?|pwd|user-pw)=[^&\s]+', r'\1=...', source)


def read_picture(path):
    """A picture file as uint8 RGB ``(H, W, 3)``, upright.

    Raises:
        BundleError: it is missing or not a picture.
    """
    cv2 = require_opencv()
    try:
        with open(path, 'rb') as file:  # by Python: OpenCV cannot open every name that Python can
            data = np.frombuffer(file.read(), np.uint8)
    except OSError as error:
        raise BundleError('%s: %s' % (path, error.strerror)) from None
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error as error:  # more pixels than OpenCV takes
        raise BundleError('%s: refused by OpenCV (%s)' % (path, error.err)) from None
    if picture is None:
        raise BundleError('%s: not an image' % path)
    return np.ascontiguousarray(picture[..., ::-1])


def crop_faces(picture, landmarks, size):
    """Aligned crops uint8 ``(C, size, size, 3)`` of the faces with ``landmarks``, and the rows of these; points that span no
    face are left out."""
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
